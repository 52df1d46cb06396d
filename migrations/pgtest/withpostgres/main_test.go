package main

import "testing"

func TestCommandFindsTheServerAndItsExitCodeIsKept(t *testing.T) {
	t.Parallel()
	for script, want := range map[string]int{
		`[ -n "$ODOMETER_TEST_DATABASE_URL" ]`: 0,
		"exit 3":                               3,
		"kill -9 $$":                           1,
	} {
		if code, err := run([]string{"sh", "-c", script}); code != want || err != nil {
			t.Errorf("%s: exit code %d, %v; want %d", script, code, err, want)
		}
	}
	if code, err := run([]string{"./no-such-program"}); err == nil {
		t.Errorf("a program that does not exist: exit code %d and no error", code)
	}
}

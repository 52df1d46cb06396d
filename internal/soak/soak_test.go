package soak

import "testing"

func TestRoundsFollowTheEnvironment(t *testing.T) {
	t.Setenv(Env, "")
	want := 5
	if testing.Short() {
		want = 2
	}
	if n := Rounds(t, 2, 5); n != want {
		t.Errorf("%d rounds, want %d", n, want)
	}
	t.Setenv(Env, "20")
	if n := Rounds(t, 2, 5); n != 100 {
		t.Errorf("%d rounds with %s=20, want 100", n, Env)
	}
}

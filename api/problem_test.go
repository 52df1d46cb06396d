package api

import "testing"

func TestOutagesAreDistinguishedFromOtherErrors(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]bool{
		"57P01": true, "57014": true, "08006": true, "53300": true, "3D000": true,
		"42P01": false, "22012": false, "XX000": false, "": false,
	} {
		if outage(code) != want {
			t.Errorf("%q: %v", code, !want)
		}
	}
}

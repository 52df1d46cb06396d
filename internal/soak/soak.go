// Package soak says how often a randomized test repeats. `go test` runs few
// rounds, which find what breaks often; `make soak` runs many, which find what
// breaks rarely; `go test -short` runs the fewest. No round is left out
// altogether.
package soak

import (
	"os"
	"strconv"
	"testing"
)

// Env names the environment variable by which the usual number of rounds is
// multiplied, such as 20.
const Env = "ODOMETER_SOAK"

// Rounds returns how many rounds to run: short of them with -short, otherwise
// usual times the factor that [Env] names, if any.
func Rounds(t testing.TB, short, usual int) int {
	t.Helper()
	if given := os.Getenv(Env); given != "" {
		factor, err := strconv.Atoi(given)
		if err != nil || factor < 1 {
			t.Fatalf("%s=%s: want a whole number of at least 1", Env, given)
		}
		return usual * factor
	}
	if testing.Short() {
		return short
	}
	return usual
}

package aggregator

import (
	"flag"
	"testing"

	"odometer/migrations/pgtest"
)

func TestMain(m *testing.M) {
	// These tests wait more than they compute, so more of them than there are
	// cores may run at once. -parallel on the command line still wins.
	_ = flag.Set("test.parallel", "8")
	pgtest.Main(m)
}

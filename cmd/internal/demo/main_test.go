package demo

import (
	"testing"

	"odometer/migrations/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

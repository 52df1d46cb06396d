package reporter

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"odometer/internal/soak"
)

// The property is tried in several simulations of this many tenants each, each of
// which has a schedule of its own. The tenants of a simulation share its clock and
// its passes.
const (
	propertyTenants = 500
	propertySteps   = 8
)

// seedEnv names the environment variable that repeats a run. One of its simulations
// alone is repeated by -run 'TestAnyScheduleEndsInTheRightInvoice/^7$'.
const seedEnv = "ODOMETER_PROPERTY_SEED"

// TestAnyScheduleEndsInTheRightInvoice runs random interleavings of usage,
// corrections, plan changes, passes, crashes, lost answers, hours and days,
// verifications, closes and finalizations, and checks after each step that
// no customer is billed more than was ever true; and at the end, that each is
// billed what was used.
func TestAnyScheduleEndsInTheRightInvoice(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	if given := os.Getenv(seedEnv); given != "" {
		n, err := strconv.ParseUint(given, 10, 64)
		if err != nil {
			t.Fatalf("%s=%s: %v", seedEnv, given, err)
		}
		seed = n
	}
	simulations := soak.Rounds(t, 1, 5)
	t.Logf("seed %d: %d simulations of %d tenants, %d steps each; repeat by %s=%d",
		seed, simulations, propertyTenants, propertySteps, seedEnv, seed)
	for i := range simulations {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			t.Parallel()
			s := newSimulation(t, seed+uint64(i), propertyTenants)
			s.run(propertySteps)
			if t.Failed() {
				t.Logf("repeat by %s=%d go test ./reporter -run '%s'", seedEnv, seed, "TestAnyScheduleEndsInTheRightInvoice/^"+strconv.Itoa(i)+"$")
			}
		})
	}
}

// run makes the steps, and then some days without faults.
func (s *simulation) run(steps int) {
	for s.step = 1; s.step <= steps && !s.t.Failed(); s.step++ {
		s.tenantsAct()
		s.letTimePass()
		s.globalStep()
		s.checkInvariants()
	}
	if s.t.Failed() {
		return
	}
	s.runWithoutFaults()
	s.checkFinalState()
}

// letTimePass moves the clock by minutes, hours or days, or into the hour in
// which the invoices of periods that have just ended are drafts.
func (s *simulation) letTimePass() {
	switch n := s.rng.IntN(100); {
	case n < 20:
		s.advance(time.Duration(1+s.rng.IntN(20)) * time.Minute)
	case n < 45:
		s.set(s.nextEnd().Add(time.Duration(16+s.rng.IntN(40)) * time.Minute))
	case n < 70:
		s.advance(time.Duration(1+s.rng.IntN(8)) * time.Hour)
	case n < 90:
		s.advance(time.Duration(20+s.rng.IntN(11)) * time.Hour)
	default:
		s.advance(time.Duration(48+s.rng.IntN(72)) * time.Hour)
	}
	s.rollOver()
	if s.rng.IntN(100) < 70 {
		s.closePeriods()
	}
}

// globalStep is what happens to all tenants at once.
func (s *simulation) globalStep() {
	switch n := s.rng.IntN(100); {
	case n < 10:
		s.verifyOnce()
	case n < 25:
		s.passOnce(Scope{Due: true})
	case n < 55:
		s.passOnce(Scope{})
	default:
		s.passOnce(Scope{ByHand: true})
	}
}

// passOnce makes a pass with random faults, by a process that may die.
func (s *simulation) passOnce(scope Scope) {
	s.faults = s.drawFaults()
	s.note("at %s: pass %+v in %+v", s.time().Format(time.DateTime), scope, s.faults)
	ctx, cancel := context.WithCancel(s.t.Context())
	defer cancel()
	s.begin(cancel)
	_, err := s.Pass(ctx, scope)
	died := ctx.Err() != nil
	switch {
	case err == nil, errors.Is(err, ErrUnreachable), died && errors.Is(err, context.Canceled):
	case errors.Is(err, ErrRestored), errors.Is(err, ErrMixed), errors.Is(err, ErrKeyRefused), s.faults.everyRequest == 0:
		s.t.Errorf("step %d: pass: %v", s.step, err)
	}
	if died || s.rng.IntN(4) == 0 {
		s.restart()
	}
}

func (s *simulation) verifyOnce() {
	s.faults = faultPlan{}
	s.note("at %s: verify", s.time().Format(time.DateTime))
	s.begin(func() {})
	if _, err := s.Verify(s.t.Context(), true); err != nil {
		s.t.Errorf("step %d: verify: %v", s.step, err)
	}
}

// restart is another process taking over.
func (s *simulation) restart() {
	s.Reporter = s.reporter(MeterEvents)
	s.Reporter.crash = func(step string, e *LedgerEntry) bool {
		return s.hashRand("crash", e.Identifier, step, strconv.Itoa(s.step))%1000 < s.faults.crashes
	}
}

// calmDown lets days pass without faults, until what is unknown is decided and
// what final invoices lack is carried.
func (s *simulation) runWithoutFaults() {
	s.note("no more faults")
	s.faults = faultPlan{}
	s.restart()
	for range 4 {
		s.advance(25 * time.Hour)
		s.faultlessPass()
		s.advance(10 * time.Hour) // any summary has it by then
		_, err := s.Verify(s.t.Context(), true)
		s.must(err)
	}
	// Long after the last end of any period, and before the next.
	s.set(s.time().Truncate(6 * time.Hour).Add(10 * time.Hour))
	s.faultlessPass()
	s.checkInvariants()
}

func (s *simulation) faultlessPass() {
	s.rollOver()
	s.closePeriods()
	s.begin(func() {})
	_, err := s.Pass(s.t.Context(), Scope{ByHand: true})
	s.must(err)
}

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0x0d03e7e5)) }

func (s *simulation) note(format string, args ...any) {
	s.trace = append(s.trace, fmt.Sprintf("step %d ", s.step)+fmt.Sprintf(format, args...))
}

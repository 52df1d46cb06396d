package reporter

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"odometer/reporter/stripetest"
)

// backup copies the ledger; restore brings it back as it was.
func (env *testEnv) backup() (restore func()) {
	env.t.Helper()
	env.db.Exec(`create table kept_ledger as table ledger; create table kept_reports as table overage_reports`)
	return func() {
		env.t.Helper()
		env.db.Exec(`
delete from overage_reports; insert into overage_reports table kept_reports;
delete from ledger; insert into ledger table kept_ledger`)
		env.Reporter = env.reporter(MeterEvents)
	}
}

// expectStopped checks that passes refuse to start, and send nothing.
func (env *testEnv) expectStopped() {
	env.t.Helper()
	before := len(env.posts())
	if _, err := env.Pass(env.t.Context(), Scope{ByHand: true}); !errors.Is(err, ErrRestored) {
		env.t.Errorf("the pass ended with %v, want ErrRestored", err)
	}
	if n := len(env.posts()) - before; n != 0 {
		env.t.Errorf("a stopped reporter made %d calls", n)
	}
}

func (env *testEnv) verifyRestored(wantAppended int) {
	env.t.Helper()
	v, err := env.Verify(env.t.Context(), true)
	if err != nil || !v.Released || v.Appended != wantAppended {
		env.t.Errorf("verify came to %+v, %v; want a release with %d entries", v, err, wantAppended)
	}
}

// expectStillStopped checks that a comparison leaves the reporter stopped.
func (env *testEnv) expectStillStopped() {
	env.t.Helper()
	if v, err := env.Verify(env.t.Context(), true); !errors.Is(err, ErrRestored) || v.Released {
		env.t.Errorf("verify came to %+v, %v; want ErrRestored", v, err)
	}
	env.expectStopped()
}

func TestRestoredBackupStopsUntilCompared(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a, b := env.november("a"), env.november("b")
	a.use("inbox", 510)
	env.report()
	restore := env.backup()
	a.use("inbox", 525)
	b.use("meeting", 37)
	env.advance(time.Minute)
	env.expect(env.report(), 2, 0)
	restore()
	env.expectStopped()
	env.verifyRestored(2)
	env.expect(env.report(), 0, 0)
	a.use("inbox", 530)
	env.expect(env.report(), 1, 0)
	a.expectMeterTotal("inbox", 30)
	b.expectMeterTotal("meeting", 7)
}

// The restored ledger may hold as undecided what was decided since.
func TestRestoredUndecidedEntryIsDecidedByTheComparison(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]stripetest.Fault{"arrived": stripetest.ResetAfter, "lost": stripetest.ResetBefore} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := newTestEnv(t, nil)
			a := env.november("a")
			a.use("inbox", 510)
			env.failSends(fault)
			_, _ = env.Pass(t.Context(), Scope{})
			restore := env.backup()
			env.failSends(stripetest.NoFault)
			env.advance(time.Hour)
			env.report() // the same identifier again
			a.use("inbox", 525)
			env.report()
			restore()
			env.expectStopped()
			env.verifyRestored(1)
			env.report()
			a.expectMeterTotal("inbox", 25)
			a.expectStates(Rejected, Verified)
		})
	}
}

// Summaries lag: what they do not show yet must not be reported again.
func TestRestoredBackupWaitsForLaggingSummaries(t *testing.T) {
	t.Parallel()
	for name, finished := range map[string]bool{"the last pass ended": true, "the last pass died": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := newTestEnv(t, func(o *stripetest.Options) { o.SummaryLag = 20 * time.Minute })
			a := env.november("a")
			a.use("inbox", 510)
			env.report()
			restore := env.backup()
			env.advance(30 * time.Minute)
			a.use("inbox", 525)
			env.report()
			if !finished {
				env.changeMirror(func(m *mirror) { m.Units = nil })
			}
			restore()
			env.expectStillStopped()
			env.advance(time.Hour)
			env.verifyRestored(1)
			env.report()
			a.expectMeterTotal("inbox", 25)
		})
	}
}

// spoilMirror changes what NATS keeps.
func (env *testEnv) changeMirror(change func(*mirror)) {
	env.t.Helper()
	ctx := env.t.Context()
	g, err := env.loadGeneration(ctx)
	env.must(err)
	change(g.mirror)
	value, err := json.Marshal(g.mirror)
	env.must(err)
	_, err = g.bucket.Put(ctx, g.ledger.String(), value)
	env.must(err)
}

func TestMissingMirrorStopsUntilCompared(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a := env.november("a")
	a.use("inbox", 510)
	env.report()
	env.must(env.js.DeleteKeyValue(t.Context(), mirrorBucket))
	a.use("inbox", 525)
	env.expectStopped()
	env.verifyRestored(0)
	env.expect(env.report(), 1, 0)
	a.expectMeterTotal("inbox", 25)
}

func TestMissingMirrorOfARestoredLedgerWaits(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a := env.november("a")
	a.use("inbox", 510)
	env.report()
	restore := env.backup()
	a.use("inbox", 525)
	env.report()
	restore()
	env.must(env.js.DeleteKeyValue(t.Context(), mirrorBucket))
	env.expectStopped()
	env.expectStillStopped() // who knows what was sent until now
	env.advance(time.Hour)
	env.verifyRestored(1)
	env.report()
	a.expectMeterTotal("inbox", 25)
}

func TestRestoredNATSStopsUntilCompared(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a := env.november("a")
	for count := int64(510); count < 550; count += 10 {
		a.use("inbox", count)
		env.report()
	}
	env.changeMirror(func(m *mirror) { m.Generation -= 2 })
	a.use("inbox", 560)
	env.expectStopped()
	env.advance(2 * time.Hour)
	env.verifyRestored(0)
	env.expect(env.report(), 1, 0)
	a.expectMeterTotal("inbox", 60)
}

// A crash between Postgres and NATS leaves Postgres ahead by one; so does a
// NATS that can be read but not written to, however often that happens.
func TestMirrorCatchesUpAfterFailedWrite(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a := env.november("a")
	a.use("inbox", 510)
	env.report()
	a.use("inbox", 520)
	env.posts()
	for range 5 {
		g, err := env.loadGeneration(t.Context())
		env.must(err)
		env.must(g.checkRestored())
		g.revision += 7 // somebody has written meanwhile, NATS says
		if err := env.raiseGeneration(t.Context(), g); err == nil {
			t.Fatal("the mirror was written")
		}
	}
	env.expect(env.report(), 1, 0)
	a.expectMeterTotal("inbox", 20)
}

func TestEachPassThatSendsRaisesTheGeneration(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a := env.november("a")
	numbers := map[int64]bool{}
	for count := int64(510); count < 550; count += 10 {
		a.use("inbox", count)
		env.report()
		env.report() // has nothing to send
	}
	for _, e := range a.entries() {
		numbers[e.Generation] = true
	}
	g, err := env.loadGeneration(t.Context())
	env.must(err)
	if len(numbers) != 4 || g.number != 4 || g.mirror.Generation != 4 || g.mirror.Units == nil || *g.mirror.Units != 40 {
		t.Errorf("entries of generations %v, ledger at %d, mirror %+v", numbers, g.number, g.mirror)
	}
}

// A row is gone from the ledger's beginning, middle or end: what is left is not used
// for reports, and Stripe's summary says what it was.
func TestLostEntryIsRestoredFromStripe(t *testing.T) {
	t.Parallel()
	for name, revision := range map[string]int{"first": 1, "middle": 2, "last": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := newTestEnv(t, nil)
			a := env.november("a")
			for _, count := range []int64{510, 525, 530} {
				a.use("inbox", count)
				env.report()
			}
			env.db.Exec(`delete from overage_reports where revision = $1`, revision)
			a.use("inbox", 545)
			env.expectStopped()
			env.verifyRestored(1)
			env.expect(env.report(), 1, 0)
			a.expectMeterTotal("inbox", 45)
			if v, err := env.Verify(t.Context(), true); err != nil || v.Different > 0 {
				t.Errorf("%+v %v", v, err)
			}
			from := int64(0)
			for _, e := range a.entries() {
				if e.From != from {
					t.Errorf("entry %d goes from %d to %d, the one before ended at %d", e.Revision, e.From, e.To, from)
				}
				from = e.To
			}
		})
	}
}

// A row that was doubled or changed is no loss that Stripe's summary could make
// good: nothing is reported by it, and nothing appended.
func TestDuplicatedOrEditedEntryIsLeftToPeople(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]string{
		"doubled": `
insert into overage_reports (
    tenant_id, agent, period_start, billed_period_start, revision, from_total, to_total, value, sink, account, livemode,
    stripe_customer, meter, reported_at, identifier, generation, state
)
select
    tenant_id, agent, period_start, billed_period_start, revision + 1, from_total, to_total, value, sink, account, livemode,
    stripe_customer, meter, reported_at, identifier || 'x', generation, state
from overage_reports
where revision = 3`,
		"changed": `update overage_reports set from_total = from_total - 5 where revision = 1`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := newTestEnv(t, nil)
			a := env.november("a")
			for _, count := range []int64{510, 525, 530} {
				a.use("inbox", count)
				env.report()
			}
			env.db.Exec(harm)
			a.use("inbox", 545)
			env.expectStopped()
			if v, err := env.Verify(t.Context(), true); !errors.Is(err, ErrRestored) || v.Released {
				t.Errorf("released %t, %v", v.Released, err)
			}
			env.expectStopped()
			a.expectMeterTotal("inbox", 30)
		})
	}
}

package reporter

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"odometer/reporter/stripetest"
)

// backup copies the ledger; restore brings it back as it was.
func (w *world) backup() (restore func()) {
	w.t.Helper()
	w.exec(`create table kept_ledger as table ledger; create table kept_reports as table overage_reports`)
	return func() {
		w.t.Helper()
		w.exec(`
delete from overage_reports; insert into overage_reports table kept_reports;
delete from ledger; insert into ledger table kept_ledger`)
		w.Reporter = w.reporter(MeterEvents)
	}
}

// expectStopped looks whether passes refuse to begin, and send nothing.
func (w *world) expectStopped() {
	w.t.Helper()
	before := len(w.posts())
	if _, err := w.Pass(w.t.Context(), Scope{ByHand: true}); !errors.Is(err, ErrRestored) {
		w.t.Errorf("the pass ended with %v, want ErrRestored", err)
	}
	if n := len(w.posts()) - before; n != 0 {
		w.t.Errorf("a stopped reporter made %d calls", n)
	}
}

func (w *world) release(wantAppended int) {
	w.t.Helper()
	v, err := w.Verify(w.t.Context(), true)
	if err != nil || !v.Released || v.Appended != wantAppended {
		w.t.Errorf("verify came to %+v, %v; want a release with %d links", v, err, wantAppended)
	}
}

// expectNotReleased looks whether a comparison leaves the reporter stopped.
func (w *world) expectNotReleased() {
	w.t.Helper()
	if v, err := w.Verify(w.t.Context(), true); !errors.Is(err, ErrRestored) || v.Released {
		w.t.Errorf("verify came to %+v, %v; want ErrRestored", v, err)
	}
	w.expectStopped()
}

func TestRestoredBackupStopsUntilCompared(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a, b := w.month("a"), w.month("b")
	a.use("inbox", 510)
	w.report()
	restore := w.backup()
	a.use("inbox", 525)
	b.use("meeting", 37)
	w.pass(time.Minute)
	w.expect(w.report(), 2, 0)
	restore()
	w.expectStopped()
	w.release(2)
	w.expect(w.report(), 0, 0)
	a.use("inbox", 530)
	w.expect(w.report(), 1, 0)
	a.expectAt("inbox", 30)
	b.expectAt("meeting", 7)
}

// The restored ledger may hold as undecided what was decided since.
func TestRestoredUndecidedLinkIsDecidedByTheComparison(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]stripetest.Fault{"arrived": stripetest.ResetAfter, "lost": stripetest.ResetBefore} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			a := w.month("a")
			a.use("inbox", 510)
			w.failTelling(fault)
			_, _ = w.Pass(t.Context(), Scope{})
			restore := w.backup()
			w.failTelling(stripetest.NoFault)
			w.pass(time.Hour)
			w.report() // the same identifier again
			a.use("inbox", 525)
			w.report()
			restore()
			w.expectStopped()
			w.release(1)
			w.report()
			a.expectAt("inbox", 25)
			a.expectStates(Refused, Verified)
		})
	}
}

// Summaries lag: what they do not show yet must not be told again.
func TestRestoredBackupWaitsForLaggingSummaries(t *testing.T) {
	t.Parallel()
	for name, finished := range map[string]bool{"the last pass ended": true, "the last pass died": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(o *stripetest.Options) { o.SummaryLag = 20 * time.Minute })
			a := w.month("a")
			a.use("inbox", 510)
			w.report()
			restore := w.backup()
			w.pass(30 * time.Minute)
			a.use("inbox", 525)
			w.report()
			if !finished {
				w.spoilMirror(func(m *mirror) { m.Units = nil })
			}
			restore()
			w.expectNotReleased()
			w.pass(time.Hour)
			w.release(1)
			w.report()
			a.expectAt("inbox", 25)
		})
	}
}

// spoilMirror changes what NATS keeps.
func (w *world) spoilMirror(change func(*mirror)) {
	w.t.Helper()
	ctx := w.t.Context()
	g, err := w.generation(ctx)
	w.must(err)
	change(g.mirror)
	value, err := json.Marshal(g.mirror)
	w.must(err)
	_, err = g.bucket.Put(ctx, g.ledger.String(), value)
	w.must(err)
}

func TestMissingMirrorStopsUntilCompared(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a := w.month("a")
	a.use("inbox", 510)
	w.report()
	w.must(w.js.DeleteKeyValue(t.Context(), mirrorBucket))
	a.use("inbox", 525)
	w.expectStopped()
	w.release(0)
	w.expect(w.report(), 1, 0)
	a.expectAt("inbox", 25)
}

func TestMissingMirrorOfARestoredLedgerWaits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a := w.month("a")
	a.use("inbox", 510)
	w.report()
	restore := w.backup()
	a.use("inbox", 525)
	w.report()
	restore()
	w.must(w.js.DeleteKeyValue(t.Context(), mirrorBucket))
	w.expectStopped()
	w.expectNotReleased() // who knows what was sent until now
	w.pass(time.Hour)
	w.release(1)
	w.report()
	a.expectAt("inbox", 25)
}

func TestRestoredNATSStopsUntilCompared(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a := w.month("a")
	for count := int64(510); count < 550; count += 10 {
		a.use("inbox", count)
		w.report()
	}
	w.spoilMirror(func(m *mirror) { m.Generation -= 2 })
	a.use("inbox", 560)
	w.expectStopped()
	w.pass(2 * time.Hour)
	w.release(0)
	w.expect(w.report(), 1, 0)
	a.expectAt("inbox", 60)
}

// A crash between Postgres and NATS leaves Postgres ahead by one; so does a
// NATS that can be read but not written to, however often that happens.
func TestMirrorThatCannotBeWrittenIsCaughtUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a := w.month("a")
	a.use("inbox", 510)
	w.report()
	a.use("inbox", 520)
	w.posts()
	for range 5 {
		g, err := w.generation(t.Context())
		w.must(err)
		w.must(g.restored())
		g.revision += 7 // somebody has written meanwhile, NATS says
		if err := w.raise(t.Context(), g); err == nil {
			t.Fatal("the mirror was written")
		}
	}
	w.expect(w.report(), 1, 0)
	a.expectAt("inbox", 20)
}

func TestEachPassThatSendsRaisesTheGeneration(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a := w.month("a")
	numbers := map[int64]bool{}
	for count := int64(510); count < 550; count += 10 {
		a.use("inbox", count)
		w.report()
		w.report() // has nothing to send
	}
	for _, l := range a.links() {
		numbers[l.Generation] = true
	}
	g, err := w.generation(t.Context())
	w.must(err)
	if len(numbers) != 4 || g.number != 4 || g.mirror.Generation != 4 || g.mirror.Units == nil || *g.mirror.Units != 40 {
		t.Errorf("links of generations %v, ledger at %d, mirror %+v", numbers, g.number, g.mirror)
	}
}

// A row is gone from the ledger's beginning, middle or end: what is left is not
// told by, and Stripe's summary says what it was.
func TestALostRowIsFoundAtStripeAndPutBack(t *testing.T) {
	t.Parallel()
	for name, revision := range map[string]int{"first": 1, "middle": 2, "last": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			a := w.month("a")
			for _, count := range []int64{510, 525, 530} {
				a.use("inbox", count)
				w.report()
			}
			w.exec(`delete from overage_reports where revision = $1`, revision)
			a.use("inbox", 545)
			w.expectStopped()
			w.release(1)
			w.expect(w.report(), 1, 0)
			a.expectAt("inbox", 45)
			if v, err := w.Verify(t.Context(), true); err != nil || v.Different > 0 {
				t.Errorf("%+v %v", v, err)
			}
			from := int64(0)
			for _, l := range a.links() {
				if l.From != from {
					t.Errorf("link %d goes from %d to %d, the one before ended at %d", l.Revision, l.From, l.To, from)
				}
				from = l.To
			}
		})
	}
}

// A row that was doubled or changed is no loss that Stripe's summary could make
// good: nothing is told by it, and nothing appended.
func TestADoubledOrChangedRowIsLeftToPeople(t *testing.T) {
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
			w := newWorld(t, nil)
			a := w.month("a")
			for _, count := range []int64{510, 525, 530} {
				a.use("inbox", count)
				w.report()
			}
			w.exec(harm)
			a.use("inbox", 545)
			w.expectStopped()
			if v, err := w.Verify(t.Context(), true); !errors.Is(err, ErrRestored) || v.Released {
				t.Errorf("released %t, %v", v.Released, err)
			}
			w.expectStopped()
			a.expectAt("inbox", 30)
		})
	}
}

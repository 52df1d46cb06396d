package reporter

import (
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"odometer/reporter/stripetest"
)

func TestCrashAtEachStepCountsOnce(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		step  string
		left  State
		calls int // in all
	}{
		{"stored", Planned, 1},
		{"marked", Sending, 1},
		{"called", Sending, 2},
		{"answered", Sending, 2},
	} {
		t.Run(row.step, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			a := w.month("a")
			a.use("inbox", 510)
			w.posts()
			w.Reporter.crash = func(step string, _ *Link) bool { return step == row.step }
			w.report()
			a.expectStates(row.left)
			w.Reporter = w.reporter(MeterEvents)
			a.use("inbox", 512) // meanwhile, life goes on
			w.pass(time.Minute)
			w.expect(w.scheduled(), 2, 0)
			a.expectAt("inbox", 12)
			a.expectStates(Taken, Taken)
			if posts := w.posts(); len(posts) != row.calls+1 {
				t.Errorf("%d calls were made, want %d", len(posts), row.calls+1)
			}
		})
	}
}

// lostAnswers are the ways in which it stays unknown whether a call arrived.
var lostAnswers = map[string]stripetest.Fault{
	"reset before": stripetest.ResetBefore,
	"reset after":  stripetest.ResetAfter,
	"502 before":   stripetest.HTML502Before,
	"502 after":    stripetest.HTML502After,
	"cut short":    stripetest.TruncatedAfter,
	"500 before":   stripetest.StoredError500Before,
	"500 after":    stripetest.StoredError500After,
	"503":          stripetest.Unavailable503,
}

func TestLostAnswerIsResentUnderItsIdentifier(t *testing.T) {
	t.Parallel()
	for name, fault := range lostAnswers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			a := w.month("a")
			a.use("inbox", 510)
			w.posts()
			w.failTelling(fault)
			_, _ = w.Pass(t.Context(), Scope{})
			a.expectStates(Uncertain)
			a.use("inbox", 530) // nothing new is told while one is undecided
			_, _ = w.Pass(t.Context(), Scope{ByHand: true})
			a.expectStates(Uncertain)
			w.failTelling(stripetest.NoFault)
			w.pass(22 * time.Hour)
			w.expect(w.scheduled(), 2, 0)
			a.expectAt("inbox", 30)
			posts := w.posts()
			first, last := posts[0], posts[len(posts)-2]
			if first.Form.Get("identifier") != last.Form.Get("identifier") {
				t.Errorf("sent again as %s, first as %s", last.Form.Get("identifier"), first.Form.Get("identifier"))
			}
		})
	}
}

// A connection that breaks after Stripe has counted is an unknown answer, and
// no reason to ask again at once: that call's 429 would be taken for the first
// one's, and what was counted would be told anew.
func TestNoCallIsRepeatedUnseen(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a := w.month("a")
	a.use("inbox", 510)
	w.posts()
	var calls atomic.Int64
	w.stripe.SetFaults(func(r *http.Request, _ url.Values) stripetest.Fault {
		if r.Method != http.MethodPost {
			return stripetest.NoFault
		}
		return []stripetest.Fault{stripetest.ResetAfter, stripetest.TooManyRequests, stripetest.NoFault}[min(calls.Add(1)-1, 2)]
	})
	_, _ = w.Pass(t.Context(), Scope{})
	if posts := w.posts(); len(posts) != 1 {
		t.Errorf("%d calls were made, want 1", len(posts))
	}
	a.expectStates(Uncertain)
	w.pass(time.Minute)
	w.expect(w.report(), 1, 0)
	a.expectAt("inbox", 10)
	a.expectStates(Taken)
}

// Stripe answers an old Idempotency-Key with the answer that it keeps under
// it, also when that is a 500 and nothing was done.
func TestStoredErrorIsNotReplayed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a := w.month("a")
	a.use("inbox", 510)
	w.posts()
	w.failTelling(stripetest.StoredError500Before)
	w.report()
	w.failTelling(stripetest.NoFault)
	w.pass(time.Minute)
	w.expect(w.report(), 1, 0)
	a.expectAt("inbox", 10)
	keys := map[string]bool{}
	for _, p := range w.posts() {
		keys[p.IdempotencyKey] = true
	}
	if len(keys) != 2 || keys[""] {
		t.Errorf("two calls went out under the keys %v", keys)
	}
}

func TestBackoffLetsTheScheduledPassesRest(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a := w.month("a")
	a.use("inbox", 510)
	w.posts()
	w.failTelling(stripetest.Unavailable503)
	for range 60 { // an hour of scheduled passes
		w.scheduled()
		w.pass(time.Minute)
	}
	if n := len(w.posts()); n < 5 || n > 8 {
		t.Errorf("%d calls within an hour of failures", n)
	}
	w.failTelling(stripetest.NoFault)
	w.expect(w.report(), 1, 0) // by hand at once
	a.expectAt("inbox", 10)
}

func TestAnswerLostForThirtyHoursIsDecidedBySummary(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fault stripetest.Fault
		lag   time.Duration
		then  func(*testing.T, *tenant)
	}{
		"there":           {stripetest.ResetAfter, 0, summaryHasIt},
		"not there":       {stripetest.ResetBefore, 0, summaryStaysWithout},
		"a lagging one":   {stripetest.ResetAfter, 40 * time.Hour, summaryLags},
		"somebody else's": {stripetest.ResetBefore, 0, summaryIsUnclear},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(o *stripetest.Options) { o.SummaryLag = test.lag })
			a := w.month("a")
			a.use("inbox", 510)
			w.failTelling(test.fault)
			_, _ = w.Pass(t.Context(), Scope{})
			a.expectStates(Uncertain)
			w.failTelling(stripetest.NoFault)
			w.posts()
			w.pass(30 * time.Hour)
			test.then(t, a)
		})
	}
}

// A day after the first call Stripe may have forgotten the identifier, however
// often it was sent since.
func TestIdentifierIsNotResentADayAfterItsFirstCall(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a := w.month("a")
	a.use("inbox", 510)
	w.failTelling(stripetest.ResetAfter)
	_, _ = w.Pass(t.Context(), Scope{})
	w.failTelling(stripetest.ResetBefore)
	w.pass(22 * time.Hour)
	_, _ = w.Pass(t.Context(), Scope{})
	a.expectStates(Uncertain)
	w.failTelling(stripetest.NoFault)
	w.pass(22 * time.Hour)
	w.report()
	a.expectAt("inbox", 10)
	a.expectStates(Taken)
}

func summaryHasIt(t *testing.T, a *tenant) {
	a.expect(a.scheduled(), 1, 0)
	a.expectStates(Taken)
	a.expectAt("inbox", 10)
	if n := len(a.posts()); n != 0 {
		t.Errorf("%d calls were made", n)
	}
}

func summaryStaysWithout(t *testing.T, a *tenant) {
	for range 23 {
		a.expect(a.scheduled(), 0, 1)
		a.pass(time.Hour + time.Second)
	}
	a.expectStates(Uncertain)
	if n := len(a.posts()); n != 0 {
		t.Errorf("%d calls were made before a day had passed", n)
	}
	a.pass(time.Hour)
	a.expect(a.scheduled(), 1, 0)
	a.expectStates(Refused, Taken)
	a.expectAt("inbox", 10)
	if links := a.links(); links[0].Identifier == links[1].Identifier {
		t.Error("told anew under the identifier that was given up")
	}
}

func summaryLags(t *testing.T, a *tenant) {
	a.expect(a.scheduled(), 0, 1)
	a.pass(11 * time.Hour)
	a.expect(a.scheduled(), 1, 0)
	a.expectStates(Taken)
	a.expectAt("inbox", 10)
	if n := len(a.posts()); n != 0 {
		t.Errorf("%d calls were made", n)
	}
}

// Somebody else reports to the meter: nothing is sent until the invoice has
// decided, and then what it lacks is carried.
func summaryIsUnclear(t *testing.T, a *tenant) {
	foreign := &Link{Sink: MeterEvents, Identifier: "theirs", Value: 3, ReportedAt: a.time(), Target: Target{Customer: a.customer, Meter: "inbox_overage"}}
	a.must(a.Stripe.send(t.Context(), foreign))
	for range 60 {
		a.expect(a.scheduled(), 0, 1)
		a.pass(2 * time.Hour)
	}
	a.expectStates(Uncertain)
	if got := a.openFindings(kindUnclear); len(got) != 1 || got[0] != a.links()[0].Identifier {
		t.Errorf("findings %v", got)
	}
	a.expectAt("inbox", 3)
	a.set(time.Date(2026, 12, 1, 3, 0, 0, 0, time.UTC))
	a.roll()
	a.report()
	a.expectAt("inbox", 10) // the invoice bills theirs as ours
	if got := a.openFindings(kindUnclear); len(got) != 0 {
		t.Errorf("findings %v of a link that is decided", got)
	}
}

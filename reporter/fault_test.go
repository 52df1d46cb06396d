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
			env := newTestEnv(t, nil)
			a := env.november("a")
			a.use("inbox", 510)
			env.posts()
			env.Reporter.crash = func(step string, _ *LedgerEntry) bool { return step == row.step }
			env.report()
			a.expectStates(row.left)
			env.Reporter = env.reporter(MeterEvents)
			a.use("inbox", 512) // meanwhile, life goes on
			env.advance(time.Minute)
			env.expect(env.scheduled(), 2, 0)
			a.expectMeterTotal("inbox", 12)
			a.expectStates(Accepted, Accepted)
			if posts := env.posts(); len(posts) != row.calls+1 {
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
			env := newTestEnv(t, nil)
			a := env.november("a")
			a.use("inbox", 510)
			env.posts()
			env.failSends(fault)
			_, _ = env.Pass(t.Context(), Scope{})
			a.expectStates(Unknown)
			a.use("inbox", 530) // nothing new is reported while one is undecided
			_, _ = env.Pass(t.Context(), Scope{ByHand: true})
			a.expectStates(Unknown)
			env.failSends(stripetest.NoFault)
			env.advance(22 * time.Hour)
			env.expect(env.scheduled(), 2, 0)
			a.expectMeterTotal("inbox", 30)
			posts := env.posts()
			first, last := posts[0], posts[len(posts)-2]
			if first.Form.Get("identifier") != last.Form.Get("identifier") {
				t.Errorf("sent again as %s, first as %s", last.Form.Get("identifier"), first.Form.Get("identifier"))
			}
		})
	}
}

// A connection that breaks after Stripe has counted is an unknown answer, and
// no reason to ask again at once: that call's 429 would be taken for the first
// one's, and what was counted would be reported again.
func TestNoCallIsRepeatedSilently(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a := env.november("a")
	a.use("inbox", 510)
	env.posts()
	var calls atomic.Int64
	env.stripe.SetFaults(func(r *http.Request, _ url.Values) stripetest.Fault {
		if r.Method != http.MethodPost {
			return stripetest.NoFault
		}
		return []stripetest.Fault{stripetest.ResetAfter, stripetest.TooManyRequests, stripetest.NoFault}[min(calls.Add(1)-1, 2)]
	})
	_, _ = env.Pass(t.Context(), Scope{})
	if posts := env.posts(); len(posts) != 1 {
		t.Errorf("%d calls were made, want 1", len(posts))
	}
	a.expectStates(Unknown)
	env.advance(time.Minute)
	env.expect(env.report(), 1, 0)
	a.expectMeterTotal("inbox", 10)
	a.expectStates(Accepted)
}

// Stripe answers an old Idempotency-Key with the answer that it keeps under
// it, also when that is a 500 and nothing was done.
func TestStoredErrorIsNotReplayed(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a := env.november("a")
	a.use("inbox", 510)
	env.posts()
	env.failSends(stripetest.StoredError500Before)
	env.report()
	env.failSends(stripetest.NoFault)
	env.advance(time.Minute)
	env.expect(env.report(), 1, 0)
	a.expectMeterTotal("inbox", 10)
	keys := map[string]bool{}
	for _, p := range env.posts() {
		keys[p.IdempotencyKey] = true
	}
	if len(keys) != 2 || keys[""] {
		t.Errorf("two calls went out under the keys %v", keys)
	}
}

func TestScheduledPassesBackOff(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a := env.november("a")
	a.use("inbox", 510)
	env.posts()
	env.failSends(stripetest.Unavailable503)
	for range 60 { // an hour of scheduled passes
		env.scheduled()
		env.advance(time.Minute)
	}
	if n := len(env.posts()); n < 5 || n > 8 {
		t.Errorf("%d calls within an hour of failures", n)
	}
	env.failSends(stripetest.NoFault)
	env.expect(env.report(), 1, 0) // by hand at once
	a.expectMeterTotal("inbox", 10)
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
			env := newTestEnv(t, func(o *stripetest.Options) { o.SummaryLag = test.lag })
			a := env.november("a")
			a.use("inbox", 510)
			env.failSends(test.fault)
			_, _ = env.Pass(t.Context(), Scope{})
			a.expectStates(Unknown)
			env.failSends(stripetest.NoFault)
			env.posts()
			env.advance(30 * time.Hour)
			test.then(t, a)
		})
	}
}

// A day after the first call Stripe may have forgotten the identifier, however
// often it was sent since.
func TestIdentifierIsNotResentADayAfterItsFirstCall(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a := env.november("a")
	a.use("inbox", 510)
	env.failSends(stripetest.ResetAfter)
	_, _ = env.Pass(t.Context(), Scope{})
	env.failSends(stripetest.ResetBefore)
	env.advance(22 * time.Hour)
	_, _ = env.Pass(t.Context(), Scope{})
	a.expectStates(Unknown)
	env.failSends(stripetest.NoFault)
	env.advance(22 * time.Hour)
	env.report()
	a.expectMeterTotal("inbox", 10)
	a.expectStates(Accepted)
}

func summaryHasIt(t *testing.T, a *tenant) {
	a.expect(a.scheduled(), 1, 0)
	a.expectStates(Accepted)
	a.expectMeterTotal("inbox", 10)
	if n := len(a.posts()); n != 0 {
		t.Errorf("%d calls were made", n)
	}
}

func summaryStaysWithout(t *testing.T, a *tenant) {
	for range 23 {
		a.expect(a.scheduled(), 0, 1)
		a.advance(time.Hour + time.Second)
	}
	a.expectStates(Unknown)
	if n := len(a.posts()); n != 0 {
		t.Errorf("%d calls were made before a day had passed", n)
	}
	a.advance(time.Hour)
	a.expect(a.scheduled(), 1, 0)
	a.expectStates(Rejected, Accepted)
	a.expectMeterTotal("inbox", 10)
	if entries := a.entries(); entries[0].Identifier == entries[1].Identifier {
		t.Error("reported again under the identifier that was given up")
	}
}

func summaryLags(t *testing.T, a *tenant) {
	a.expect(a.scheduled(), 0, 1)
	a.advance(11 * time.Hour)
	a.expect(a.scheduled(), 1, 0)
	a.expectStates(Accepted)
	a.expectMeterTotal("inbox", 10)
	if n := len(a.posts()); n != 0 {
		t.Errorf("%d calls were made", n)
	}
}

// Somebody else reports to the meter: nothing is sent until the invoice has
// decided, and then what it lacks is carried.
func summaryIsUnclear(t *testing.T, a *tenant) {
	foreign := &LedgerEntry{Sink: MeterEvents, Identifier: "theirs", Value: 3, ReportedAt: a.time(), MeterTarget: MeterTarget{Customer: a.customer, Meter: "inbox_overage"}}
	a.must(a.Stripe.send(t.Context(), foreign))
	for range 60 {
		a.expect(a.scheduled(), 0, 1)
		a.advance(2 * time.Hour)
	}
	a.expectStates(Unknown)
	if got := a.openFindings(kindUnclear); len(got) != 1 || got[0] != a.entries()[0].Identifier {
		t.Errorf("findings %v", got)
	}
	a.expectMeterTotal("inbox", 3)
	a.set(time.Date(2026, 12, 1, 3, 0, 0, 0, time.UTC))
	a.rollAndClose()
	a.report()
	a.expectMeterTotal("inbox", 10) // the invoice bills theirs as ours
	if got := a.openFindings(kindUnclear); len(got) != 0 {
		t.Errorf("findings %v of a decided entry", got)
	}
}

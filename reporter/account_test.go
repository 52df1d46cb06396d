package reporter

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"testing"
	"time"

	"odometer"
	"odometer/billing"
	"odometer/reporter/stripetest"
)

var december = time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)

// Stripe is away for six hours across the end of the period. Back before the
// invoice is final, everything is in it; back after it, the rest is carried.
func TestStripeDownSixHoursAcrossPeriodEndAndFinalization(t *testing.T) {
	t.Parallel()
	for name, back := range map[string]time.Duration{"back in time": 40 * time.Minute, "back too late": 3 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := newTestEnv(t, nil)
			all := env.tenantsOver(3)
			env.report()
			for _, a := range all {
				a.use("inbox", 540)
			}
			back := december.Add(back)
			env.stripe.SetFaults(everything(stripetest.ResetBefore))
			for at := back.Add(-6 * time.Hour); at.Before(back); at = at.Add(20 * time.Minute) {
				env.set(at)
				env.rollAndClose()
				if _, err := env.Pass(t.Context(), Scope{Due: at.Minute() != 0}); err != nil && !errors.Is(err, ErrUnreachable) {
					t.Errorf("at %s the pass ended with %v", at, err)
				}
			}
			env.stripe.SetFaults(nil)
			env.set(back)
			env.advance(breakerCooldown)
			env.report()
			expectMeterTotals(all, 40)
			env.set(december.AddDate(0, 1, 1))
			env.rollAndClose()
			env.report()
			for _, a := range all {
				expectSettled(t, a, true)
				if got := a.invoiced("inbox"); got != 40 {
					t.Errorf("%s is invoiced %d over both periods, want 40", a.customer, got)
				}
			}
		})
	}
}

func TestDryRunThenKeyReportsEverything(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a := env.november("a")
	a.use("inbox", 510)
	dry, err := New(Options{Pool: env.db.Pool, Sink: DryRun, Now: env.time})
	env.must(err)
	env.posts()
	for range 3 {
		_, err = dry.Pass(t.Context(), Scope{})
		env.must(err)
		_, err = dry.Verify(t.Context(), true)
		env.must(err)
		env.set(december.Add(30 * time.Minute))
		env.rollAndClose()
	}
	if n := len(env.posts()); n != 0 || len(a.entries()) != 0 {
		t.Errorf("a dry run made %d calls and stored %d entries", n, len(a.entries()))
	}
	var lines []Line
	env.must(dry.Statement(t.Context(), nil, func(l Line) { lines = append(lines, l) }))
	if len(lines) != 1 || lines[0].ToReport != 10 || lines[0].AmountCents != 20 {
		t.Errorf("the statement says %+v", lines)
	}
	env.expect(env.report(), 1, 0)
	a.expectMeterTotal("inbox", 10)
}

// otherAccount is the same data at another account of Stripe.
func (env *testEnv) otherAccount(a *tenant) (*Reporter, *stripetest.Server) {
	env.t.Helper()
	other := stripetest.New(stripetest.Options{Key: testKey, Account: "acct_other", Now: env.time})
	server := httptest.NewServer(other)
	env.t.Cleanup(server.Close)
	other.CreateCustomer(a.customer, nil)
	for _, agent := range billing.SampleCatalogue().Agents {
		other.CreateMeter(agent.Meter)
	}
	o := env.Options
	o.Stripe = NewStripe(testKey, server.URL)
	r, err := New(o)
	env.must(err)
	return r, other
}

func TestOtherAccountIsRefused(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a := env.november("a")
	a.use("inbox", 510)
	env.report()
	r, other := env.otherAccount(a)
	other.RecordCalls(true)
	a.use("inbox", 520)
	if _, err := r.Pass(t.Context(), Scope{ByHand: true}); !errors.Is(err, ErrMixed) {
		t.Errorf("the pass ended with %v", err)
	}
	if got := other.Total(a.customer, "inbox_overage", begin.AddDate(-1, 0, 0), december); got != 0 {
		t.Errorf("the other account got %d", got)
	}
	env.expect(env.report(), 1, 0)
	a.expectMeterTotal("inbox", 20)
}

// What was planned for one account and never sent goes to no other as it is.
func TestUnsentEntryDoesNotGoToAnotherAccount(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a := env.november("a")
	a.use("inbox", 510)
	env.failSends(stripetest.Unauthorized)
	if _, err := env.Pass(t.Context(), Scope{}); !errors.Is(err, ErrKeyRefused) {
		t.Fatal(err)
	}
	a.expectStates(Planned)
	r, other := env.otherAccount(a)
	result, err := r.Pass(t.Context(), Scope{ByHand: true})
	env.must(err)
	env.expect(result, 1, 0)
	if got := other.Total(a.customer, "inbox_overage", begin.AddDate(-1, 0, 0), december); got != 10 {
		t.Errorf("the other account got %d", got)
	}
	a.expectStates(Rejected, Accepted)
	if last := a.entries()[1]; last.Account != "acct_other" {
		t.Errorf("reported to %s", last.Account)
	}
}

func TestOtherSinkIsRefused(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a := env.november("a")
	a.use("inbox", 510)
	env.report()
	a.use("inbox", 520)
	if _, err := env.reporter(UsageRecords).Pass(t.Context(), Scope{ByHand: true}); !errors.Is(err, ErrMixed) {
		t.Errorf("the pass ended with %v", err)
	}
	a.expectMeterTotal("inbox", 10)
}

// A tenant's customer changes: the old one's total goes to 0, the new one's
// begins there.
func TestMappingChangeMovesTheTotal(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a := env.november("a")
	a.use("inbox", 510)
	env.report()
	old := *a
	fresh := env.onlyAtStripe("fresh", november, december)
	a.customer, a.sub = fresh.customer, fresh.sub
	a.subscribe(billing.SubscriptionChange{PlanID: plan500, Status: odometer.Active, Start: december.AddDate(0, -1, 0), End: december})
	env.expect(env.report(), 2, 0)
	old.expectMeterTotal("inbox", 0)
	a.expectMeterTotal("inbox", 10)
	a.use("inbox", 530)
	env.report()
	env.set(december.Add(3 * time.Hour))
	env.rollAndClose()
	env.expect(env.report(), 0, 0)
	expectSettled(t, a, true)
	if got, was := a.invoiced("inbox"), old.invoiced("inbox"); got != 30 || was != 0 {
		t.Errorf("the new customer is invoiced %d, the old one %d", got, was)
	}
}

// The customer changes after its invoice is final: the new one gets only
// what that lacks.
func TestMappingChangeAfterTheInvoiceCarriesOnlyTheRest(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a := env.november("a")
	a.use("inbox", 510)
	env.report()
	a.use("inbox", 530)
	fresh := env.onlyAtStripe("fresh", november, december)
	env.set(december.Add(26 * time.Hour))
	env.rollAndClose()
	old := *a
	a.customer, a.sub = fresh.customer, fresh.sub
	a.subscribe(billing.SubscriptionChange{PlanID: plan500, Status: odometer.Active, Start: december, End: december.AddDate(0, 1, 0)})
	env.expect(env.report(), 1, 0)
	old.expectMeterTotal("inbox", 10)
	a.expectMeterTotal("inbox", 20)
	expectSettled(t, a, true)
}

// The last invoice of a subscription that has ended is final: nothing takes
// what it lacks, and a finding says so.
func TestCanceledTenantsOverageIsUnbillableAndAFinding(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a := env.november("a")
	a.use("inbox", 510)
	env.report()
	a.use("inbox", 530)
	env.stripe.UpdateSubscription(a.sub, func(s *stripetest.Subscription) { s.CancelAtPeriodEnd = true })
	env.set(december.Add(26 * time.Hour))
	a.subscribe(billing.SubscriptionChange{PlanID: plan500, Status: odometer.Canceled, Start: december.AddDate(0, -1, 0), End: december})
	env.rollAndClose()
	env.expect(env.report(), 0, 1)
	env.report()
	a.expectMeterTotal("inbox", 10)
	if got := env.openFindings("unbillable"); len(got) != 1 || got[0] != fmt.Sprintf("%s inbox %s", a.id, "2026-11-01T00:00:00Z") {
		t.Errorf("findings %v", got)
	}
	expectSettled(t, a, true)
}

// Stripe takes a report and drops it later: nothing is sent again into the
// period, and what its invoice lacks is carried.
func TestDifferenceAtStripeIsAFindingNotAResend(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	a := env.november("a")
	a.use("inbox", 510)
	env.failSends(stripetest.RejectAsync)
	env.expect(env.report(), 1, 0)
	env.failSends(stripetest.NoFault)
	env.posts()
	for range 3 {
		env.advance(2 * time.Hour)
		v, err := env.Verify(t.Context(), true)
		env.must(err)
		if v.Different != 1 {
			t.Errorf("verify came to %+v", v)
		}
		env.expect(env.report(), 0, 0)
	}
	if n := len(env.posts()); n != 0 || len(env.openFindings(kindDiffers)) != 1 {
		t.Errorf("%d calls, findings %v", n, env.openFindings(kindDiffers))
	}
	env.set(december.Add(3 * time.Hour))
	env.rollAndClose()
	env.expect(env.report(), 1, 0)
	env.set(december.AddDate(0, 1, 1))
	env.rollAndClose()
	env.report()
	if got := a.invoiced("inbox"); got != 10 {
		t.Errorf("invoiced %d, want 10", got)
	}
	expectSettled(t, a, true)
}

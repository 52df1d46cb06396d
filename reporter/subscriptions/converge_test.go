package subscriptions

import (
	"flag"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"odometer/internal/soak"
	"odometer/reporter/stripetest"
)

// Three tenants have the same history at Stripe. The hooks of the first arrive at
// once and in order; of the second some, late, repeated and in any order; of the
// third none. After the job all three are the same, and stay so.
func TestCompareConvergesWhateverHooksArrive(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-01-01")
	acts := 0
	if checks := flag.Lookup("rapid.checks"); checks.Value.String() == checks.DefValue {
		if err := checks.Value.Set(strconv.Itoa(soak.Rounds(t, 5, 20))); err != nil {
			t.Fatal(err)
		}
	}
	rapid.Check(t, func(r *rapid.T) {
		all := [3]*scenario{newScenario(env), newScenario(env), newScenario(env)}
		var waiting []stripetest.Hook
		for range rapid.IntRange(1, 8).Draw(r, "acts") {
			act := rapid.SampledFrom(scenarioActs).Draw(r, "act")
			days := rapid.IntRange(0, 9).Draw(r, "days")
			now := env.now().Add(time.Duration(days)*24*time.Hour + time.Hour)
			env.clock.Store(&now)
			for _, sc := range all {
				acts++
				sc.act(act)
				for _, h := range env.take() {
					switch ownerOf(h, all) {
					case 0:
						env.deliver(h)
					case 1:
						waiting = append(waiting, h)
					}
				}
			}
			env.work()
			if len(waiting) > 0 {
				env.deliver(rapid.SliceOfN(rapid.SampledFrom(waiting), 0, 3).Draw(r, "delivered")...)
				env.work()
			}
		}
		env.compare()
		want := current(env, all[0])
		for _, sc := range all[1:] {
			if got := current(env, sc); got != want {
				r.Fatalf("%s: %s\nwant, as with all hooks in time, %s\nhistory %q\nand       %q", sc.tenant, got, want, env.subscriptionsOf(sc.tenant), env.subscriptionsOf(all[0].tenant))
			}
		}
		if c := env.compare(); c.Changed != 0 || c.Findings != 0 {
			r.Fatalf("a second comparison: %+v", c)
		}
		for _, sc := range all { // so that the next ones have Stripe to themselves
			env.stripe.CancelSubscription(sc.sub(), false)
		}
		env.take()
		env.compare()
	})
	t.Log(acts, "acts")
}

// scenario is one customer at Stripe.
type scenario struct {
	env    *testEnv
	tenant string
	n      int // subscriptions so far
}

func newScenario(env *testEnv) *scenario {
	sc := &scenario{env: env, tenant: uuid.NewString()}
	env.stripe.CreateCustomer("cus_"+sc.tenant, map[string]string{"tenant_id": sc.tenant})
	return sc
}

var scenarioActs = []string{"subscribe", "trial", "plan", "anchor", "leave", "stay", "cancel", "late", "paid", "nothing"}

func (sc *scenario) sub() string { return fmt.Sprintf("sub_%s_%d", sc.tenant, sc.n) }

// act does something to the customer's subscription, or makes one when there
// is none that lives.
func (sc *scenario) act(what string) {
	sub, ok := sc.env.stripe.Subscription(sc.sub())
	if !ok || sub.Status == "canceled" {
		sc.n++
		given := stripetest.Subscription{ID: sc.sub(), Customer: "cus_" + sc.tenant, Items: []stripetest.Item{{PriceID: inbox}}}
		if what == "trial" {
			until := sc.env.now().Add(7 * 24 * time.Hour)
			given.Status, given.TrialEnd = "trialing", &until
		}
		sc.env.stripe.CreateSubscription(given)
		return
	}
	if what == "cancel" {
		sc.env.stripe.CancelSubscription(sc.sub(), false)
		return
	}
	sc.env.stripe.UpdateSubscription(sc.sub(), func(s *stripetest.Subscription) { change(s, what, sc.env.now()) })
}

func change(s *stripetest.Subscription, what string, now time.Time) {
	trial := s.Status == "trialing"
	switch what {
	case "plan":
		s.Items[0].PriceID = bundle
	case "anchor":
		if !trial {
			s.Start, s.End, s.Anchor = now, time.Time{}, now
		}
	case "leave":
		s.CancelAtPeriodEnd = true
	case "stay":
		s.CancelAtPeriodEnd = false
	case "late":
		if s.Status == "active" {
			s.Status = "past_due"
		}
	case "paid":
		if !trial {
			s.Status = "active"
		}
	}
}

func ownerOf(h stripetest.Hook, all [3]*scenario) int {
	for i, sc := range all {
		if strings.Contains(string(h.Payload), sc.tenant) {
			return i
		}
	}
	return -1
}

// current is what counts from now on: the subscription and the running period.
// Earlier periods depend on which hooks arrived in time.
func current(env *testEnv, sc *scenario) string {
	lines := env.subscriptionsOf(sc.tenant)
	if len(lines) == 0 {
		return "nothing"
	}
	now := env.now()
	running := env.db.Texts(`select coalesce(plan_id, '') || ' ' || trial || ' ' || period_start || ' ' || period_end from billing_periods
		where tenant_id = $1 and period_start <= $2 and period_end > $2`, sc.tenant, now)
	row := env.db.Texts(`select coalesce(trial_ends_at::text, 'no trial') from subscriptions where tenant_id = $1`, sc.tenant)
	return strings.ReplaceAll(fmt.Sprint(lines[0], row, running), sc.tenant, "")
}

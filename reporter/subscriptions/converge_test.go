package subscriptions

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"odometer/reporter/stripetest"
)

// Three tenants go through the same at Stripe. Of the first we hear at once
// and in order; of the second by some hooks, late, repeated and in any order;
// of the third by none. After the job all three stand alike, and stay so.
func TestWhateverBecomesOfHooksComparingEndsInTheSameState(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "2026-01-01")
	acts := 0
	rapid.Check(t, func(r *rapid.T) {
		all := [3]*life{newLife(w), newLife(w), newLife(w)}
		var waiting []stripetest.Hook
		for range rapid.IntRange(1, 8).Draw(r, "acts") {
			act := rapid.SampledFrom(lifeActs).Draw(r, "act")
			days := rapid.IntRange(0, 9).Draw(r, "days")
			now := w.now().Add(time.Duration(days)*24*time.Hour + time.Hour)
			w.clock.Store(&now)
			for _, l := range all {
				acts++
				l.act(act)
				for _, h := range w.take() {
					switch owner := ownerOf(h, all); {
					case owner == 0:
						w.deliver(h)
					case owner == 1:
						waiting = append(waiting, h)
					}
				}
			}
			w.work()
			if len(waiting) > 0 {
				w.deliver(rapid.SliceOfN(rapid.SampledFrom(waiting), 0, 3).Draw(r, "told")...)
				w.work()
			}
		}
		w.compare()
		want := current(w, all[0])
		for _, l := range all[1:] {
			if got := current(w, l); got != want {
				r.Fatalf("%s: %s\nwant, as of who was told in time, %s\nhistory %q\nand       %q", l.tenant, got, want, w.agreed(l.tenant), w.agreed(all[0].tenant))
			}
		}
		if c := w.compare(); c.Changed != 0 || c.Findings != 0 {
			r.Fatalf("a second comparison: %+v", c)
		}
		for _, l := range all { // so that the next ones have Stripe to themselves
			w.stripe.CancelSubscription(l.sub(), false)
		}
		w.take()
		w.compare()
	})
	t.Log(acts, "acts")
}

// life is one customer at Stripe.
type life struct {
	w      *world
	tenant string
	n      int // subscriptions so far
}

func newLife(w *world) *life {
	l := &life{w: w, tenant: uuid.NewString()}
	w.stripe.CreateCustomer("cus_"+l.tenant, map[string]string{"tenant_id": l.tenant})
	return l
}

var lifeActs = []string{"subscribe", "trial", "plan", "anchor", "leave", "stay", "cancel", "late", "paid", "nothing"}

func (l *life) sub() string { return fmt.Sprintf("sub_%s_%d", l.tenant, l.n) }

// act does something to the customer's subscription, or makes one when there
// is none that lives.
func (l *life) act(what string) {
	sub, ok := l.w.stripe.Subscription(l.sub())
	if !ok || sub.Status == "canceled" {
		l.n++
		given := stripetest.Subscription{ID: l.sub(), Customer: "cus_" + l.tenant, Items: []stripetest.Item{{PriceID: inbox}}}
		if what == "trial" {
			until := l.w.now().Add(7 * 24 * time.Hour)
			given.Status, given.TrialEnd = "trialing", &until
		}
		l.w.stripe.CreateSubscription(given)
		return
	}
	if what == "cancel" {
		l.w.stripe.CancelSubscription(l.sub(), false)
		return
	}
	l.w.stripe.UpdateSubscription(l.sub(), func(s *stripetest.Subscription) { change(s, what, l.w.now()) })
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

func ownerOf(h stripetest.Hook, all [3]*life) int {
	for i, l := range all {
		if strings.Contains(string(h.Payload), l.tenant) {
			return i
		}
	}
	return -1
}

// current is what counts from now on: the subscription, and the period that
// runs. What was before depends on what was heard in time.
func current(w *world, l *life) string {
	lines := w.agreed(l.tenant)
	if len(lines) == 0 {
		return "nothing"
	}
	now := w.now()
	running := w.texts(`select coalesce(plan_id, '') || ' ' || trial || ' ' || period_start || ' ' || period_end from billing_periods
		where tenant_id = $1 and period_start <= $2 and period_end > $2`, l.tenant, now)
	row := w.texts(`select coalesce(trial_ends_at::text, 'no trial') from subscriptions where tenant_id = $1`, l.tenant)
	return strings.ReplaceAll(fmt.Sprint(lines[0], row, running), l.tenant, "")
}

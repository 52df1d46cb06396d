package stripetest

import (
	"container/heap"
	"time"
)

// upcomingLead is how long before the end of a period invoice.upcoming comes;
// a shorter period has none, as in Stripe.
const upcomingLead = 72 * time.Hour

// schedule sets the timers of the subscription's current period, and voids
// those that were set before.
func (s *Server) schedule(sub *Subscription, now time.Time) {
	sub.scheduleVersion++
	if !sub.rolls() {
		return
	}
	plan := sub.scheduleVersion
	planned := func(happens func(*Subscription, time.Time)) func(time.Time) {
		return func(at time.Time) {
			if sub.scheduleVersion == plan {
				happens(sub, at)
			}
		}
	}
	upcoming := sub.End.Add(-upcomingLead)
	if upcoming.After(now) && !upcoming.Before(sub.Start) {
		s.timers.at(upcoming, planned(s.emitUpcoming))
	}
	s.timers.at(sub.periodEndsAt(), planned(s.endPeriod))
}

// rolls reports whether periods follow each other in this status. A
// subscription that is past due is billed on, and so is an unpaid one, whose
// invoices stay drafts.
func (sub *Subscription) rolls() bool {
	switch sub.Status {
	case "active", "trialing", "past_due", "unpaid":
		return true
	}
	return false
}

// periodEndsAt is the end of the period, or the cancellation within it.
func (sub *Subscription) periodEndsAt() time.Time {
	if sub.CancelAt != nil && sub.CancelAt.Before(sub.End) {
		return *sub.CancelAt
	}
	return sub.End
}

func (sub *Subscription) endsAt(t time.Time) bool {
	return sub.CancelAt != nil && !sub.CancelAt.After(t) ||
		sub.CancelAtPeriodEnd && !sub.End.After(t)
}

// emitUpcoming emits invoice.upcoming: a preview, which has no id.
func (s *Server) emitUpcoming(sub *Subscription, at time.Time) {
	preview := s.showInvoice(s.draft(sub, sub.End, sub.next(sub.End)), false)
	delete(preview, "id")
	s.emit("invoice.upcoming", preview, at)
}

// endPeriod ends a period: a draft bills its usage, and the next period begins
// unless the subscription ends here.
func (s *Server) endPeriod(sub *Subscription, at time.Time) {
	next := sub.next(at)
	s.issue(s.draft(sub, at, next), at)
	if next == nil {
		s.cancel(sub, at)
		return
	}
	if sub.Status == "trialing" {
		sub.Status = "active"
	}
	sub.Start, sub.End = next.start, next.end
	s.schedule(sub, at)
	s.emit("customer.subscription.updated", s.showSubscription(sub, false), at)
}

// period is the time from start until before end.
type period struct{ start, end time.Time }

// next is the period that begins at a time; nil when the subscription ends
// then.
func (sub *Subscription) next(at time.Time) *period {
	if sub.endsAt(at) {
		return nil
	}
	return &period{at, sub.cycle().after(at)}
}

func (s *Server) cancel(sub *Subscription, at time.Time) {
	sub.Status = "canceled"
	s.schedule(sub, at)
	s.markEnded(sub, at)
}

// markEnded marks a canceled subscription. Its period keeps its bounds.
func (s *Server) markEnded(sub *Subscription, at time.Time) {
	if sub.EndedAt == nil {
		sub.EndedAt = &at
	}
	sub.canceledAt = sub.EndedAt
	s.emit("customer.subscription.deleted", s.showSubscription(sub, false), at)
}

// cycle is the rhythm of a subscription's periods.
type cycle struct {
	anchor   time.Time
	interval string // day, week, month or year
	count    int64
}

// after is the first boundary of the cycle after t. Boundaries are counted from
// the anchor, so that one on the 31st is the 28th in February and the 31st again
// in March.
func (c cycle) after(t time.Time) time.Time {
	n := c.estimate(t)
	for !c.boundary(n - 1).Before(t) {
		n--
	}
	for !c.boundary(n).After(t) {
		n++
	}
	return c.boundary(n)
}

// length is the length of a period, in months or in days.
func (c cycle) length() (months, days int) {
	switch n := int(c.count); c.interval {
	case "day":
		return 0, n
	case "week":
		return 0, 7 * n
	case "year":
		return 12 * n, 0
	default:
		return n, 0
	}
}

// estimate is the number of a boundary near t.
func (c cycle) estimate(t time.Time) int {
	months, days := c.length()
	if days > 0 {
		return int(t.Sub(c.anchor)/(24*time.Hour)) / days
	}
	return ((t.Year()-c.anchor.Year())*12 + int(t.Month()-c.anchor.Month())) / months
}

func (c cycle) boundary(n int) time.Time {
	months, days := c.length()
	return addMonths(c.anchor, n*months).AddDate(0, 0, n*days)
}

// addMonths keeps the day of the month where the month has it, and takes its
// last day where not.
func addMonths(t time.Time, n int) time.Time {
	first := time.Date(t.Year(), t.Month()+time.Month(n), 1, t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), t.Location())
	last := first.AddDate(0, 1, -1).Day()
	return first.AddDate(0, 0, min(t.Day(), last)-1)
}

// timer runs something at a time.
type timer struct {
	at     time.Time
	number uint64 // of two at one time the older one runs first
	run    func(at time.Time)
}

// timerQueue is a heap of timers, the next on top. Checking it costs nothing
// while nothing is due, whatever the number of subscriptions.
type timerQueue struct {
	entries []timer
	number  uint64
}

func (a *timerQueue) Len() int { return len(a.entries) }
func (a *timerQueue) Less(i, j int) bool {
	x, y := a.entries[i], a.entries[j]
	return x.at.Before(y.at) || x.at.Equal(y.at) && x.number < y.number
}
func (a *timerQueue) Swap(i, j int) { a.entries[i], a.entries[j] = a.entries[j], a.entries[i] }
func (a *timerQueue) Push(v any)    { a.entries = append(a.entries, v.(timer)) }
func (a *timerQueue) Pop() any {
	last := len(a.entries) - 1
	v := a.entries[last]
	a.entries[last] = timer{}
	a.entries = a.entries[:last]
	return v
}

func (a *timerQueue) at(t time.Time, happens func(at time.Time)) {
	a.number++
	heap.Push(a, timer{t, a.number, happens})
}

// advance runs every timer that is due, each at its own time: a call after
// months has the same effect as calls every day.
func (s *Server) advance(now time.Time) {
	for len(s.timers.entries) > 0 && !s.timers.entries[0].at.After(now) {
		next := heap.Pop(&s.timers).(timer)
		next.run(next.at)
	}
}

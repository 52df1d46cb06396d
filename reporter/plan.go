package reporter

import (
	"fmt"
	"time"

	"odometer"
)

// plan is what a look at a tenant's books comes to.
type plan struct {
	links []*Link // to be stored, then sent
	left  []Left  // what cannot be told now, and why
	again bool    // more is to be told once these are decided
}

// Left is overage that a pass could not tell.
type Left struct {
	Tenant   string    `json:"tenant_id"`
	Agent    string    `json:"agent"`
	Period   time.Time `json:"period_start"`
	Customer string    `json:"stripe_customer"`
	Units    int64     `json:"units"`
	State    string    `json:"state"` // parked, undecided or refused
	Reason   string    `json:"reason"`
}

// planner is what a pass plans by.
type planner struct {
	now      time.Time
	sink     Sink
	account  string
	livemode bool
	byHand   bool // also what is parked and what backs off
	// item finds the subscription item of an agent, with UsageRecords; "" when
	// the subscription has none.
	item func(b *book, u *use) string
}

// target is where the tenant's usage of an agent in a period is told.
func (p *planner) target(b *book, in *period, u *use) Target {
	t := Target{Account: p.account, Livemode: p.livemode, Customer: b.customerOf(in), Meter: u.meter}
	if p.sink == UsageRecords {
		t.Meter = p.item(b, u)
	}
	return t
}

// targetIn is where the usage of a period is told: once it has ended, where its
// chain stands, since its invoice is that customer's.
func (p *planner) targetIn(b *book, in *period, u *use, chain []*Link) Target {
	if in.ended(p.now) {
		for i := len(chain) - 1; i >= 0; i-- {
			if chain[i].State.counts() && chain[i].To != 0 && chain[i].Billed.Equal(in.start) {
				return chain[i].Target
			}
		}
	}
	return p.target(b, in, u)
}

// plan compares what is owed with what was told. It is a function of the books
// and the time: at most one link for a target that nothing undecided waits for.
func (p *planner) plan(b *book) plan {
	var out plan
	for _, period := range b.periods {
		for i := range period.agents {
			p.planUse(b, period, &period.agents[i], &out)
		}
	}
	p.planStray(b, &out)
	return out
}

// planStray takes back what was told for periods that are no more, since a
// change of the subscription has divided the tenant's time anew.
func (p *planner) planStray(b *book, out *plan) {
	seen := map[string]bool{}
	for _, l := range b.links {
		key := l.Agent + " " + l.Period.String()
		into := b.at(l.Period)
		if seen[key] || into == nil || into.start.Equal(l.Period) {
			continue
		}
		seen[key] = true
		if into.invoice.fixed {
			into = b.at(p.now)
		}
		chain := b.chain(l.Period, l.Agent)
		for target, total := range totals(chain) {
			if total != 0 && into != nil {
				p.move(b, &period{start: l.Period}, into, &use{agent: l.Agent}, target, chain, 0, out)
			}
		}
	}
}

func (p *planner) planUse(b *book, in *period, u *use, out *plan) {
	chain := b.chain(in.start, u.agent)
	if b.customerOf(in) == "" {
		if u.overage != toldSoFar(chain) {
			out.leave(b, in, u, u.overage-toldSoFar(chain), "parked",
				"the tenant has no Stripe customer: map one with: odometer subscription set --stripe-customer")
		}
		return
	}
	if in.invoice.fixed {
		p.carry(b, in, u, chain, out)
		return
	}
	current := p.targetIn(b, in, u, chain)
	for target, total := range totals(chain) {
		if target != current && total != 0 {
			p.move(b, in, in, u, target, chain, 0, out)
		}
	}
	p.move(b, in, in, u, current, chain, u.overage, out)
}

// carry takes what the final invoice of a closed period lacks, or has too
// much, into the running one.
func (p *planner) carry(b *book, in *period, u *use, chain []*Link, out *plan) {
	missing := u.overage - toldSoFar(chain)
	if missing == 0 {
		return
	}
	into := b.at(p.now)
	switch {
	case !in.closed:
		out.leave(b, in, u, missing, "undecided", "the invoice of its period is final, its count is not: once the period is closed, the next one will carry it")
	case into == nil && b.over():
		p.giveUp(b, in, u, p.target(b, in, u), chain, out)
	case into == nil, into == in, into.trial: // the next paid period takes it
		out.leave(b, in, u, missing, "undecided", "the invoice of its period is final; the next paid period will carry it")
	default:
		current := p.target(b, into, u)
		p.move(b, in, into, u, current, chain, totals(chain)[current]+missing, out)
	}
}

// over reports whether no further period will come.
func (b *book) over() bool { return b.status == odometer.Canceled || b.status == odometer.Expired }

// giveUp records that no invoice is left to take a difference.
func (p *planner) giveUp(b *book, in *period, u *use, current Target, chain []*Link, out *plan) {
	if n := len(chain); n > 0 && chain[n-1].State == Unbillable {
		return
	}
	told := totals(chain)[current]
	l := p.link(b, in, in, u, current, chain, told, told+u.overage-toldSoFar(chain))
	l.State, l.Decided = Unbillable, &p.now
	l.Detail = "the subscription has ended and its last invoice is final"
	out.add(l)
}

// move plans the link that brings the chain of a target to a total.
func (p *planner) move(b *book, in, into *period, u *use, target Target, chain []*Link, want int64, out *plan) {
	have := totals(chain)[target]
	if want == have {
		return
	}
	if target.Meter == "" {
		out.leave(b, in, u, want-have, "parked",
			fmt.Sprintf("the Stripe subscription has no item whose price has the lookup key %q: add the price to it", u.lookupKey))
		return
	}
	if reason := p.closedTo(into); reason != "" {
		out.leave(b, in, u, want-have, "undecided", reason)
		return
	}
	if b.busy(target) || planned(out, target) {
		out.again = true
		return
	}
	if last := lastOf(chain, target); last != nil && last.State == Refused && !p.byHand && last.RetryAt != nil && p.now.Before(*last.RetryAt) {
		out.leave(b, in, u, want-have, "parked", last.Detail)
		return
	}
	delta := p.bounded(b, into, target, want-have)
	if delta == 0 {
		out.again = true // what is told beside it may make room
		out.leave(b, in, u, want-have, "undecided", "a credit is carried only as far as the running period has overage to set against it")
		return
	}
	if delta != want-have {
		out.again = true
	}
	out.add(p.link(b, in, into, u, target, chain, have, have+delta))
}

// closedTo says why a period takes no usage now, "" when it does.
func (p *planner) closedTo(into *period) string {
	switch {
	case p.sink == UsageRecords && into.ended(p.now):
		return "usage records reach only the running period: what is left is carried once the invoice is final"
	case p.sink == UsageRecords && into.timestamp(p.now).After(p.now):
		return "the period has only just begun"
	case into.ended(p.now) && into.invoice.lookedAt.IsZero():
		return "the invoice of the ended period could not be asked for"
	}
	return ""
}

// bounded is the difference as far as Stripe can take it: at most 15 digits,
// and a credit never takes what a period is billed below zero, where Stripe
// would forget it.
func (p *planner) bounded(b *book, into *period, target Target, delta int64) int64 {
	delta = max(min(delta, maxValue), -maxValue)
	if delta < 0 {
		delta = min(0, max(delta, -b.metered(target, into)))
	}
	return delta
}

// add takes a link in; of several in one chain each has its own revision.
func (out *plan) add(l *Link) {
	for _, other := range out.links {
		if other.Agent == l.Agent && other.Period.Equal(l.Period) {
			l.Revision++
		}
	}
	out.links = append(out.links, l)
}

func planned(out *plan, t Target) bool {
	for _, l := range out.links {
		if l.Target == t && l.State == Planned {
			return true
		}
	}
	return false
}

func lastOf(chain []*Link, t Target) *Link {
	for i := len(chain) - 1; i >= 0; i-- {
		if chain[i].Target == t {
			return chain[i]
		}
	}
	return nil
}

func (p *planner) link(b *book, in, into *period, u *use, target Target, chain []*Link, from, to int64) *Link {
	l := &Link{
		Tenant: b.tenant, Agent: u.agent, Period: in.start, Billed: into.start,
		Revision: nextRevision(chain), From: from, To: to, Value: to - from,
		Origin: told, Sink: p.sink, Target: target, ReportedAt: into.timestamp(p.now), State: Planned,
	}
	if p.sink == UsageRecords {
		l.Value = b.metered(target, into) + l.Delta()
		l.ReportedAt = firstTimestamp(b, target, into, l.ReportedAt)
	}
	return l
}

// firstTimestamp is the timestamp that all records of an item and period
// share, so that each set overwrites the one before.
func firstTimestamp(b *book, t Target, into *period, fresh time.Time) time.Time {
	for _, l := range b.links {
		if l.Target == t && l.Origin == told && l.FirstAttempt != nil && into.holds(l.ReportedAt) {
			fresh = earlier(fresh, l.ReportedAt)
		}
	}
	return fresh
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func (out *plan) leave(b *book, in *period, u *use, units int64, state, reason string) {
	out.left = append(out.left, Left{
		Tenant: b.tenant.String(), Agent: u.agent, Period: in.start, Customer: b.customerOf(in),
		Units: units, State: state, Reason: reason,
	})
}

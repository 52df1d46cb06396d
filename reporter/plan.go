package reporter

import (
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"odometer"
)

// plan is what has to be done for a tenant.
type plan struct {
	entries []*LedgerEntry // to be inserted, then sent
	left    []Left         // what cannot be reported now, and why
	again   bool           // more can be reported once these are decided
}

// Left is overage that a pass could not report.
type Left struct {
	Tenant   uuid.UUID `json:"tenant_id"`
	Agent    string    `json:"agent"`
	Period   time.Time `json:"period_start"`
	Customer string    `json:"stripe_customer"`
	Units    int64     `json:"units"`
	State    string    `json:"state"` // parked, undecided or refused
	Reason   string    `json:"reason"`
}

// planner holds what planning depends on besides the accounts.
type planner struct {
	now      time.Time
	sink     Sink
	account  string
	livemode bool
	byHand   bool // also what is parked or waits for its retry
	// item returns the subscription item of an agent, with UsageRecords; ""
	// when the subscription has none.
	item func(a *tenantAccount, u *agentUsage) string
}

// target is where the tenant's usage of an agent in a period is reported.
func (p *planner) target(a *tenantAccount, in *period, u *agentUsage) MeterTarget {
	t := MeterTarget{Account: p.account, Livemode: p.livemode, Customer: a.billedCustomer(in), Meter: u.meter}
	if p.sink == UsageRecords {
		t.Meter = p.item(a, u)
	}
	return t
}

// billedTarget is where the usage of a period is billed: once the period has
// ended, the target of its chain, since its invoice is that customer's.
func (p *planner) billedTarget(a *tenantAccount, in *period, u *agentUsage, chain []*LedgerEntry) MeterTarget {
	if in.ended(p.now) {
		for i := len(chain) - 1; i >= 0; i-- {
			if chain[i].State.isAccepted() && chain[i].To != 0 && chain[i].Billed.Equal(in.start) {
				return chain[i].MeterTarget
			}
		}
	}
	return p.target(a, in, u)
}

// plan compares what is owed with what was reported. It depends on the account
// and the time alone, and plans at most one entry for a target, and none for a
// target with an undecided entry.
func (p *planner) plan(a *tenantAccount) plan {
	var out plan
	for _, period := range a.periods {
		for _, u := range period.agents {
			p.planAgent(a, period, u, &out)
		}
	}
	p.planRemovedPeriods(a, &out)
	return out
}

// planRemovedPeriods takes back what was reported for periods that no longer
// exist because a change of the subscription has divided the tenant's time
// differently.
func (p *planner) planRemovedPeriods(a *tenantAccount, out *plan) {
	seen := map[string]bool{}
	for _, e := range a.entries {
		key := e.Agent + " " + e.Period.String()
		into := a.periodAt(e.Period)
		if seen[key] || into == nil || into.start.Equal(e.Period) {
			continue
		}
		seen[key] = true
		if into.invoice.concluded {
			into = a.periodAt(p.now)
		}
		chain := a.chain(e.Period, e.Agent)
		for target, total := range lastTotals(chain) {
			if total != 0 && into != nil {
				p.planTotal(a, &period{start: e.Period}, into, &agentUsage{agent: e.Agent}, target, chain, 0, out)
			}
		}
	}
}

func (p *planner) planAgent(a *tenantAccount, in *period, u *agentUsage, out *plan) {
	chain := a.chain(in.start, u.agent)
	if a.billedCustomer(in) == "" {
		if u.overage != totalReported(chain) {
			out.leave(a, in, u, u.overage-totalReported(chain), "parked",
				"the tenant has no Stripe customer: map one with: odometer subscription set --stripe-customer")
		}
		return
	}
	if in.invoice.concluded {
		p.carry(a, in, u, chain, out)
		return
	}
	current := p.billedTarget(a, in, u, chain)
	for target, total := range lastTotals(chain) {
		if target != current && total != 0 {
			p.planTotal(a, in, in, u, target, chain, 0, out)
		}
	}
	p.planTotal(a, in, in, u, current, chain, u.overage, out)
}

// carry moves into the running period what the final invoice of a closed period
// lacks, or has too much.
func (p *planner) carry(a *tenantAccount, in *period, u *agentUsage, chain []*LedgerEntry, out *plan) {
	missing := u.overage - totalReported(chain)
	if missing == 0 {
		return
	}
	into := a.periodAt(p.now)
	switch {
	case !in.closed:
		out.leave(a, in, u, missing, "undecided", "the invoice of its period is final, its count is not: once the period is closed, the next one will carry it")
	case into == nil && a.hasEnded():
		p.planUnbillable(a, in, u, p.target(a, in, u), chain, out)
	case into == nil, into == in, into.trial: // the next paid period will take it
		out.leave(a, in, u, missing, "undecided", "the invoice of its period is final; the next paid period will carry it")
	default:
		current := p.target(a, into, u)
		p.planTotal(a, in, into, u, current, chain, lastTotals(chain)[current]+missing, out)
	}
}

// hasEnded reports whether no further period will come.
func (a *tenantAccount) hasEnded() bool {
	return a.status == odometer.Canceled || a.status == odometer.Expired
}

// planUnbillable records that no invoice is left that could take a difference.
func (p *planner) planUnbillable(a *tenantAccount, in *period, u *agentUsage, current MeterTarget, chain []*LedgerEntry, out *plan) {
	if n := len(chain); n > 0 && chain[n-1].State == Unbillable {
		return
	}
	reported := lastTotals(chain)[current]
	e := p.newEntry(a, in, in, u, current, chain, reported, reported+u.overage-totalReported(chain))
	e.State, e.Decided = Unbillable, &p.now
	e.Detail = "the subscription has ended and its last invoice is final"
	out.add(e)
}

// planTotal plans the entry that brings the chain of a target to a total.
func (p *planner) planTotal(a *tenantAccount, in, into *period, u *agentUsage, target MeterTarget, chain []*LedgerEntry, want int64, out *plan) {
	have := lastTotals(chain)[target]
	if want == have {
		return
	}
	if target.Meter == "" {
		out.leave(a, in, u, want-have, "parked",
			fmt.Sprintf("the Stripe subscription has no item whose price has the lookup key %q: add the price to it", u.lookupKey))
		return
	}
	if reason := p.whyNotAccepting(into); reason != "" {
		out.leave(a, in, u, want-have, "undecided", reason)
		return
	}
	if a.hasUndecided(target) || hasPlanned(out, target) {
		out.again = true
		return
	}
	if last := lastOf(chain, target); last != nil && last.State == Rejected && !p.byHand && last.RetryAt != nil && p.now.Before(*last.RetryAt) {
		out.leave(a, in, u, want-have, "parked", last.Detail)
		return
	}
	delta := p.limitDelta(a, into, target, want-have)
	if delta == 0 {
		out.again = true // other reports may make room
		out.leave(a, in, u, want-have, "undecided", "a credit is carried only as far as the running period has overage to set against it")
		return
	}
	if delta != want-have {
		out.again = true
	}
	out.add(p.newEntry(a, in, into, u, target, chain, have, have+delta))
}

// whyNotAccepting says why a period takes no usage now, "" when it does.
func (p *planner) whyNotAccepting(into *period) string {
	switch {
	case p.sink == UsageRecords && into.ended(p.now):
		return "usage records reach only the running period: what is left is carried once the invoice is final"
	case p.sink == UsageRecords && into.timestamp(p.now).After(p.now):
		return "the period has only just begun"
	case into.ended(p.now) && into.invoice.checkedAt.IsZero():
		return "the invoice of the ended period could not be read"
	}
	return ""
}

// limitDelta limits the difference to what Stripe can take: at most 15 digits,
// and a credit never brings a period below zero, where Stripe would drop it.
func (p *planner) limitDelta(a *tenantAccount, into *period, target MeterTarget, delta int64) int64 {
	delta = max(min(delta, maxValue), -maxValue)
	if delta < 0 {
		delta = min(0, max(delta, -a.sentToMeter(target, into)))
	}
	return delta
}

// add adds an entry; of several in one chain each gets its own revision.
func (out *plan) add(e *LedgerEntry) {
	for _, other := range out.entries {
		if other.Agent == e.Agent && other.Period.Equal(e.Period) {
			e.Revision++
		}
	}
	out.entries = append(out.entries, e)
}

func hasPlanned(out *plan, t MeterTarget) bool {
	return slices.ContainsFunc(out.entries, func(e *LedgerEntry) bool { return e.MeterTarget == t && e.State == Planned })
}

func lastOf(chain []*LedgerEntry, t MeterTarget) *LedgerEntry {
	for i := len(chain) - 1; i >= 0; i-- {
		if chain[i].MeterTarget == t {
			return chain[i]
		}
	}
	return nil
}

func (p *planner) newEntry(a *tenantAccount, in, into *period, u *agentUsage, target MeterTarget, chain []*LedgerEntry, from, to int64) *LedgerEntry {
	e := &LedgerEntry{
		Tenant: a.tenant, Agent: u.agent, Period: in.start, Billed: into.start,
		Revision: nextRevision(chain), From: from, To: to, Value: to - from,
		Origin: OriginReported, Sink: p.sink, MeterTarget: target, ReportedAt: into.timestamp(p.now), State: Planned,
	}
	if p.sink == UsageRecords {
		e.Value = a.sentToMeter(target, into) + e.Delta()
		e.ReportedAt = firstTimestamp(a, target, into, e.ReportedAt)
	}
	return e
}

// firstTimestamp is the timestamp that all records of an item and period share,
// so that each "set" overwrites the one before.
func firstTimestamp(a *tenantAccount, t MeterTarget, into *period, fresh time.Time) time.Time {
	for _, e := range a.entries {
		if e.MeterTarget == t && e.Origin == OriginReported && e.FirstAttempt != nil && into.contains(e.ReportedAt) {
			fresh = earlier(fresh, e.ReportedAt)
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

func (out *plan) leave(a *tenantAccount, in *period, u *agentUsage, units int64, state, reason string) {
	out.left = append(out.left, Left{
		Tenant: a.tenant, Agent: u.agent, Period: in.start, Customer: a.billedCustomer(in),
		Units: units, State: state, Reason: reason,
	})
}

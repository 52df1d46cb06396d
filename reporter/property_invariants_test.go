package reporter

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// bill is what Stripe has of an agent of a tenant.
type bill struct {
	total    int64 // of the meter, over all time
	inSpans  int64 // of the meter, by timestamps in the spans
	money    int64 // on final invoices, and on the meter of spans without one
	running  int64 // of the meter in the running span
	negative bool  // a span without a final invoice is below zero
}

// checkInvariants checks what must hold at any time.
func (s *simulation) checkInvariants() {
	for _, c := range s.tenants {
		final := s.finalInvoices(c)
		for _, agent := range s.agents {
			b := s.billOf(c, agent, final)
			var most int64
			for _, p := range c.spans {
				most += p.most[agent]
			}
			switch {
			case b.money > most:
				s.fail(c, "%s: %d units are billed, but the overage was never above %d", agent, b.money, most)
			case b.negative:
				s.fail(c, "%s: a period is billed below zero", agent)
			case b.inSpans != b.total:
				s.fail(c, "%s: %d of %d units have timestamps in no period", agent, b.total-b.inSpans, b.total)
			}
		}
	}
	s.checkLedger()
}

// finalInvoices are what final invoices bill, by agent and period's start.
func (s *simulation) finalInvoices(c *customer) map[string]int64 {
	final := map[string]int64{}
	for _, invoice := range s.stripe.Invoices(c.customer) {
		for _, line := range invoice.Lines {
			if invoice.Status != "draft" && line.Meter != "" {
				final[line.Meter+line.PeriodStart.String()] += line.Quantity
			}
		}
	}
	return final
}

func (s *simulation) billOf(c *customer, agent string, final map[string]int64) (b bill) {
	meter := agent + "_overage"
	if b.total = c.meterTotal(agent); b.total == 0 && len(final) == 0 {
		return b
	}
	for _, p := range c.spans {
		total := s.stripe.Total(c.customer, meter, p.start, p.end)
		b.inSpans += total
		if quantity, ok := final[meter+p.start.String()]; ok {
			b.money += quantity
			continue
		}
		b.money += total
		b.negative = b.negative || total < 0
		if p == c.now() {
			b.running = total
		}
	}
	return b
}

// Each invariant has a query for the entries that violate it.
var ledgerInvariants = map[string]string{
	"an entry starts where the chain of its target stands": `
select identifier from (
    select identifier, from_total,
        (array_remove(array_agg(case when state in ('accepted', 'verified') then to_total end) over before, null)) as stood
    from overage_reports
    window before as (
        partition by tenant_id, agent, period_start, account, livemode, stripe_customer, meter
        order by revision rows between unbounded preceding and 1 preceding
    )
) l where from_total <> coalesce(stood[array_length(stood, 1)], 0)`,
	"revisions are dense": `
select min(identifier) from overage_reports
group by tenant_id, agent, period_start having count(*) <> max(revision) or min(revision) <> 1`,
	"what is sent is the difference": `
select identifier from overage_reports where origin = 'reported' and value <> to_total - from_total`,
	"at most one entry of a target is undecided": `
select min(identifier) from overage_reports where state in ('planned', 'sending', 'unknown')
group by account, livemode, stripe_customer, meter having count(*) > 1`,
	"a timestamp lies in the billed period, a minute from its ends": `
select identifier from overage_reports r
where not exists (
    select from billing_periods p
    where p.tenant_id = r.tenant_id and p.period_start = r.billed_period_start
      and r.reported_at between p.period_start + interval '1 minute' and p.period_end - interval '1 minute'
)`,
	"a planned entry was never sent": `
select identifier from overage_reports where state = 'planned' and (first_attempt_at is not null or attempts <> 0)`,
	"an undecided entry keeps its period unsettled": `
select identifier from overage_reports r join billing_periods p using (tenant_id)
where r.state in ('planned', 'sending', 'unknown') and p.settled_at is not null
  and p.period_start in (r.period_start, r.billed_period_start)`,
	"the frozen overage of a settled period was reported": `
select t.tenant_id || ' ' || t.agent || ' ' || t.period_start from period_totals t
join billing_periods p using (tenant_id, period_start)
where p.settled_at is not null and t.overage <> (
    select coalesce(sum(to_total - from_total), 0) from overage_reports r
    where r.tenant_id = t.tenant_id and r.agent = t.agent and r.period_start = t.period_start and r.state in ('accepted', 'verified')
)`,
}

func (s *simulation) checkLedger() {
	for invariant, query := range ledgerInvariants {
		rows, err := s.db.Pool.Query(context.Background(), "select coalesce(string_agg(x.l, ' '), '') from ("+query+" limit 3) as x (l)")
		s.must(err)
		rows.Next()
		var broken string
		s.must(rows.Scan(&broken))
		rows.Close()
		if broken != "" {
			s.t.Errorf("step %d: %s: not %s", s.step, invariant, broken)
			s.showEntries(broken)
		}
	}
}

// showEntries logs the tenant of an entry.
func (s *simulation) showEntries(identifiers string) {
	for _, c := range s.tenants {
		for _, e := range c.allEntries() {
			if strings.Contains(identifiers, e.Identifier) {
				s.fail(c, "%s", e.Identifier)
				return
			}
		}
	}
}

// checkFinalState checks that everything has come to what was used: at first except
// for credits that wait for overage, and then, once there is some, of them too.
func (s *simulation) checkFinalState() {
	waiting := s.checkBilled(true)
	var changed counters
	for _, w := range waiting {
		p := w.now()
		s.setCount(w.customer, p, w.agent, max(p.count[w.agent], s.limits[p.plan][w.agent])+w.units+7, &changed)
	}
	s.storeCounters(changed)
	s.note("%d credits get something to be set against", len(waiting))
	var result Result
	for range 2 {
		s.advance(time.Minute)
		s.begin(func() {})
		result, _ = s.Pass(s.t.Context(), Scope{ByHand: true})
	}
	if result.LeftCount != 0 {
		s.t.Errorf("at the end %d differences are left: %+v", result.LeftCount, result.Left[0])
	}
	s.checkInvariants()
	s.checkBilled(false)
	s.checkAllSettled()
}

// credit is what a tenant was billed too much, as long as nothing can be set
// against it.
type credit struct {
	*customer
	agent string
	units int64
}

func (s *simulation) checkBilled(mayWait bool) (waiting []credit) {
	for _, c := range s.tenants {
		final := s.finalInvoices(c)
		for _, agent := range s.agents {
			b := s.billOf(c, agent, final)
			var used int64
			for _, p := range c.spans {
				used += s.overage(p, agent)
			}
			switch {
			case b.money == used:
			case mayWait && b.money > used && b.running == 0:
				waiting = append(waiting, credit{c, agent, b.money - used})
			default:
				s.fail(c, "%s: at the end %d units are billed, but %d were used beyond the limits", agent, b.money, used)
			}
		}
	}
	return waiting
}

// checkAllSettled checks that every period that is over is settled:
// only the running one may be unsettled.
func (s *simulation) checkAllSettled() {
	var undecided, unsettled int
	var wrong string
	row := s.db.Pool.QueryRow(context.Background(), `
select
    (select count(*) from overage_reports where state in ('planned', 'sending', 'unknown')),
    (select count(*) from billing_periods where period_end <= $1 and settled_at is null),
    (select coalesce(string_agg(kind || ' ' || subject || ': ' || detail, '; '), '') from audit_findings where kind not in ('stripe_total_differs', 'late_usage') and resolved_at is null)`,
		s.time())
	s.must(row.Scan(&undecided, &unsettled, &wrong))
	if undecided+unsettled != 0 || wrong != "" {
		s.t.Errorf("at the end %d entries are undecided, %d periods not settled, findings open: %s", undecided, unsettled, wrong)
	}
}

// fail says what is wrong with a tenant, and all that happened to it.
func (s *simulation) fail(c *customer, format string, args ...any) {
	s.t.Errorf("step %d, %s: %s", s.step, c.customer, fmt.Sprintf(format, args...))
	if s.failed++; s.failed > 3 {
		return
	}
	s.t.Logf("%s", strings.Join(s.trace, "\n"))
	s.t.Logf("%s", strings.Join(c.history, "\n"))
	for _, p := range c.spans {
		if len(p.count) > 0 {
			s.t.Logf("period %s to %s, %s: %v, at most %v", p.start.Format(time.DateTime), p.end.Format(time.DateTime), p.plan, p.count, p.most)
		}
	}
	for _, e := range c.allEntries() {
		s.t.Logf("entry %s %s %d billed %s: %d -> %d %s %s at %s, attempts %d (%s)", e.Agent, e.Period.Format(time.DateTime), e.Revision,
			e.Billed.Format(time.DateTime), e.From, e.To, e.Origin, e.State, e.ReportedAt.Format(time.DateTime), e.Attempts, e.Detail)
	}
	for _, i := range s.stripe.Invoices(c.customer) {
		for _, line := range i.Lines {
			if line.Meter != "" && line.Quantity != 0 {
				s.t.Logf("invoice %s %s: %s %d", i.PeriodStart.Format(time.DateTime), i.Status, line.Meter, line.Quantity)
			}
		}
	}
}

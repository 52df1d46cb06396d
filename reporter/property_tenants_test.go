package reporter

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"odometer"
	"odometer/billing"
	"odometer/reporter/stripetest"
)

// simulation is a test environment of many tenants who act at random.
type simulation struct {
	*testEnv
	seed    uint64
	rng     *rand.Rand
	step    int
	tenants []*customer
	limits  map[string]map[string]int64 // by plan and agent
	agents  []string
	plans   []string
	faults  faultPlan
	trace   []string
	failed  int

	mu    sync.Mutex
	asked map[string]int // requests of this step, by what they are about
	posts atomic.Int64
	kill  func()
}

// customer is a tenant with a model of what is true of it.
type customer struct {
	*tenant
	rng      *rand.Rand
	interval odometer.Interval
	agents   []string // those that work for it, most of the time the first
	spans    []*span
	history  []string
}

// span is a billing period as the model knows it.
type span struct {
	start, end time.Time
	plan       string // at its end, or now
	closed     bool
	count      map[string]int64
	most       map[string]int64 // highest overage so far, by agent
}

func newSimulation(t *testing.T, seed uint64, tenants int) *simulation {
	s := &simulation{seed: seed, rng: newRand(seed), asked: map[string]int{}, limits: map[string]map[string]int64{}}
	lag := []time.Duration{0, 0, 10 * time.Minute, 50 * time.Minute, 9 * time.Hour}[s.rng.IntN(5)]
	s.testEnv = newTestEnv(t, func(o *stripetest.Options) { o.SummaryLag = lag })
	s.note("summaries lag by %s", lag)
	catalogue := billing.SampleCatalogue()
	for _, a := range catalogue.Agents {
		s.agents = append(s.agents, a.ID)
	}
	for _, p := range catalogue.Plans {
		s.plans = append(s.plans, p.ID)
		s.limits[p.ID] = map[string]int64{}
		for agent, allowance := range p.Allowances {
			s.limits[p.ID][agent] = allowance.Limit
		}
	}
	for i := range tenants {
		s.tenants = append(s.tenants, s.newCustomer(i))
	}
	s.storeTenants()
	s.stripe.SetFaults(s.fault)
	s.restart()
	return s
}

// newCustomer makes a tenant at Stripe whose periods end at some quarter of a day.
func (s *simulation) newCustomer(i int) *customer {
	name := fmt.Sprintf("%d_%d", s.seed, i)
	c := &customer{rng: newRand(s.hashRand("tenant", strconv.Itoa(i)))}
	c.tenant = &tenant{testEnv: s.testEnv, id: uuid.NewSHA1(uuid.NameSpaceOID, []byte(name)), customer: "cus_" + name, sub: "sub_" + name}
	c.interval = []odometer.Interval{odometer.Daily, odometer.Weekly, odometer.Weekly, odometer.Weekly, odometer.Monthly}[c.rng.IntN(8)%5]
	days := map[odometer.Interval]int{odometer.Daily: 1, odometer.Weekly: 7, odometer.Monthly: 28}[c.interval]
	start := begin.Add(-6 * time.Hour * time.Duration(c.rng.IntN(days*4)))
	c.spans = []*span{newSpan(c.interval, start, s.plans[c.rng.IntN(len(s.plans))])}
	c.agents = []string{s.agents[i%len(s.agents)]}
	if c.rng.IntN(5) == 0 {
		c.agents = s.agents
	}
	items := []stripetest.Item{{ID: "si_base_" + name, PriceID: c.now().plan}}
	for _, agent := range c.agents {
		items = append(items, stripetest.Item{ID: "si_" + agent + "_" + name, PriceID: "price_" + agent, Meter: agent + "_overage", Metered: true})
	}
	s.stripe.CreateCustomer(c.customer, nil)
	s.stripe.CreateSubscription(stripetest.Subscription{
		ID: c.sub, Customer: c.customer, Items: items, Start: start, End: c.now().end, Anchor: start, Interval: string(c.interval),
	})
	return c
}

func newSpan(interval odometer.Interval, start time.Time, plan string) *span {
	end, _ := interval.Next(start, start)
	return &span{start: start, end: end, plan: plan, count: map[string]int64{}, most: map[string]int64{}}
}

// now is the running span.
func (c *customer) now() *span { return c.spans[len(c.spans)-1] }

// storeTenants stores all subscriptions at once, as billing.Set would one by one.
func (s *simulation) storeTenants() {
	for _, c := range s.tenants {
		s.db.Exec(`
with subscription as (
    insert into subscriptions (tenant_id, plan_id, status, period_interval, anchor, stripe_customer, stripe_subscription)
    values ($1, $2, 'active', $3, $4, $6, $7)
)
insert into billing_periods (tenant_id, period_start, period_end, plan_id) values ($1, $4, $5, $2)`,
			c.id, c.now().plan, c.interval, c.now().start, c.now().end, c.customer, c.sub)
	}
}

func (s *simulation) overage(p *span, agent string) int64 {
	return max(0, p.count[agent]-s.limits[p.plan][agent])
}

// remember notes the highest overage.
func (s *simulation) remember(p *span) {
	for _, agent := range s.agents {
		p.most[agent] = max(p.most[agent], s.overage(p, agent))
	}
}

// counters are counters to be stored, as columns.
type counters struct {
	tenant     []uuid.UUID
	agent      []string
	start, end []time.Time
	count      []int64
}

func (s *simulation) tenantsAct() {
	var changed counters
	for _, c := range s.tenants {
		switch n := c.rng.IntN(100); {
		case n < 40:
			s.use(c, c.now(), &changed)
		case n < 44 && len(c.spans) > 1 && !c.spans[len(c.spans)-2].closed: // late
			s.use(c, c.spans[len(c.spans)-2], &changed)
		case n < 46:
			s.changePlan(c)
		}
	}
	s.storeCounters(changed)
}

func (s *simulation) storeCounters(changed counters) {
	s.db.Exec(`
insert into usage_counters (tenant_id, agent, period_start, period_end, count)
select * from unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::bigint[])
on conflict (tenant_id, agent, period_start) do update set count = excluded.count`,
		changed.tenant, changed.agent, changed.start, changed.end, changed.count)
}

// use changes a counter: mostly up, sometimes by a correction.
func (s *simulation) use(c *customer, p *span, changed *counters) {
	agent := c.agents[c.rng.IntN(len(c.agents))]
	limit := max(20, s.limits[p.plan][agent])
	delta := 1 + c.rng.Int64N(limit)
	if p.count[agent] == 0 {
		delta += limit * 2 / 3
	}
	if c.rng.IntN(4) == 0 {
		delta = -min(delta, p.count[agent])
	}
	s.setCount(c, p, agent, p.count[agent]+delta, changed)
}

func (s *simulation) setCount(c *customer, p *span, agent string, count int64, changed *counters) {
	p.count[agent] = count
	s.remember(p)
	c.note(s, "%s of the period from %s counts %d: overage %d", agent, p.start.Format(time.DateTime), count, s.overage(p, agent))
	changed.tenant, changed.agent = append(changed.tenant, c.id), append(changed.agent, agent)
	changed.start, changed.end = append(changed.start, p.start), append(changed.end, p.end)
	changed.count = append(changed.count, count)
}

// changePlan changes the plan of the running period, here and at Stripe.
func (s *simulation) changePlan(c *customer) {
	p := c.now()
	p.plan = s.plans[c.rng.IntN(len(s.plans))]
	s.remember(p)
	c.note(s, "plan %s", p.plan)
	c.subscribe(billing.SubscriptionChange{PlanID: p.plan, Status: odometer.Active, Interval: c.interval, Start: p.start, End: p.end})
	s.stripe.UpdateSubscription(c.sub, func(sub *stripetest.Subscription) { sub.Items[0].PriceID = p.plan })
}

func (c *customer) note(s *simulation, format string, args ...any) {
	c.history = append(c.history, fmt.Sprintf("step %d at %s: ", s.step, s.time().Format(time.DateTime))+fmt.Sprintf(format, args...))
}

// nextEnd is when the next period of any tenant ends.
func (s *simulation) nextEnd() time.Time {
	next := s.time().AddDate(1, 0, 0)
	for _, c := range s.tenants {
		next = earlier(next, c.now().end)
	}
	return next
}

func (s *simulation) rollOver() {
	now := s.time()
	for _, c := range s.tenants {
		for !c.now().end.After(now) {
			c.spans = append(c.spans, newSpan(c.interval, c.now().end, c.now().plan))
		}
	}
	ctx := context.Background()
	due, err := billing.Due(ctx, s.db.Pool, now, len(s.tenants))
	s.must(err)
	if len(due) > 0 {
		s.must(billing.RollOver(ctx, s.db.Pool, due, now, now))
	}
}

func (s *simulation) closePeriods() {
	_, err := Close(context.Background(), s.db.Pool, s.time(), 15*time.Minute)
	s.must(err)
	for _, c := range s.tenants {
		for _, p := range c.spans {
			p.closed = !s.time().Before(p.end.Add(15 * time.Minute))
		}
	}
}

package reporter

import (
	"context"
	"log/slog"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"odometer"
	"odometer/billing"
	"odometer/ingest/natstest"
	"odometer/internal/testenv"
	"odometer/reporter/stripetest"
)

// testEnv is a database, a NATS server and a Stripe on one clock that the test
// holds.
type testEnv struct {
	t      testing.TB
	db     *testenv.Database
	js     jetstream.JetStream
	stripe *stripetest.Server
	url    string
	*clock
	*Reporter
}

// clock is time as the test lets it pass.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) time() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = t
}

func (c *clock) advance(d time.Duration) { c.set(c.time().Add(d)) }

// begin is when the clocks start: a whole month before most tests' ends.
var begin = time.Date(2026, 11, 10, 12, 0, 0, 0, time.UTC)

const (
	plan500 = "price_bundle_monthly" // 500 mails, 50 invoices, 30 meetings
	testKey = "sk_test_env"

	// breakerCooldown is short, so that a test that does not care about the
	// breaker passes it whenever it lets time pass.
	breakerCooldown = 50 * time.Millisecond
)

// newTestEnv makes one with the sample catalogue and its meters.
func newTestEnv(t testing.TB, change func(*stripetest.Options)) *testEnv {
	t.Helper()
	env := &testEnv{t: t, db: testenv.NewDatabase(t), clock: &clock{at: begin}}
	options := stripetest.Options{Key: testKey, Now: env.time}
	if change != nil {
		change(&options)
	}
	env.stripe = stripetest.New(options)
	server := httptest.NewServer(env.stripe)
	t.Cleanup(func() { env.stripe.Release(); server.Close() })
	env.url = server.URL
	js, err := jetstream.New(natstest.Run(t).Connect(t))
	env.must(err)
	env.js = js
	for _, a := range billing.SampleCatalogue().Agents {
		env.stripe.CreateMeter(a.Meter)
	}
	env.db.SetPositions(1, 1000, time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC))
	env.Reporter = env.reporter(MeterEvents)
	return env
}

// reporter is a process that reports.
func (env *testEnv) reporter(sink Sink) *Reporter {
	env.t.Helper()
	r, err := New(Options{
		Pool: env.db.Pool, Stripe: NewStripe(testKey, env.url), NATS: env.js, Sink: sink, Now: env.time,
		BreakerCooldown: breakerCooldown, Log: slog.New(slog.DiscardHandler),
	})
	env.must(err)
	return r
}

func (env *testEnv) must(err error) {
	env.t.Helper()
	if err != nil {
		env.t.Fatal(err)
	}
}

// tenant is a customer with a monthly subscription, the same here and at Stripe.
type tenant struct {
	*testEnv
	id       uuid.UUID
	customer string
	sub      string
}

func (env *testEnv) tenant(name string, start, end time.Time) *tenant {
	env.t.Helper()
	t := env.onlyAtStripe(name, start, end)
	t.subscribe(billing.SubscriptionChange{PlanID: plan500, Status: odometer.Active, Start: start, End: end})
	return t
}

// atStripe is a tenant that only Stripe knows of.
func (env *testEnv) onlyAtStripe(name string, start, end time.Time) *tenant {
	t := &tenant{testEnv: env, id: uuid.NewSHA1(uuid.NameSpaceOID, []byte(name)), customer: "cus_" + name, sub: "sub_" + name}
	env.stripe.CreateCustomer(t.customer, map[string]string{"tenant_id": t.id.String()})
	items := []stripetest.Item{{ID: "si_base_" + name, PriceID: plan500}}
	for _, a := range billing.SampleCatalogue().Agents {
		items = append(items, stripetest.Item{
			ID: "si_" + a.ID + "_" + name, PriceID: "price_" + a.ID, LookupKey: a.LookupKey, Meter: a.Meter, Metered: true,
		})
	}
	env.stripe.CreateSubscription(stripetest.Subscription{
		ID: t.sub, Customer: t.customer, Status: "active", Items: items, Start: start, End: end, Anchor: start, Interval: "month", IntervalCount: 1,
	})
	return t
}

// subscribe sets the subscription on our side.
func (t *tenant) subscribe(a billing.SubscriptionChange) {
	t.t.Helper()
	a.Tenant = t.id
	a.StripeCustomer, a.StripeSubscription = &t.customer, &t.sub
	if a.Interval == "" {
		a.Interval = odometer.Monthly
	}
	_, err := billing.Set(context.Background(), t.db.Pool, a, t.time())
	t.must(err)
}

// use makes the counter of the running period count, as the aggregator would.
func (t *tenant) use(agent string, count int64) {
	t.t.Helper()
	t.db.Exec(`
insert into usage_counters (tenant_id, agent, period_start, period_end, count)
select tenant_id, $2, period_start, period_end, $3
from billing_periods
where tenant_id = $1 and period_start <= $4 and period_end > $4
on conflict (tenant_id, agent, period_start) do update set count = $3`, t.id, agent, count, t.time())
}

// roll brings what time has ended: rolled over, and closed after the grace.
func (env *testEnv) rollAndClose() {
	env.t.Helper()
	ctx := context.Background()
	due, err := billing.Due(ctx, env.db.Pool, env.time(), 1000)
	env.must(err)
	env.must(billing.RollOver(ctx, env.db.Pool, due, env.time(), env.time()))
	_, err = Close(ctx, env.db.Pool, env.time(), 15*time.Minute)
	env.must(err)
}

// report makes a pass by hand.
func (env *testEnv) report() Result {
	env.t.Helper()
	result, err := env.Pass(env.t.Context(), Scope{ByHand: true})
	env.must(err)
	return result
}

// at is what Stripe's meter of an agent holds for the tenant, over all time.
func (t *tenant) meterTotal(agent string) int64 {
	return t.stripe.Total(t.customer, agent+"_overage", begin.AddDate(-1, 0, 0), begin.AddDate(10, 0, 0))
}

// invoiced is what final invoices bill for an agent, in all.
func (t *tenant) invoiced(agent string) (sum int64) {
	for _, invoice := range t.stripe.Invoices(t.customer) {
		for _, line := range invoice.Lines {
			if invoice.Status != "draft" && line.Meter == agent+"_overage" {
				sum += line.Quantity
			}
		}
	}
	return sum
}

// entries returns the tenant's entries, in order.
func (t *tenant) entries() []*LedgerEntry {
	t.t.Helper()
	accounts, err := t.load(context.Background(), []uuid.UUID{t.id}, t.time())
	t.must(err)
	if len(accounts) == 0 {
		return nil
	}
	return accounts[0].entries
}

func (t *tenant) expectMeterTotal(agent string, units int64) {
	t.t.Helper()
	if got := t.meterTotal(agent); got != units {
		t.t.Errorf("Stripe's meter of %s has %d units of %s, want %d", t.customer, got, agent, units)
	}
}

func (env *testEnv) expect(got Result, reported, left int) {
	env.t.Helper()
	if got.Reported != reported || got.LeftCount != left {
		env.t.Errorf("the pass reported %d and left %d, want %d and %d: %+v", got.Reported, got.LeftCount, reported, left, got)
	}
}

// month is the usual period: November.
func (env *testEnv) november(name string) *tenant {
	return env.tenant(name, time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC))
}

package reporter

import (
	"context"
	"log/slog"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"

	"odometer"
	"odometer/billing"
	"odometer/ingest/natstest"
	"odometer/migrations/pgtest"
	"odometer/reporter/stripetest"
)

// world is a database, a NATS server and a Stripe on one clock that the test
// holds.
type world struct {
	t      testing.TB
	pool   *pgxpool.Pool
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

func (c *clock) pass(d time.Duration) { c.set(c.time().Add(d)) }

// begin is when the worlds' clocks begin: a whole month before most tests' ends.
var begin = time.Date(2026, 11, 10, 12, 0, 0, 0, time.UTC)

const (
	plan500 = "price_bundle_monthly" // 500 mails, 50 invoices, 30 meetings
	testKey = "sk_test_world"
)

// newWorld makes a world with the sample catalogue and its meters.
func newWorld(t testing.TB, change func(*stripetest.Options)) *world {
	t.Helper()
	w := &world{t: t, pool: pgtest.New(t), clock: &clock{at: begin}}
	options := stripetest.Options{Key: testKey, Now: w.time}
	if change != nil {
		change(&options)
	}
	w.stripe = stripetest.New(options)
	server := httptest.NewServer(w.stripe)
	t.Cleanup(func() { w.stripe.Release(); server.Close() })
	w.url = server.URL
	js, err := jetstream.New(natstest.Run(t).Connect(t))
	w.must(err)
	w.js = js
	w.must(billing.ApplyCatalogue(t.Context(), w.pool, billing.SampleCatalogue()))
	for _, a := range billing.SampleCatalogue().Agents {
		w.stripe.CreateMeter(a.Meter)
	}
	w.exec(`insert into stream_epochs (epoch, first_seq, stream_created, partitions) values (1, 1, now(), 1)`)
	w.exec(`insert into stream_positions (partition, stream_epoch, seq, complete_until) values (0, 1, 1000, '2100-01-01')`)
	w.Reporter = w.reporter(MeterEvents)
	return w
}

// reporter is a process that tells Stripe.
func (w *world) reporter(sink Sink) *Reporter {
	w.t.Helper()
	r, err := New(Options{
		Pool: w.pool, Stripe: NewStripe(testKey, w.url), NATS: w.js, Sink: sink, Now: w.time,
		BreakerCooldown: 50 * time.Millisecond, Log: slog.New(slog.DiscardHandler),
	})
	w.must(err)
	return r
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.pool.Exec(context.Background(), sql, args...); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
}

// tenant is a customer with a monthly subscription, the same in both books.
type tenant struct {
	*world
	id       uuid.UUID
	customer string
	sub      string
}

func (w *world) tenant(name string, start, end time.Time) *tenant {
	w.t.Helper()
	t := w.atStripe(name, start, end)
	t.subscribe(billing.SubscriptionChange{PlanID: plan500, Status: odometer.Active, Start: start, End: end})
	return t
}

// atStripe is a tenant that only Stripe knows of.
func (w *world) atStripe(name string, start, end time.Time) *tenant {
	t := &tenant{world: w, id: uuid.NewSHA1(uuid.NameSpaceOID, []byte(name)), customer: "cus_" + name, sub: "sub_" + name}
	w.stripe.CreateCustomer(t.customer, map[string]string{"tenant_id": t.id.String()})
	items := []stripetest.Item{{ID: "si_base_" + name, PriceID: plan500}}
	for _, a := range billing.SampleCatalogue().Agents {
		items = append(items, stripetest.Item{
			ID: "si_" + a.ID + "_" + name, PriceID: "price_" + a.ID, LookupKey: a.LookupKey, Meter: a.Meter, Metered: true,
		})
	}
	w.stripe.CreateSubscription(stripetest.Subscription{
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
	_, err := billing.Set(context.Background(), t.pool, a, t.time())
	t.must(err)
}

// use makes the counter of the running period count, as the aggregator would.
func (t *tenant) use(agent string, count int64) {
	t.t.Helper()
	t.exec(`
insert into usage_counters (tenant_id, agent, period_start, period_end, count)
select tenant_id, $2, period_start, period_end, $3
from billing_periods
where tenant_id = $1 and period_start <= $4 and period_end > $4
on conflict (tenant_id, agent, period_start) do update set count = $3`, t.id, agent, count, t.time())
}

// roll brings what time has ended: rolled over, and closed after the grace.
func (w *world) roll() {
	w.t.Helper()
	ctx := context.Background()
	due, err := billing.Due(ctx, w.pool, w.time(), 1000)
	w.must(err)
	w.must(billing.RollOver(ctx, w.pool, due, w.time(), w.time()))
	_, err = Close(ctx, w.pool, w.time(), 15*time.Minute)
	w.must(err)
}

// report makes a pass by hand.
func (w *world) report() Result {
	w.t.Helper()
	result, err := w.Pass(w.t.Context(), Scope{ByHand: true})
	w.must(err)
	return result
}

// at is what Stripe's meter of an agent holds for the tenant, over all time.
func (t *tenant) at(agent string) int64 {
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

// links are the tenant's links, in order.
func (t *tenant) links() []*Link {
	t.t.Helper()
	books, err := t.load(context.Background(), []uuid.UUID{t.id}, t.time())
	t.must(err)
	if len(books) == 0 {
		return nil
	}
	return books[0].links
}

func (t *tenant) expectAt(agent string, units int64) {
	t.t.Helper()
	if got := t.at(agent); got != units {
		t.t.Errorf("Stripe's meter of %s has %d units of %s, want %d", t.customer, got, agent, units)
	}
}

func (w *world) expect(got Result, told, left int) {
	w.t.Helper()
	if got.Told != told || got.LeftCount != left {
		w.t.Errorf("the pass told %d and left %d, want %d and %d: %+v", got.Told, got.LeftCount, told, left, got)
	}
}

// month is the usual period: November.
func (w *world) month(name string) *tenant {
	return w.tenant(name, time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC))
}

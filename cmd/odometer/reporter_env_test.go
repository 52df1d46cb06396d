package main

import (
	"context"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer"
	"odometer/billing"
	"odometer/ingest/natstest"
	"odometer/migrations/pgtest"
	"odometer/reporter/stripetest"
)

// billed is a test environment of tenants that are over their limits: Postgres, NATS, and
// a Stripe that is slow, fails now and then and knows when a call is where.
type billed struct {
	t      *testing.T
	pool   *pgxpool.Pool
	env    []string // for processes in this environment
	stripe *stripetest.Server
	*killPoints

	keys  []key
	using sync.Mutex // one moves the counters at a time
	mu    sync.Mutex // guards the figures of keys
}

// key is a tenant's use of an agent.
type key struct {
	tenant uuid.UUID
	agent  odometer.Agent
	limit  int64
	count  int64 // as the counter has it, or is about to
	most   int64 // overage at its highest so far
}

func (k *key) customer() string { return "cus_" + k.tenant.String() }
func (k *key) overage() int64   { return max(0, k.count-k.limit) }

const billedPlan = "price_bundle_monthly"

// newBilled makes an environment of n tenants whose period runs from start to end.
func newBilled(t *testing.T, n int, start, end time.Time) *billed {
	t.Helper()
	database, nats := pgtest.URL(t), natstest.Run(t)
	must(t, "catalogue", "apply", "--database-url", database)
	w := &billed{t: t, pool: openPool(t, database), killPoints: &killPoints{}}
	w.stripe = stripetest.New(stripetest.Options{Livemode: true, Latency: 3 * time.Millisecond})
	server := httptest.NewServer(w.watch(w.stripe))
	t.Cleanup(server.Close)
	w.env = []string{
		"ODOMETER_DATABASE_URL=" + database, "ODOMETER_NATS_URL=" + w.relay(t, strings.TrimPrefix(nats.URL(), "nats://")), "ODOMETER_LOG_LEVEL=error",
		"ODOMETER_STRIPE_API_BASE=" + server.URL, "ODOMETER_STRIPE_API_KEY=sk_live_test", "ODOMETER_BREAKER_COOLDOWN=50ms",
	}
	w.subscribe(n, start, end)
	w.listen(database)
	return w
}

const billedTenantsSQL = `
with agreed as (
    insert into subscriptions (tenant_id, plan_id, status, period_interval, anchor, stripe_customer)
    select tenant_id, $2, 'active', 'month', $3, 'cus_' || tenant_id
    from unnest($1::uuid[]) as tenant_id
    returning tenant_id, plan_id
),
inserted as (
    insert into billing_periods (tenant_id, period_start, period_end, plan_id)
    select tenant_id, $3, $4, plan_id
    from agreed
    returning tenant_id
)
insert into usage_counters (tenant_id, agent, period_start, period_end, count)
select l.tenant_id, a.agent, $3, $4, 0
from inserted l, agents a`

func (w *billed) subscribe(n int, start, end time.Time) {
	w.t.Helper()
	tenants := make([]uuid.UUID, n)
	for i := range tenants {
		tenants[i] = uuid.New()
	}
	if _, err := w.pool.Exec(w.t.Context(), billedTenantsSQL, tenants, billedPlan, start, end); err != nil {
		w.t.Fatal(err)
	}
	catalogue := billing.SampleCatalogue()
	plan := catalogue.Plans[slices.IndexFunc(catalogue.Plans, func(p odometer.Plan) bool { return p.ID == billedPlan })]
	for _, a := range catalogue.Agents {
		w.stripe.CreateMeter(a.Meter)
		for _, tenant := range tenants {
			limit := plan.Allowances[a.ID].Limit
			w.keys = append(w.keys, key{tenant: tenant, agent: a, limit: limit, count: limit})
		}
	}
	for i := range w.keys {
		w.stripe.CreateCustomer(w.keys[i].customer(), nil)
	}
	w.use(w.t.Context(), len(w.keys), false)
}

const useSQL = `
update usage_counters
set count = $3
where tenant_id = $1
  and agent = $2`

// use lets n counters move, as the aggregator would; where there are
// corrections, some of them go down.
func (w *billed) use(ctx context.Context, n int, corrections bool) {
	w.using.Lock()
	defer w.using.Unlock()
	batch := &pgx.Batch{}
	w.mu.Lock()
	for _, i := range rand.Perm(len(w.keys))[:n] {
		k := &w.keys[i]
		if corrections && rand.IntN(4) == 0 {
			k.count = max(0, k.count-rand.Int64N(30))
		} else {
			k.count += 1 + rand.Int64N(20)
		}
		k.most = max(k.most, k.overage())
		batch.Queue(useSQL, k.tenant, k.agent.ID, k.count)
	}
	w.mu.Unlock()
	// What was begun is ended, so that the counters are as the keys say.
	if err := w.pool.SendBatch(context.WithoutCancel(ctx), batch).Close(); err != nil {
		w.t.Errorf("move the counters: %v", err)
	}
}

// keepUsing lets counters move until the returned function is called.
func (w *billed) keepUsing(corrections bool) (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			w.use(ctx, 5, corrections)
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
	})
	return func() { cancel(); done.Wait() }
}

// failNowAndThen lets Stripe fail in the ways that leave open what it did.
func (w *billed) failNowAndThen() {
	ways := []stripetest.Fault{
		stripetest.ResetAfter, stripetest.TruncatedAfter, stripetest.StoredError500After, stripetest.HTML502After,
		stripetest.ResetBefore, stripetest.StoredError500Before, stripetest.TooManyRequests,
	}
	w.stripe.SetFaults(func(r *http.Request, _ url.Values) stripetest.Fault {
		if r.URL.Path != meterEventsPath || rand.IntN(40) > 0 {
			return stripetest.NoFault
		}
		return ways[rand.IntN(len(ways))]
	})
}

func (w *billed) at(k *key) int64 {
	return w.stripe.Total(k.customer(), k.agent.Meter, time.Unix(0, 0), time.Now().AddDate(1, 0, 0))
}

const undecidedTwiceSQL = `
select count(*)
from (
    select from overage_reports
    where state in ('planned', 'sending', 'unknown')
    group by account, livemode, stripe_customer, meter
    having count(*) > 1
) twice`

// expectLaws checks what holds at any time, whoever was killed when: Stripe
// never has more than was ever true, and waits for one answer at a time.
func (w *billed) expectLaws() {
	w.t.Helper()
	for i := range w.keys {
		k := &w.keys[i]
		total := w.at(k)
		w.mu.Lock()
		most := k.most
		w.mu.Unlock()
		if total < 0 || total > most {
			w.t.Errorf("%s: Stripe has %d units of %s, but there never were more than %d", k.customer(), total, k.agent.ID, most)
		}
	}
	if n := w.number(undecidedTwiceSQL); n > 0 {
		w.t.Errorf("%d customers and meters have several undecided links", n)
	}
}

const brokenChainsSQL = `
select count(*)
from (
    select from_total, lag(to_total, 1, 0) over (partition by tenant_id, agent, period_start order by revision) as before
    from overage_reports
    where state in ('accepted', 'verified')
) chain
where from_total <> before`

const notAcceptedSQL = `
select count(*)
from overage_reports
where state not in ('accepted', 'verified')`

// expectExact checks that Stripe has each unit of overage, once, and that the
// ledger knows it.
func (w *billed) expectExact() {
	w.t.Helper()
	for i := range w.keys {
		k := &w.keys[i]
		if got, want := w.at(k), k.overage(); got != want {
			w.t.Errorf("%s: Stripe has %d units of %s, want %d", k.customer(), got, k.agent.ID, want)
		}
	}
	for what, sql := range map[string]string{"chains are broken": brokenChainsSQL, "links are not accepted": notAcceptedSQL} {
		if n := w.number(sql); n > 0 {
			w.t.Errorf("%d %s", n, what)
		}
	}
}

func (w *billed) number(sql string, args ...any) (n int64) {
	w.t.Helper()
	if err := w.pool.QueryRow(w.t.Context(), sql, args...).Scan(&n); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
	return n
}

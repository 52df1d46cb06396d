package subscriptions

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stripe/stripe-go/v76"
	"github.com/stripe/stripe-go/v76/client"

	"odometer/billing"
	"odometer/migrations/pgtest"
	"odometer/reporter/stripetest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const (
	secret = "whsec_one"
	acme   = "0b7e4d1c-6f0e-4a53-9d55-3c1c0a3f7e01"
	bundle = "price_bundle_monthly"
	inbox  = "price_inboxpilot_monthly"
)

func day(s string) time.Time {
	t, err := time.Parse(time.RFC3339, s+"T00:00:00Z")
	if err != nil {
		panic(err)
	}
	return t
}

// world is a Stripe and us, on one clock.
type world struct {
	t      testing.TB
	pool   *pgxpool.Pool
	stripe *stripetest.Server
	sync   *Sync
	hooks  string // the webhook's address
	clock  atomic.Pointer[time.Time]
	edit   atomic.Pointer[func(subscription map[string]any)]

	received atomic.Int64
	mu       sync.Mutex
	looked   []string
	seen     int // hooks that were taken already
}

func newWorld(t testing.TB, now string) *world {
	t.Helper()
	w := &world{t: t, pool: pgtest.New(t)}
	w.at(now)
	if err := billing.ApplyCatalogue(t.Context(), w.pool, billing.SampleCatalogue()); err != nil {
		t.Fatal(err)
	}
	w.exec(`insert into stream_epochs values (1, 1, now(), 4)`)
	w.exec(`insert into stream_positions (partition, stream_epoch, seq) select p, 1, 0 from generate_series(0, 3) p`)
	w.stripe = stripetest.New(stripetest.Options{Now: w.now})
	api := httptest.NewServer(http.HandlerFunc(w.serveStripe))
	t.Cleanup(api.Close)
	w.sync = w.newSync(api.URL)
	hooks := httptest.NewServer(Handler(w.pool, secret, func() { w.received.Add(1) }, w.sync.log))
	t.Cleanup(hooks.Close)
	w.hooks = hooks.URL
	return w
}

func (w *world) newSync(url string) *Sync {
	backend := stripe.GetBackendWithConfig(stripe.APIBackend, &stripe.BackendConfig{
		URL: stripe.String(url), MaxNetworkRetries: stripe.Int64(0), EnableTelemetry: stripe.Bool(false),
		LeveledLogger: &stripe.LeveledLogger{Level: stripe.LevelNull},
	})
	return New(Options{
		Pool: w.pool, Stripe: client.New("sk_test_1", &stripe.Backends{API: backend}), Now: w.now,
		Look: func(_ context.Context, customer string) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.looked = append(w.looked, customer)
			return nil
		},
	})
}

func (w *world) now() time.Time { return *w.clock.Load() }

func (w *world) at(s string) {
	t := day(s)
	w.clock.Store(&t)
}

// serveStripe is the stand-in, with subscriptions as edit wants them.
func (w *world) serveStripe(out http.ResponseWriter, r *http.Request) {
	edit := w.edit.Load()
	if edit == nil || !strings.HasPrefix(r.URL.Path, "/v1/subscriptions") {
		w.stripe.ServeHTTP(out, r)
		return
	}
	rec := httptest.NewRecorder()
	w.stripe.ServeHTTP(rec, r)
	var o map[string]any
	if err := json.Unmarshal(rec.Body.Bytes(), &o); err != nil {
		panic(err)
	}
	if page, isList := o["data"].([]any); isList {
		for _, sub := range page {
			(*edit)(sub.(map[string]any))
		}
	} else if rec.Code == http.StatusOK {
		(*edit)(o)
	}
	out.WriteHeader(rec.Code)
	_ = json.NewEncoder(out).Encode(o)
}

func (w *world) editSubscriptions(edit func(map[string]any)) {
	if edit == nil {
		w.edit.Store(nil)
		return
	}
	w.edit.Store(&edit)
}

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.pool.Exec(w.t.Context(), sql, args...); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
}

func (w *world) texts(sql string, args ...any) []string {
	w.t.Helper()
	rows, err := w.pool.Query(w.t.Context(), sql, args...)
	if err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
	defer rows.Close()
	found := []string{}
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			w.t.Fatal(err)
		}
		found = append(found, s)
	}
	return found
}

func (w *world) want(what string, got []string, want ...string) {
	w.t.Helper()
	if diff := cmp.Diff(append([]string{}, want...), got); diff != "" {
		w.t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// subscribe makes a customer of the tenant with a subscription to a plan.
func (w *world) subscribe(id, tenant, plan string, change func(*stripetest.Subscription)) {
	w.t.Helper()
	w.stripe.CreateCustomer("cus_"+id, map[string]string{"tenant_id": tenant})
	sub := stripetest.Subscription{ID: "sub_" + id, Customer: "cus_" + id, Items: []stripetest.Item{
		{PriceID: "price_seats", UnitAmountDecimal: "100"}, {PriceID: plan, UnitAmountDecimal: "4900"},
	}}
	if change != nil {
		change(&sub)
	}
	w.stripe.CreateSubscription(sub)
}

func (w *world) update(id string, change func(*stripetest.Subscription)) {
	w.stripe.UpdateSubscription("sub_"+id, change)
}

// take is the hooks that came since the last take.
func (w *world) take() []stripetest.Hook {
	all := w.stripe.Hooks()
	fresh := all[w.seen:]
	w.seen = len(all)
	return fresh
}

func (w *world) deliver(hooks ...stripetest.Hook) {
	w.t.Helper()
	for _, h := range hooks {
		status, err := w.stripe.Deliver(w.t.Context(), w.hooks, secret, h)
		if err != nil || status != http.StatusOK {
			w.t.Fatalf("deliver %s: %d, %v", h.Type, status, err)
		}
	}
}

func (w *world) work() int {
	w.t.Helper()
	n, err := w.sync.Work(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// due ends the wait of every hook that has failed.
func (w *world) due() {
	w.t.Helper()
	w.exec(`update stripe_hooks set retry_at = now() where done_at is null and retry_at is not null`)
}

// follow delivers what has come and works it off.
func (w *world) follow() {
	w.t.Helper()
	w.deliver(w.take()...)
	w.work()
}

func (w *world) compare() Compared {
	w.t.Helper()
	c, err := w.sync.Compare(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// agreed is the stored subscription in a line, and its periods.
func (w *world) agreed(tenant string) []string {
	w.t.Helper()
	found, err := billing.Load(w.t.Context(), w.pool, uuid.MustParse(tenant))
	if err != nil {
		return []string{}
	}
	s := found.Subscription
	lines := []string{fmt.Sprintf("%s %s %s %s", s.StatusAt(w.now()), s.PlanID, s.Interval, s.StripeSubscription)}
	for _, p := range found.Periods {
		line := stamp(p.Start) + " " + stamp(p.End)
		if p.Trial {
			line += " trial"
		}
		if p.ClosedAt != nil {
			line += " closed"
		}
		lines = append(lines, line)
	}
	return lines
}

func stamp(t time.Time) string {
	return strings.TrimSuffix(t.UTC().Format("2006-01-02T15:04"), "T00:00")
}

func (w *world) wantAgreed(want ...string) {
	w.t.Helper()
	w.want("agreed", w.agreed(acme), want...)
}

func (w *world) wantFindings(want ...string) {
	w.t.Helper()
	w.want("open findings", w.texts(`select kind || ' ' || subject from audit_findings where resolved_at is null order by 1`), want...)
}

// close closes a period of acme.
func (w *world) close(start string) {
	w.exec(`update billing_periods set status = 'closed', closed_epoch = 1, closed_seq = 9, closed_at = now(), frozen_at = coalesce(frozen_at, now()) where period_start = $1`, day(start))
}

func hookOf(kind, object string) stripetest.Hook {
	id := "evt_" + uuid.NewString()
	return stripetest.Hook{ID: id, Type: kind, Payload: fmt.Appendf(nil,
		`{"id":%q,"object":"event","type":%q,"livemode":false,"data":{"object":{"id":%q}}}`, id, kind, object)}
}

package subscriptions

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/stripe/stripe-go/v76"
	"github.com/stripe/stripe-go/v76/client"

	"odometer/billing"
	"odometer/internal/testenv"
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

// testEnv is a Stripe and us, on one clock.
type testEnv struct {
	t      testing.TB
	db     *testenv.Database
	stripe *stripetest.Server
	sync   *Sync
	hooks  string // the webhook's address
	clock  atomic.Pointer[time.Time]
	edit   atomic.Pointer[func(subscription map[string]any)]

	received  atomic.Int64
	mu        sync.Mutex
	rechecked []string
	seen      int // hooks that were taken already
}

func newTestEnv(t testing.TB, now string) *testEnv {
	t.Helper()
	env := &testEnv{t: t, db: testenv.NewDatabase(t)}
	env.at(now)
	env.db.Exec(`insert into stream_epochs values (1, 1, now(), 4)`)
	env.db.Exec(`insert into stream_positions (partition, stream_epoch, seq) select p, 1, 0 from generate_series(0, 3) p`)
	env.stripe = stripetest.New(stripetest.Options{Now: env.now})
	api := httptest.NewServer(http.HandlerFunc(env.serveStripe))
	t.Cleanup(api.Close)
	env.sync = env.newSync(api.URL)
	hooks := httptest.NewServer(Handler(env.db.Pool, secret, func() { env.received.Add(1) }, env.sync.Log))
	t.Cleanup(hooks.Close)
	env.hooks = hooks.URL
	return env
}

func (env *testEnv) newSync(url string) *Sync {
	backend := stripe.GetBackendWithConfig(stripe.APIBackend, &stripe.BackendConfig{
		URL: stripe.String(url), MaxNetworkRetries: stripe.Int64(0), EnableTelemetry: stripe.Bool(false),
		LeveledLogger: &stripe.LeveledLogger{Level: stripe.LevelNull},
	})
	return &Sync{
		Pool: env.db.Pool, Stripe: client.New("sk_test_1", &stripe.Backends{API: backend}), Now: env.now, Log: slog.New(slog.DiscardHandler),
		Recheck: func(_ context.Context, customer string) error {
			env.mu.Lock()
			defer env.mu.Unlock()
			env.rechecked = append(env.rechecked, customer)
			return nil
		},
	}
}

func (env *testEnv) now() time.Time { return *env.clock.Load() }

func (env *testEnv) at(s string) {
	t := day(s)
	env.clock.Store(&t)
}

// serveStripe is the stand-in, with subscriptions as edit wants them.
func (env *testEnv) serveStripe(out http.ResponseWriter, r *http.Request) {
	edit := env.edit.Load()
	if edit == nil || !strings.HasPrefix(r.URL.Path, "/v1/subscriptions") {
		env.stripe.ServeHTTP(out, r)
		return
	}
	rec := httptest.NewRecorder()
	env.stripe.ServeHTTP(rec, r)
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

func (env *testEnv) editSubscriptions(edit func(map[string]any)) {
	if edit == nil {
		env.edit.Store(nil)
		return
	}
	env.edit.Store(&edit)
}

func (env *testEnv) want(what string, got []string, want ...string) {
	env.t.Helper()
	if diff := cmp.Diff(append([]string{}, want...), got); diff != "" {
		env.t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// subscribe makes a customer of the tenant with a subscription to a plan.
func (env *testEnv) subscribe(id, tenant, plan string, change func(*stripetest.Subscription)) {
	env.t.Helper()
	env.stripe.CreateCustomer("cus_"+id, map[string]string{"tenant_id": tenant})
	sub := stripetest.Subscription{ID: "sub_" + id, Customer: "cus_" + id, Items: []stripetest.Item{
		{PriceID: "price_seats", UnitAmountDecimal: "100"}, {PriceID: plan, UnitAmountDecimal: "4900"},
	}}
	if change != nil {
		change(&sub)
	}
	env.stripe.CreateSubscription(sub)
}

func (env *testEnv) update(id string, change func(*stripetest.Subscription)) {
	env.stripe.UpdateSubscription("sub_"+id, change)
}

// take is the hooks that came since the last take.
func (env *testEnv) take() []stripetest.Hook {
	all := env.stripe.Hooks()
	fresh := all[env.seen:]
	env.seen = len(all)
	return fresh
}

func (env *testEnv) deliver(hooks ...stripetest.Hook) {
	env.t.Helper()
	for _, h := range hooks {
		status, err := env.stripe.Deliver(env.t.Context(), env.hooks, secret, h)
		if err != nil || status != http.StatusOK {
			env.t.Fatalf("deliver %s: %d, %v", h.Type, status, err)
		}
	}
}

func (env *testEnv) work() int {
	env.t.Helper()
	n, err := env.sync.Work(env.t.Context())
	if err != nil {
		env.t.Fatal(err)
	}
	return n
}

// due ends the wait of every hook that has failed.
func (env *testEnv) due() {
	env.t.Helper()
	env.db.Exec(`update stripe_hooks set retry_at = now() where done_at is null and retry_at is not null`)
}

// follow delivers what has come and works it off.
func (env *testEnv) follow() {
	env.t.Helper()
	env.deliver(env.take()...)
	env.work()
}

func (env *testEnv) compare() Compared {
	env.t.Helper()
	c, err := env.sync.Compare(env.t.Context())
	if err != nil {
		env.t.Fatal(err)
	}
	return c
}

// agreed is the stored subscription in a line, and its periods.
func (env *testEnv) subscriptionsOf(tenant string) []string {
	env.t.Helper()
	found, err := billing.Load(env.t.Context(), env.db.Pool, uuid.MustParse(tenant))
	if err != nil {
		return []string{}
	}
	s := found.Subscription
	lines := []string{fmt.Sprintf("%s %s %s %s", s.StatusAt(env.now()), s.PlanID, s.Interval, s.StripeSubscription)}
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

func (env *testEnv) wantSubscriptions(want ...string) {
	env.t.Helper()
	env.want("agreed", env.subscriptionsOf(acme), want...)
}

func (env *testEnv) wantFindings(want ...string) {
	env.t.Helper()
	env.want("open findings", env.db.Texts(`select kind || ' ' || subject from audit_findings where resolved_at is null order by 1`), want...)
}

// close closes a period of acme.
func (env *testEnv) close(start string) {
	env.db.Exec(`update billing_periods set status = 'closed', closed_epoch = 1, closed_seq = 9, closed_at = now(), frozen_at = coalesce(frozen_at, now()) where period_start = $1`, day(start))
}

func hookOf(kind, object string) stripetest.Hook {
	id := "evt_" + uuid.NewString()
	return stripetest.Hook{ID: id, Type: kind, Payload: fmt.Appendf(nil,
		`{"id":%q,"object":"event","type":%q,"livemode":false,"data":{"object":{"id":%q}}}`, id, kind, object)}
}

package audit

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"odometer/aggregator"
	"odometer/ingest/publisher"
	"odometer/internal/testenv"
	"odometer/migrations/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// testEnv is a real stream, a real database, and the real aggregator that fills
// the one from the other.
type testEnv struct {
	*testenv.Env
	t       testing.TB
	tenants []uuid.UUID
	stop    func() // stops the aggregator
}

// newTestEnv gives each tenant a period that has ended and a running one.
func newTestEnv(t testing.TB, tenants int) *testEnv {
	t.Helper()
	e := &testEnv{Env: testenv.New(t, testenv.Options{}), t: t}
	for i := range tenants {
		e.tenants = append(e.tenants, testenv.Tenant(i))
		e.SetPeriod(e.tenants[i], time.Now().AddDate(0, 0, -40), time.Now().AddDate(0, 0, -10))
	}
	return e
}

// run aggregates until stop is called or the test ends.
func (e *testEnv) run() {
	e.t.Helper()
	a, err := aggregator.New(aggregator.Options{
		Pool: e.Pool, NATS: e.NATS, Log: slog.New(slog.DiscardHandler),
		Metrics: aggregator.NewMetrics(prometheus.NewRegistry(), false),
	})
	if err != nil {
		e.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stopped := false
	e.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			e.t.Errorf("aggregator: %v", err)
		}
	}
	e.t.Cleanup(e.stop)
}

// publishMix publishes what a stream really holds: events with and without
// resource and metadata, late ones, duplicates, conflicts and malformed messages.
func (e *testEnv) publishMix(name string, n int) {
	e.t.Helper()
	var events []publisher.Event
	for i := range n {
		tenant := e.tenants[i%len(e.tenants)]
		event := testenv.Email(tenant, fmt.Sprintf("%s %d", name, i), int64(i%5+1))
		switch i % 7 {
		case 1:
			event.ResourceID = fmt.Sprint("mail ", i)
		case 2:
			event.Metadata = []byte(`{"z": [1.50, {"a": "\u00e9"}], "run": 1e3, "a": null}`)
		case 3:
			event.OccurredAt = time.Now().AddDate(0, 0, -20)
		case 4:
			event.Agent, event.ActionType = "invoice", "invoice_detected"
		}
		events = append(events, event)
	}
	e.Publish(events...)
	for i, tenant := range e.tenants {
		again := testenv.Email(tenant, fmt.Sprintf("%s %d", name, i), int64(i%5+1))
		e.PublishRaw("usage."+tenant.String()+".inbox", "not JSON "+name, "Status", "404")
		e.PublishRaw("usage."+tenant.String()+".inbox", fmt.Sprintf(`{"idempotency_key":"%s %d","action_type":"email_processed","quantity":77}`, name, i))
		if i%7 == 0 {
			e.PublishRaw("usage."+tenant.String()+".inbox", fmt.Sprintf(`{"idempotency_key":%q,"action_type":"email_processed","quantity":%d, "tenant_id":%q}`,
				again.IdempotencyKey, again.Quantity, tenant))
		}
	}
}

func (e *testEnv) options() Options { return Options{Pool: e.Pool, NATS: e.NATS} }

func (e *testEnv) audit(scope Scope) *Report {
	e.t.Helper()
	r, err := Run(e.t.Context(), e.options(), scope, nil)
	if err != nil {
		e.t.Fatal(err)
	}
	return r
}

// finds checks that an audit finds these kinds of differences, each so often
// as it is named, and nothing else.
func (e *testEnv) finds(scope Scope, kinds ...string) *Report {
	e.t.Helper()
	r := e.audit(scope)
	var found []string
	for _, d := range r.Differences {
		found = append(found, d.Kind)
		if d.Expected == "" || d.Found == "" || d.Cause == "" || d.Repair.Text == "" {
			e.t.Errorf("a difference lacks a part: %+v", d)
		}
	}
	slices.Sort(found)
	slices.Sort(kinds)
	if !slices.Equal(found, kinds) || r.Different != int64(len(kinds)) {
		var lines []string
		for _, d := range r.Differences {
			lines = append(lines, fmt.Sprintf("%s %s: expected %s, found %s", d.Kind, d.Where, d.Expected, d.Found))
		}
		e.t.Errorf("found %q (%d), want %q:\n%s\n%s", found, r.Different, kinds, strings.Join(lines, "\n"), strings.Join(r.Notes, "\n"))
	}
	return r
}

func (e *testEnv) reconcile(force bool) *Reconciliation {
	e.t.Helper()
	r, err := Reconcile(e.t.Context(), e.options(), Scope{}, ReconcileOptions{Force: force, By: "a test"}, nil)
	if err != nil {
		e.t.Fatal(err)
	}
	return r
}

// newFilledEnv has a stream that was read to its end.
func newFilledEnv(t *testing.T) *testEnv {
	t.Helper()
	e := newTestEnv(t, 3)
	e.run()
	e.publishMix("a", 600)
	e.WaitUntilRead()
	e.stop()
	return e
}

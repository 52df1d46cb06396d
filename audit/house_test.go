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
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"odometer"
	"odometer/aggregator"
	"odometer/billing"
	"odometer/ingest"
	"odometer/ingest/natstest"
	"odometer/ingest/publisher"
	"odometer/migrations/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// house is a real stream, a real database, and the real aggregator that fills
// the one from the other.
type house struct {
	t       testing.TB
	server  *natstest.Server
	nc      *nats.Conn
	js      jetstream.JetStream
	pool    *pgxpool.Pool
	pub     *publisher.Publisher
	tenants []uuid.UUID
	stop    func()
}

func newHouse(t testing.TB, tenants int) *house {
	t.Helper()
	h := &house{t: t, server: natstest.Run(t), pool: pgtest.New(t)}
	h.nc = h.server.Connect(t)
	var err error
	if h.js, err = jetstream.New(h.nc); err != nil {
		t.Fatal(err)
	}
	if h.pub, err = publisher.New(h.nc); err != nil {
		t.Fatal(err)
	}
	if _, err := ingest.EnsureStream(t.Context(), h.js, ingest.StreamConfig{}); err != nil {
		t.Fatal(err)
	}
	if err := billing.ApplyCatalogue(t.Context(), h.pool, billing.SampleCatalogue()); err != nil {
		t.Fatal(err)
	}
	for i := range tenants {
		h.tenants = append(h.tenants, uuid.NewSHA1(uuid.NameSpaceOID, fmt.Appendf(nil, "tenant %d", i)))
		h.set(h.tenants[i], time.Now().AddDate(0, 0, -40), time.Now().AddDate(0, 0, -10))
	}
	return h
}

// set gives a tenant the bundle; the period rolls on to now.
func (h *house) set(tenant uuid.UUID, start, end time.Time) {
	h.t.Helper()
	_, err := billing.Set(h.t.Context(), h.pool, billing.SubscriptionChange{
		Tenant: tenant, PlanID: "price_bundle_monthly", Status: odometer.Active, Interval: odometer.Monthly,
		Start: start.UTC().Truncate(time.Microsecond), End: end.UTC().Truncate(time.Microsecond),
	}, time.Now())
	if err != nil {
		h.t.Fatal(err)
	}
}

// run aggregates until halt is called or the test ends.
func (h *house) run() {
	h.t.Helper()
	a, err := aggregator.New(aggregator.Options{
		Pool: h.pool, NATS: h.nc, Log: slog.New(slog.DiscardHandler),
		Metrics: aggregator.NewMetrics(prometheus.NewRegistry(), false),
	})
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	ended := false
	h.stop = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-done; err != nil {
			h.t.Errorf("aggregator: %v", err)
		}
	}
	h.t.Cleanup(h.stop)
}

func email(tenant uuid.UUID, key string, quantity int64) publisher.Event {
	return publisher.Event{Tenant: tenant, Agent: "inbox", ActionType: "email_processed", IdempotencyKey: key, Quantity: quantity}
}

func (h *house) publish(events ...publisher.Event) {
	h.t.Helper()
	results, err := h.pub.PublishBatch(h.t.Context(), events)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, r := range results {
		if r.Err != nil {
			h.t.Fatal(r.Err)
		}
	}
}

// raw stores any bytes under any subject, past the publisher's checks.
func (h *house) raw(subject, payload string, header ...string) {
	h.t.Helper()
	msg := &nats.Msg{Subject: subject, Data: []byte(payload), Header: nats.Header{}}
	for i := 0; i+1 < len(header); i += 2 {
		msg.Header.Set(header[i], header[i+1])
	}
	if _, err := h.js.PublishMsg(h.t.Context(), msg); err != nil {
		h.t.Fatal(err)
	}
}

// life publishes what a stream holds in life: events with and without resource
// and metadata, late ones, repeats, conflicts and rubbish.
func (h *house) life(name string, n int) {
	h.t.Helper()
	var events []publisher.Event
	for i := range n {
		tenant := h.tenants[i%len(h.tenants)]
		e := email(tenant, fmt.Sprintf("%s %d", name, i), int64(i%5+1))
		switch i % 7 {
		case 1:
			e.ResourceID = fmt.Sprint("mail ", i)
		case 2:
			e.Metadata = []byte(`{"z": [1.50, {"a": "\u00e9"}], "run": 1e3, "a": null}`)
		case 3:
			e.OccurredAt = time.Now().AddDate(0, 0, -20)
		case 4:
			e.Agent, e.ActionType = "invoice", "invoice_detected"
		}
		events = append(events, e)
	}
	h.publish(events...)
	for i, tenant := range h.tenants {
		again := email(tenant, fmt.Sprintf("%s %d", name, i), int64(i%5+1))
		h.raw("usage."+tenant.String()+".inbox", "rubbish "+name, "Status", "404")
		h.raw("usage."+tenant.String()+".inbox", fmt.Sprintf(`{"idempotency_key":"%s %d","action_type":"email_processed","quantity":77}`, name, i))
		if i%7 == 0 {
			h.raw("usage."+tenant.String()+".inbox", fmt.Sprintf(`{"idempotency_key":%q,"action_type":"email_processed","quantity":%d, "tenant_id":%q}`,
				again.IdempotencyKey, again.Quantity, tenant))
		}
	}
}

// eventually waits for what must come true by itself.
func (h *house) eventually(what string, is func() bool) {
	h.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !is() {
		if time.Now().After(deadline) {
			h.t.Fatalf("not within 30 s: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// settled waits until all partitions are read through the stream's end.
func (h *house) settled() {
	h.t.Helper()
	stream, err := h.js.Stream(h.t.Context(), ingest.StreamName)
	if err != nil {
		h.t.Fatal(err)
	}
	last := int64(stream.CachedInfo().State.LastSeq)
	h.eventually(fmt.Sprintf("read through %d", last), func() bool {
		return h.number(`select coalesce(min(seq), -1) from stream_positions`) >= last
	})
}

func (h *house) number(sql string, args ...any) (n int64) {
	h.t.Helper()
	if err := h.pool.QueryRow(h.t.Context(), sql, args...).Scan(&n); err != nil {
		h.t.Fatalf("%s: %v", sql, err)
	}
	return n
}

func (h *house) exec(sql string, args ...any) {
	h.t.Helper()
	if _, err := h.pool.Exec(h.t.Context(), sql, args...); err != nil {
		h.t.Fatalf("%s: %v", sql, err)
	}
}

func (h *house) options() Options { return Options{Pool: h.pool, NATS: h.nc} }

func (h *house) audit(scope Scope) *Report {
	h.t.Helper()
	r, err := Run(h.t.Context(), h.options(), scope, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	return r
}

// finds checks that an audit finds these kinds of differences, each so often
// as it is named, and nothing else.
func (h *house) finds(scope Scope, kinds ...string) *Report {
	h.t.Helper()
	r := h.audit(scope)
	var found []string
	for _, d := range r.Differences {
		found = append(found, d.Kind)
		if d.Expected == "" || d.Found == "" || d.Cause == "" || d.Repair.Text == "" {
			h.t.Errorf("a difference does not tell all: %+v", d)
		}
	}
	slices.Sort(found)
	slices.Sort(kinds)
	if !slices.Equal(found, kinds) || r.Different != int64(len(kinds)) {
		var lines []string
		for _, d := range r.Differences {
			lines = append(lines, fmt.Sprintf("%s %s: expected %s, found %s", d.Kind, d.Where, d.Expected, d.Found))
		}
		h.t.Errorf("found %q (%d), want %q:\n%s\n%s", found, r.Different, kinds, strings.Join(lines, "\n"), strings.Join(r.Notes, "\n"))
	}
	return r
}

func (h *house) reconcile(force bool) *Repaired {
	h.t.Helper()
	r, err := Reconcile(h.t.Context(), h.options(), Scope{}, How{Force: force, Who: "a test"}, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	return r
}

// filled is a house whose books are read to the end and agree.
func filled(t *testing.T) *house {
	t.Helper()
	h := newHouse(t, 3)
	h.run()
	h.life("a", 600)
	h.settled()
	h.stop()
	return h
}

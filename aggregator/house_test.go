package aggregator

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"odometer"
	"odometer/billing"
	"odometer/ingest"
	"odometer/ingest/natstest"
	"odometer/ingest/publisher"
	"odometer/migrations/pgtest"
)

// house is a real stream, a real database and the sample catalogue.
type house struct {
	t      testing.TB
	server *natstest.Server
	nc     *nats.Conn
	js     jetstream.JetStream
	pool   *pgxpool.Pool
	pub    *publisher.Publisher
	form   ingest.StreamConfig
}

func newHouse(t testing.TB) *house {
	t.Helper()
	return newHouseOn(t, pgtest.New(t))
}

func newHouseOn(t testing.TB, pool *pgxpool.Pool) *house {
	t.Helper()
	return newHouseWith(t, pool, ingest.StreamConfig{})
}

// newHouseFor is newHouse with a stream of its own form.
func newHouseFor(t testing.TB, stream ingest.StreamConfig) *house {
	t.Helper()
	return newHouseWith(t, pgtest.New(t), stream)
}

func newHouseWith(t testing.TB, pool *pgxpool.Pool, stream ingest.StreamConfig) *house {
	t.Helper()
	h := &house{t: t, server: natstest.Run(t), pool: pool, form: stream}
	h.nc = h.server.Connect(t)
	var err error
	if h.js, err = jetstream.New(h.nc); err != nil {
		t.Fatal(err)
	}
	if h.pub, err = publisher.New(h.nc); err != nil {
		t.Fatal(err)
	}
	if _, err := ingest.EnsureStream(t.Context(), h.js, stream); err != nil {
		t.Fatal(err)
	}
	if err := billing.ApplyCatalogue(t.Context(), pool, billing.SampleCatalogue()); err != nil {
		t.Fatal(err)
	}
	return h
}

// tenantOf is the n-th tenant of a test.
func tenantOf(n int) uuid.UUID {
	return uuid.NewSHA1(uuid.NameSpaceOID, fmt.Appendf(nil, "tenant %d", n))
}

// subscribe gives n tenants the bundle, in a period around now.
func (h *house) subscribe(n int) []uuid.UUID {
	h.t.Helper()
	var tenants []uuid.UUID
	for i := range n {
		tenants = append(tenants, tenantOf(i))
		h.set(tenants[i], time.Now().AddDate(0, 0, -10), time.Now().AddDate(0, 0, 20))
	}
	return tenants
}

func (h *house) set(tenant uuid.UUID, start, end time.Time) {
	h.t.Helper()
	_, err := billing.Set(h.t.Context(), h.pool, billing.Agreement{
		Tenant: tenant, PlanID: "price_bundle_monthly", Status: odometer.Active, Interval: odometer.Monthly,
		Start: start.UTC().Truncate(time.Microsecond), End: end.UTC().Truncate(time.Microsecond),
	}, time.Now())
	if err != nil {
		h.t.Fatal(err)
	}
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
func (h *house) raw(subject string, payload string, header ...string) {
	h.t.Helper()
	msg := &nats.Msg{Subject: subject, Data: []byte(payload), Header: nats.Header{}}
	for i := 0; i+1 < len(header); i += 2 {
		msg.Header.Set(header[i], header[i+1])
	}
	if _, err := h.js.PublishMsg(h.t.Context(), msg); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) aggregator(change ...func(*Options)) *Aggregator {
	h.t.Helper()
	o := Options{
		Pool: h.pool, NATS: h.nc, Stream: h.form, Log: slog.New(slog.NewTextHandler(h.t.Output(), nil)),
		Metrics: NewMetrics(prometheus.NewRegistry(), false),
	}
	for _, c := range change {
		c(&o)
	}
	a, err := New(o)
	if err != nil {
		h.t.Fatal(err)
	}
	return a
}

// run aggregates until the returned function is called, or the test ends.
func (h *house) run(change ...func(*Options)) (stop func()) {
	h.t.Helper()
	a := h.aggregator(change...)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			h.t.Errorf("aggregator: %v", err)
		}
	}
	h.t.Cleanup(stop)
	return stop
}

// attach makes the positions, as the stream's first reader does.
func (h *house) attach() {
	h.t.Helper()
	if _, err := h.aggregator().attach(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
}

// eventually waits for what must come true by itself.
func (h *house) eventually(what string, is func() bool) {
	h.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(60 * time.Second)
	for !is() {
		select {
		case <-tick.C:
		case <-deadline:
			h.t.Fatalf("not within a minute: %s", what)
		}
	}
}

// streamEnd is the stream's last sequence.
func (h *house) streamEnd() int64 {
	h.t.Helper()
	stream, err := h.js.Stream(h.t.Context(), ingest.StreamName)
	if err != nil {
		h.t.Fatal(err)
	}
	return int64(stream.CachedInfo().State.LastSeq)
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

// count is a tenant's counter of an agent over all periods.
func (h *house) count(tenant uuid.UUID, agent string) int64 {
	h.t.Helper()
	return h.number(`select coalesce(sum(count), 0)::bigint from usage_counters where tenant_id = $1 and agent = $2`, tenant, agent)
}

// books are everything that a stream must determine.
type books struct {
	Events   []string
	Counters []string
	Dead     []string
}

func (h *house) books() books {
	h.t.Helper()
	lines := func(sql string) []string {
		rows, _ := h.pool.Query(h.t.Context(), sql)
		found, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			h.t.Fatal(err)
		}
		return found
	}
	return books{
		Events: lines(`
			select concat_ws(' ', tenant_id, idempotency_key, kind, agent, action_type, resource_id, quantity, period_start, stream_epoch, stream_seq)
			from usage_events order by tenant_id, kind, idempotency_key`),
		Counters: lines(`
			select concat_ws(' ', tenant_id, agent, period_start, period_end, count)
			from usage_counters where count > 0 order by tenant_id, agent, period_start`),
		Dead: lines(`
			select concat_ws(' ', stream_epoch, stream_seq, subject, tenant_id, agent, reason)
			from dead_letters order by stream_epoch, stream_seq`),
	}
}

// balanced checks the laws that hold in every snapshot.
func (h *house) balanced() {
	h.t.Helper()
	wrong := h.number(`
		select count(*)
		from (
			select tenant_id, agent, period_start, sum(quantity) as quantity
			from usage_events group by 1, 2, 3
		) e
		full join (select * from usage_counters where count <> 0) c using (tenant_id, agent, period_start)
		where e.quantity is distinct from c.count and coalesce(e.quantity, 0) <> coalesce(c.count, 0)`)
	if wrong != 0 {
		h.t.Errorf("%d counters are not the sum of their events", wrong)
	}
}

// accounted checks that each message of a stream that was read once is an
// event, a duplicate or a dead letter.
func (h *house) accounted() {
	h.t.Helper()
	stream, err := h.js.Stream(h.t.Context(), ingest.StreamName)
	if err != nil {
		h.t.Fatal(err)
	}
	type sums struct{ Messages, Events, Duplicates, Dead int64 }
	var said sums
	err = h.pool.QueryRow(h.t.Context(), `
		select coalesce(sum(messages), 0), coalesce(sum(events), 0), coalesce(sum(duplicates), 0), coalesce(sum(dead), 0)
		from batches`).Scan(&said.Messages, &said.Events, &said.Duplicates, &said.Dead)
	if err != nil {
		h.t.Fatal(err)
	}
	stored := int64(stream.CachedInfo().State.Msgs)
	is := sums{
		Messages: stored, Events: h.number(`select count(*) from usage_events`), Dead: h.number(`select count(*) from dead_letters`),
	}
	is.Duplicates = is.Messages - is.Events - is.Dead
	if diff := cmp.Diff(is, said); diff != "" {
		h.t.Errorf("stream and books (-) against what batches say (+):\n%s", diff)
	}
}

package aggregator

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"odometer"
	"odometer/ingest"
)

// testMessage is a message as a test means it: its wire form, and what the contract
// needs to know to decide what it becomes.
type testMessage struct {
	subject, payload string
	header           nats.Header

	kind               odometer.Kind
	tenant             uuid.UUID
	agent, key, action string
	resource           string // "" for none
	quantity           int64
	occurred           time.Time       // zero: when it is stored
	flaw               odometer.Reason // why it cannot be an event, whatever came before; "" when it can
}

// The model is what CONTRACT.md says of a stream, message by message and
// without a database: an oracle that shares no code with the aggregator.
type model struct {
	periods  map[uuid.UUID][]modelPeriod // in order; none without a subscription
	owners   map[modelKey]testMessage
	balances map[modelCounter]int64
	outcomes map[odometer.Position]string
	tally    map[string]int // outcomes by kind
}

type modelPeriod struct {
	start, end time.Time
	closed     bool
	at         odometer.Position // the last that still belongs to it, when closed
}

type modelKey struct {
	kind   odometer.Kind
	tenant uuid.UUID
	key    string
}

type modelCounter struct {
	tenant uuid.UUID
	agent  string
	period int64 // its start in microseconds
}

func newModel() *model {
	return &model{
		periods:  map[uuid.UUID][]modelPeriod{},
		owners:   map[modelKey]testMessage{},
		balances: map[modelCounter]int64{},
		outcomes: map[odometer.Position]string{},
		tally:    map[string]int{},
	}
}

// know takes over the periods that a test has created.
func (m *model) know(h *testEnv, tenants ...uuid.UUID) {
	h.T.Helper()
	for _, tenant := range tenants {
		rows, _ := h.Pool.Query(h.T.Context(), `
			select period_start, period_end, status = 'closed', coalesce(closed_epoch, 0), coalesce(closed_seq, 0)
			from billing_periods where tenant_id = $1 order by period_start`, tenant)
		var p modelPeriod
		m.periods[tenant] = nil
		_, err := pgx.ForEachRow(rows, []any{&p.start, &p.end, &p.closed, &p.at.Epoch, &p.at.Seq}, func() error {
			m.periods[tenant] = append(m.periods[tenant], p)
			return nil
		})
		if err != nil {
			h.T.Fatal(err)
		}
	}
}

// apply decides what the message at a position becomes.
func (m *model) apply(at odometer.Position, s testMessage, stored time.Time) {
	what := m.outcome(at, s, stored)
	m.outcomes[at] = what
	word, reason, _ := strings.Cut(what, " ")
	if word == "dead" {
		word = reason
	}
	m.tally[word]++
}

func (m *model) outcome(at odometer.Position, s testMessage, stored time.Time) string {
	if s.flaw != "" {
		return "dead " + string(s.flaw)
	}
	key := modelKey{s.kind, s.tenant, s.key}
	if first, owned := m.owners[key]; owned {
		same := first.agent == s.agent && first.action == s.action && first.resource == s.resource && first.quantity == s.quantity
		if same {
			return "duplicate"
		}
		return "dead " + string(odometer.IdempotencyConflict)
	}
	occurred := s.occurred
	if occurred.IsZero() {
		occurred = stored
	}
	period, ok := m.periodFor(at, s.tenant, occurred)
	if !ok {
		return "dead " + string(odometer.NoBillingPeriod)
	}
	counter := modelCounter{s.tenant, s.agent, period.UnixMicro()}
	if m.balances[counter]+s.quantity < 0 {
		return "dead " + string(odometer.NegativeBalance)
	}
	m.balances[counter] += s.quantity
	m.owners[key] = s
	return "event " + eventLine(s.tenant, s.kind, s.key, s.agent, s.action, s.resource, s.quantity, period)
}

func eventLine(tenant uuid.UUID, kind odometer.Kind, key, agent, action, resource string, quantity int64, period time.Time) string {
	return fmt.Sprintf("%s %s %q %s.%s %q %d in %s", tenant, kind, key, agent, action, resource, quantity, period.UTC().Format(time.RFC3339Nano))
}

func (m *model) periodFor(at odometer.Position, tenant uuid.UUID, occurred time.Time) (start time.Time, ok bool) {
	inside := false
	for _, p := range m.periods[tenant] {
		inside = inside || !occurred.Before(p.start) && occurred.Before(p.end)
		late := p.closed && (at.Epoch > p.at.Epoch || at.Epoch == p.at.Epoch && at.Seq > p.at.Seq)
		if inside && !late {
			return p.start, true
		}
	}
	return time.Time{}, false
}

// outcomesAfter reads from the tables what became of each message behind a
// position; what is neither event nor dead letter must be a duplicate.
func (h *testEnv) outcomesAfter(m *model, after odometer.Position) map[odometer.Position]string {
	h.T.Helper()
	found := map[odometer.Position]string{}
	for at := range m.outcomes {
		if at.After(after) {
			found[at] = "duplicate"
		}
	}
	note := func(at odometer.Position, what string) {
		if was := found[at]; was != "" && was != "duplicate" {
			what = was + " and " + what
		}
		found[at] = what
	}
	rows, _ := h.Pool.Query(h.T.Context(), `
		select stream_epoch, stream_seq, tenant_id, kind, idempotency_key, agent, action_type, coalesce(resource_id, ''), quantity, period_start
		from usage_events where (stream_epoch, stream_seq) > ($1, $2)`, after.Epoch, after.Seq)
	var at odometer.Position
	var s testMessage
	var period time.Time
	_, err := pgx.ForEachRow(rows, []any{&at.Epoch, &at.Seq, &s.tenant, &s.kind, &s.key, &s.agent, &s.action, &s.resource, &s.quantity, &period}, func() error {
		note(at, "event "+eventLine(s.tenant, s.kind, s.key, s.agent, s.action, s.resource, s.quantity, period))
		return nil
	})
	if err != nil {
		h.T.Fatal(err)
	}
	rows, _ = h.Pool.Query(h.T.Context(), `
		select stream_epoch, stream_seq, reason from dead_letters where (stream_epoch, stream_seq) > ($1, $2)`, after.Epoch, after.Seq)
	var reason string
	_, err = pgx.ForEachRow(rows, []any{&at.Epoch, &at.Seq, &reason}, func() error {
		note(at, "dead "+reason)
		return nil
	})
	if err != nil {
		h.T.Fatal(err)
	}
	return found
}

// agree compares the tables with the model: each message behind a position,
// and the counters of all the tenants that the model knows.
func (h *testEnv) agree(m *model, after odometer.Position) {
	h.T.Helper()
	want := map[odometer.Position]string{}
	for at, what := range m.outcomes {
		if at.After(after) {
			want[at] = what
		}
	}
	if diff := cmp.Diff(want, h.outcomesAfter(m, after)); diff != "" {
		h.T.Errorf("what became of the messages (-contract +tables):\n%s", diff)
	}
	var tenants []uuid.UUID
	for tenant := range m.periods {
		tenants = append(tenants, tenant)
	}
	got := map[modelCounter]int64{}
	rows, _ := h.Pool.Query(h.T.Context(), `
		select tenant_id, agent, (extract(epoch from period_start) * 1000000)::bigint, count
		from usage_counters where tenant_id = any($1) and count <> 0`, tenants)
	var c modelCounter
	var n int64
	if _, err := pgx.ForEachRow(rows, []any{&c.tenant, &c.agent, &c.period, &n}, func() error { got[c] = n; return nil }); err != nil {
		h.T.Fatal(err)
	}
	counted := map[modelCounter]int64{}
	for c, n := range m.balances {
		if n != 0 {
			counted[c] = n
		}
	}
	if diff := cmp.Diff(counted, got); diff != "" {
		h.T.Errorf("counters (-contract +tables):\n%s", diff)
	}
}

// publishAll stores messages in order, past the publisher's checks and without
// ids, so that the stream keeps each; it returns the sequence of the last.
func (h *testEnv) publishAll(all []testMessage) (last int64) {
	h.T.Helper()
	var ack jetstream.PubAckFuture
	stored := func() {
		h.T.Helper()
		select {
		case got := <-ack.Ok():
			last = int64(got.Sequence)
		case err := <-ack.Err():
			h.T.Fatal(err)
		}
	}
	for n, s := range all {
		var err error
		ack, err = h.JetStream.PublishMsgAsync(&nats.Msg{Subject: s.subject, Data: []byte(s.payload), Header: s.header})
		if err != nil {
			h.T.Fatal(err)
		}
		if n%1000 == 999 && n < len(all)-1 { // the library bounds what is outstanding
			stored()
		}
	}
	stored()
	return last
}

// publishModelled publishes messages and applies them to the model, in an epoch.
func (h *testEnv) publishModelled(m *model, epoch int32, all []testMessage) (last int64) {
	h.T.Helper()
	now := time.Now()
	last = h.publishAll(all)
	for i, s := range all {
		m.apply(odometer.Position{Epoch: epoch, Seq: last - int64(len(all)-1-i)}, s, now)
	}
	return last
}

// encode gives the message subject and payload.
func (s testMessage) encode(members ...string) testMessage {
	s.subject = ingest.Subject(s.kind, s.tenant, s.agent)
	text := strconv.Quote // for plain ASCII it is JSON
	fields := []string{`"idempotency_key":` + text(s.key), `"action_type":` + text(s.action)}
	if s.quantity != 1 || s.kind == odometer.Adjustment {
		fields = append(fields, fmt.Sprintf(`"quantity":%d`, s.quantity))
	}
	if s.resource != "" {
		fields = append(fields, `"resource_id":`+text(s.resource))
	}
	if !s.occurred.IsZero() {
		fields = append(fields, `"occurred_at":"`+s.occurred.UTC().Format(time.RFC3339Nano)+`"`)
	}
	s.payload = "{" + strings.Join(slices.Concat(fields, members), ",") + "}"
	return s
}

// encodeCloud is encode in the form of a CloudEvent.
func (s testMessage) encodeCloud() testMessage {
	s.subject = ingest.Subject(s.kind, s.tenant, s.agent)
	s.header = nats.Header{"Content-Type": {"Application/CloudEvents+JSON; charset=utf-8"}}
	data := fmt.Sprintf(`{"quantity":%d}`, s.quantity)
	if s.resource != "" {
		data = fmt.Sprintf(`{"quantity":%d,"resource_id":%q}`, s.quantity, s.resource)
	}
	at := ""
	if !s.occurred.IsZero() {
		at = fmt.Sprintf(`,"time":%q`, s.occurred.UTC().Format(time.RFC3339Nano))
	}
	s.payload = fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"/test","type":"%s.%s"%s,"data":%s}`, s.key, s.agent, s.action, at, data)
	return s
}

func usage(tenant uuid.UUID, key string, quantity int64) testMessage {
	return testMessage{kind: odometer.Usage, tenant: tenant, agent: "inbox", action: "email_processed", key: key, quantity: quantity}
}

func correction(tenant uuid.UUID, key string, quantity int64) testMessage {
	return testMessage{kind: odometer.Adjustment, tenant: tenant, agent: "inbox", action: odometer.AdjustmentAction, key: key, quantity: quantity}
}

// The oracle itself must see what it is for.
func TestModelOutcomes(t *testing.T) {
	t.Parallel()
	m := newModel()
	tenant := tenantOf(0)
	now := time.Now()
	first := modelPeriod{start: now.AddDate(0, 0, -30), end: now.AddDate(0, 0, -10), closed: true, at: odometer.Position{Epoch: 1, Seq: 2}}
	m.periods[tenant] = []modelPeriod{first, {start: first.end, end: now.AddDate(0, 0, 10)}}
	early := func(s testMessage) testMessage { s.occurred = now.AddDate(0, 0, -20); return s }
	for i, row := range []struct {
		testMessage
		want string
	}{
		{early(usage(tenant, "a", 2)), "event"},
		{early(usage(tenant, "a", 2)), "duplicate"},
		{early(usage(tenant, "b", 2)), "event"}, // late
		{usage(tenant, "b", 1), "dead idempotency_conflict"},
		{correction(tenant, "b", -3), "dead negative_balance"}, // 2 in the second period
		{correction(tenant, "b", -2), "event"},
		{usage(tenantOf(1), "a", 1), "dead no_billing_period"},
		{testMessage{flaw: odometer.Malformed}, "dead malformed"},
	} {
		at := odometer.Position{Epoch: 1, Seq: int64(i + 1)}
		m.apply(at, row.testMessage, now)
		if got := m.outcomes[at]; !strings.HasPrefix(got, row.want) {
			t.Errorf("message %d: %q, want %q", i+1, got, row.want)
		}
	}
	if got := m.balances[modelCounter{tenant, "inbox", first.start.UnixMicro()}]; got != 2 {
		t.Errorf("first period: %d, want 2", got)
	}
}

package aggregator

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"odometer"
	"odometer/ingest"
	"odometer/ingest/publisher"
)

// malformed makes messages that are no events, and some that are for all that.
type malformed struct {
	*rand.Rand
	tenants []uuid.UUID
	n       int
}

// Pieces of which fuzzed payloads are made.
var pieces = []string{
	`{`, `}`, `[`, `]`, `:`, `,`, `"`, `\`, `null`, `true`, `-`, `0`, `1e400000`, `-1e-400000`, `0e999999`, `5.0`, `"5"`, `1e3`, `99999999999999999999`,
	`"idempotency_key"`, `"action_type"`, `"email_processed"`, `"quantity"`, `"metadata"`, `"occurred_at"`, `"2026-11-23T07:15:33Z"`, `"0000-00-00T00:00:00Z"`,
	`"resource_id"`, `"tenant_id"`, `"agent"`, `"inbox"`, `\u0000`, `\ud800`, `\udc00\ud800`, "\x00", "\xff\xfe", "\ufeff", "\u2028", "\U0001f4a9", " ", "\n", "\t",
	`"\u0000"`, `"\ud83d\udca9"`, `{"a":{"a":{}}}`, `[[[[[[[[`, `]]]]]]]]`, `"9999-12-31T23:59:59.999999999+23:59"`, `"-0001-01-01T00:00:00Z"`,
}

// message returns a message and the reason for which it must become a dead
// letter; "" leaves that to the decoder.
func (r *malformed) message() (m *nats.Msg, reason odometer.Reason) {
	r.n++
	tenant := r.tenants[r.n%len(r.tenants)]
	m = &nats.Msg{Subject: ingest.Subject(odometer.Usage, tenant, "inbox")}
	key := fmt.Sprintf("malformed %d", r.n)
	valid := func(members string) string {
		return `{"idempotency_key":"` + key + `","action_type":"email_processed"` + members + `}`
	}
	say := func(payload string, why odometer.Reason) (*nats.Msg, odometer.Reason) {
		m.Data = []byte(payload)
		return m, why
	}
	if r.n%5000 == 0 { // large ones are few
		return say(pick(r.Rand, strings.Repeat("[", 60<<10), strings.Repeat(`{"a":`, 12<<10), valid(`,"metadata":`+strings.Repeat("[", 30<<10)+strings.Repeat("]", 30<<10)),
			valid(`,"pad":"`+strings.Repeat("x", 65<<10)+`"`)), odometer.Malformed)
	}
	switch r.IntN(16) {
	case 0:
		return say(pick(r.Rand, "", "null", "{", "[]", "\x00", `{"a":}`, valid(",")), odometer.Malformed)
	case 1:
		return say(valid(`,"note":"`+pick(r.Rand, "\x00", `\u0000`, `\ud800`, `\udfff\ud800`, "\xff", "\xed\xa0\x80", "\xc0\x80")+`"`), odometer.Malformed)
	case 2:
		return say(valid(`,"`+pick(r.Rand, "quantity", "action_type", "x")+`":1,"`+pick(r.Rand, "quantity", "x", `\u0078`)+`":1,"x":1,"quantity":1`), odometer.Malformed)
	case 3:
		number := pick(r.Rand, "1e400000", "-1e309", "1e-400000", "0e-400000", "0e400000", strings.Repeat("9", 400), "0."+strings.Repeat("0", 400)+"1")
		return say(valid(`,"metadata":{"deep":[{"x":`+number+`}]}`), odometer.InvalidField)
	case 4:
		return say(valid(`,"quantity":`+pick(r.Rand, "1e400000", "0", "-1", "1.5", `"7"`, "[1]", "1000000001", "9223372036854775808", "true")), odometer.InvalidField)
	case 5:
		return say(valid(`,"occurred_at":`+pick(r.Rand, `"now"`, `"2026-02-30T00:00:00Z"`, `"2026-11-23 07:15:33Z"`, `"2026-11-23T07:15:33"`, `"2026-11-23T07:15:33,5Z"`, "5", `["x"]`, `""`)), odometer.InvalidField)
	case 6:
		return say(valid(`,"metadata":`+pick(r.Rand, "5", "[]", `"x"`, strings.Repeat(`{"a":`, 40)+"{}"+strings.Repeat("}", 40), strings.Repeat(`{"a":[`, 17)+strings.Repeat("]}", 17))), odometer.InvalidField)
	case 7:
		m.Subject = pick(r.Rand, "usage.\xff\xfe.inbox", "usage.x\x80y.inbox", "usage."+strings.ToUpper(tenant.String())+".inbox", "usage.{"+tenant.String()+"}.inbox",
			"usage."+tenant.String()+".INBOX", "usage."+tenant.String()+".\xf0\x9f", "adjust.00000000-0000-0000-0000-00000000000.inbox", "usage.'; drop table usage_events; --.inbox",
			"usage.*.inbox", "usage."+tenant.String()+".>", "usage.$1.${2}", "usage."+strings.Repeat("a", 3000)+".inbox", "adjust.%s.%d")
		if m.Subject = strings.ReplaceAll(m.Subject, " ", "_"); r.IntN(3) == 0 {
			return say("[", odometer.Malformed)
		}
		return say(valid(""), odometer.InvalidField)
	case 8:
		m.Header = nats.Header{"A": {"\xfe\x7f", "ü"}, "Nats-Time-Stamp": {"x"}, "Status": {"503"}, "Content-Type": {"application/cloudevents+json"}}
		return say(pick(r.Rand, "", "{", "\x00"), odometer.Malformed)
	case 9:
		m.Header = nats.Header{"content-TYPE": {" application/cloudevents+json ; x"}}
		return say(pick(r.Rand, "{}", valid(""), `{"id":"`+key+`","source":"x","specversion":"1.0","type":"inbox"}`, `{"id":"`+key+`","source":"","specversion":"1.0","type":"inbox.email_processed"}`,
			`{"id":"`+key+`","source":"x","specversion":"1.0","type":"inbox.email_processed","data":[]}`), odometer.InvalidField)
	case 10, 11:
		return say(valid(fmt.Sprintf(`,"metadata":{"n":%d,"t":"%s"}`, r.n, pick(r.Rand, `\ud83d\udca9`, "\u2028", `\\u0000`, "\U0010ffff", "\ufdd0\ufffe"))), "valid")
	case 12: // any bytes
		b := make([]byte, r.IntN(60))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return say(string(b), "")
	case 13: // a valid one with a few bytes changed
		b := []byte(valid(`,"quantity":2,"occurred_at":"2026-11-23T07:15:33Z","metadata":{"a":[1,"ü"]}`))
		for range 1 + r.IntN(3) {
			b[r.IntN(len(b))] = byte(r.Uint32())
		}
		return say(string(b), "")
	case 14: // pieces inside of a valid frame
		return say(valid(`,"metadata":{"x":[`+pick(r.Rand, pieces...)+`,`+pick(r.Rand, pieces...)+`]}`), "")
	default:
		var b strings.Builder
		for range r.IntN(12) {
			b.WriteString(pick(r.Rand, pieces...))
		}
		return say(b.String(), "")
	}
}

// However much malformed is sent, each piece is a dead letter with a reason, and
// what is valid beside it counts.
func TestMalformedMessagesDoNotBlockPartition(t *testing.T) {
	t.Parallel()
	const messages = 100_000
	h := newEnv(t)
	r := &malformed{Rand: randomly(t), tenants: h.Subscribe(9)}
	j, keep := h.logbook()
	h.run(keep)
	want := map[odometer.Reason]int64{}
	reasons := make([]string, 0, messages)
	var pending []jetstream.PubAckFuture
	await := func() {
		for _, ack := range pending {
			select {
			case <-ack.Ok():
			case err := <-ack.Err():
				t.Fatal(err)
			}
		}
		pending = pending[:0]
	}
	js, err := jetstream.New(h.Server.Connect(t), jetstream.WithPublishAsyncMaxPending(5000))
	if err != nil {
		t.Fatal(err)
	}
	for range messages {
		m, reason := r.message()
		ack, err := js.PublishMsgAsync(m)
		if err != nil {
			t.Fatalf("%q: %v", m.Subject, err)
		}
		if pending = append(pending, ack); len(pending) == 4000 {
			await()
		}
		want[reason]++
		reasons = append(reasons, string(reason))
	}
	await()
	h.WaitUntilRead()
	h.CheckMessages()
	h.CheckCounters()
	if end := h.LastSeq(); end != messages {
		t.Fatalf("the stream ends at %d, want %d", end, messages)
	}
	wrong := h.Number(`
		select count(*)
		from unnest($1::text[]) with ordinality as wanted (reason, seq)
		left join usage_events e on e.stream_seq = wanted.seq
		left join dead_letters d on d.stream_seq = wanted.seq
		where case wanted.reason
			when '' then e is null and d.reason is null and not exists (select from batches where duplicates > 0)
			when 'valid' then e is null
			else d.reason is distinct from wanted.reason
		end`, reasons)
	if wrong != 0 {
		t.Errorf("%d messages became something else than they are", wrong)
	}
	if n := h.Number(`select count(*) from dead_letters where detail = '' or reason = ''`); n != 0 {
		t.Errorf("%d dead letters do not say why", n)
	}
	if lines := j.matching("WARN aggregator waits"); len(lines) != 0 {
		t.Errorf("the reading broke off: %v", lines)
	}
	if n := h.Number(`select count(*) from dead_letters where detail like 'the database refuses it%'`); n != 0 {
		t.Errorf("%d messages passed the decoder that Postgres refuses", n)
	}
	t.Logf("%d events, %d dead letters of %d messages; %v", h.Number(`select count(*) from usage_events`), h.Number(`select count(*) from dead_letters`), messages, want)
}

// What no rule foresaw and Postgres refuses is found and put aside alone.
func TestRefusedMessageIsDeadLetterAndOthersCount(t *testing.T) {
	t.Parallel()
	h := newEnvFor(t, ingest.StreamConfig{Partitions: 1})
	tenant := h.Subscribe(1)[0]
	if _, err := h.Pool.Exec(t.Context(), `alter table usage_events add constraint superstition check (quantity <> 13)`); err != nil {
		t.Fatal(err)
	}
	const messages = 5000
	var all []testMessage
	var units int64
	culprits := map[int]bool{0: true, 1234: true, messages - 1: true}
	for n := range messages {
		quantity := int64(n%10 + 1)
		if culprits[n] {
			quantity = 13
		} else {
			units += quantity
		}
		all = append(all, usage(tenant, fmt.Sprint(n), quantity).encode())
	}
	// What is no event owns no key.
	all[1235] = usage(tenant, "1234", 4).encode()
	units += 4 - 1235%10 - 1
	h.publishAll(all)
	h.run()
	h.WaitUntilRead()
	if got := h.Count(tenant, "inbox"); got != units {
		t.Errorf("counted %d, want %d", got, units)
	}
	for n := range culprits {
		got := h.Number(`select count(*) from dead_letters where stream_seq = $1 and reason = 'malformed' and detail like '%superstition%'`, n+1)
		if got != 1 {
			t.Errorf("message %d: %d dead letters that name the constraint, want 1", n+1, got)
		}
	}
	if n := h.Number(`select count(*) from dead_letters`); n != int64(len(culprits)) {
		t.Errorf("%d dead letters, want %d", n, len(culprits))
	}
	h.CheckCounters()
	h.CheckMessages()
}

// The same thousand events, sent by everybody at once.
func TestFiftyConnectionsWithSameEventsCountOnce(t *testing.T) {
	t.Parallel()
	h := newEnv(t)
	tenants := h.Subscribe(10)
	h.run()
	var events []publisher.Event
	var all []testMessage
	for n := range 1000 {
		events = append(events, email(tenants[n%10], fmt.Sprint(n), 1))
		all = append(all, usage(tenants[n%10], fmt.Sprint(n), 1).encode())
	}
	var senders sync.WaitGroup
	for n := range 50 {
		nc := h.Server.Connect(t)
		senders.Go(func() {
			if n%10 == 0 { // some with ids, of which the server swallows what it remembers
				pub, err := publisher.New(nc)
				if err == nil {
					_, err = pub.PublishBatch(t.Context(), events)
				}
				if err != nil {
					t.Error(err)
				}
				return
			}
			js, err := jetstream.New(nc)
			if err != nil {
				t.Error(err)
				return
			}
			for _, s := range all {
				if _, err := js.PublishMsgAsync(&nats.Msg{Subject: s.subject, Data: []byte(s.payload)}); err != nil {
					t.Error(err)
					return
				}
			}
			<-js.PublishAsyncComplete()
		})
	}
	senders.Wait()
	h.WaitUntilRead()
	for _, tenant := range tenants {
		if got := h.Count(tenant, "inbox"); got != 100 {
			t.Errorf("tenant %s: counted %d, want 100", tenant, got)
		}
	}
	if end := h.LastSeq(); end < 45_000 {
		t.Errorf("the stream holds %d messages: the test shows nothing", end)
	}
	if n := h.Number(`select count(*) from dead_letters`); n != 0 {
		t.Errorf("%d dead letters, want none", n)
	}
	h.CheckCounters()
	h.CheckMessages()
}

// Two senders use one key for different things at the same moment: whichever
// the stream stored first counts, the other is a conflict.
func TestStreamOrderDecidesConflicts(t *testing.T) {
	t.Parallel()
	h := newEnv(t)
	tenants := h.Subscribe(3)
	h.run()
	const keys = 100
	var senders sync.WaitGroup
	for quantity := range int64(2) {
		pub, err := publisher.New(h.Server.Connect(t))
		if err != nil {
			t.Fatal(err)
		}
		senders.Go(func() {
			for n := range keys {
				if _, err := pub.Publish(t.Context(), email(tenants[n%3], fmt.Sprint(n), quantity+1)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	senders.Wait()
	h.WaitUntilRead()
	if n := h.Number(`select count(*) from usage_events`); n != keys {
		t.Errorf("%d events, want %d", n, keys)
	}
	n := h.Number(`
		select count(*)
		from dead_letters d
		join usage_events e on e.tenant_id = d.tenant_id and d.detail like '%"' || e.idempotency_key || '" belongs to the event at 1-' || e.stream_seq || ':%'
		where d.reason = 'idempotency_conflict' and d.stream_seq > e.stream_seq`)
	if n != keys {
		t.Errorf("%d conflicts that came after the event they name, want %d", n, keys)
	}
	h.CheckCounters()
	h.CheckMessages()
}

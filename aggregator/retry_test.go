package aggregator

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"odometer"
	"odometer/billing"
	"odometer/ingest/publisher"
)

// retry retries and tells how many letters became what; letters that were
// decided before are counted apart.
func (h *house) retry(s Selection) map[string]int {
	h.t.Helper()
	became := map[string]int{}
	err := Retry(h.t.Context(), h.pool, s, "test", func(o Outcome) {
		if o.Before {
			o.State = "before " + o.State
		}
		became[o.State]++
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return became
}

func (h *house) expectRetry(s Selection, want map[string]int) {
	h.t.Helper()
	if got := h.retry(s); fmt.Sprint(got) != fmt.Sprint(want) {
		h.t.Errorf("retried: %v, want %v", got, want)
	}
}

// withReplies is the sample catalogue with one more action.
func withReplies() odometer.Catalogue {
	c := billing.SampleCatalogue()
	c.Agents[0].Actions = append([]string{"email_replied"}, c.Agents[0].Actions...)
	return c
}

func (h *house) apply(c odometer.Catalogue) {
	h.t.Helper()
	if err := billing.ApplyCatalogue(h.t.Context(), h.pool, c); err != nil {
		h.t.Fatal(err)
	}
}

func reply(tenant uuid.UUID, key string, quantity int64) publisher.Event {
	return publisher.Event{Tenant: tenant, Agent: "inbox", ActionType: "email_replied", IdempotencyKey: key, Quantity: quantity}
}

// A letter that is retried by several at once, and again, and again after one
// of them was killed in the middle, counts once; its batch stays as it was.
func TestRetryCountsExactlyOnce(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	tenants := h.subscribe(3)
	h.run()
	const letters = 300
	var events []publisher.Event
	for i := range letters {
		events = append(events, reply(tenants[i%3], fmt.Sprint(i), 2))
	}
	h.publish(events...)
	h.settled()
	if n := h.number(`select count(*) from dead_letters where reason = 'unknown_action' and state = 'open'`); n != letters {
		t.Fatalf("%d dead letters, want %d", n, letters)
	}
	h.expectRetry(Selection{Reason: odometer.UnknownAction}, map[string]int{"open": letters})
	h.apply(withReplies())
	l := h.load(2, tenants...)
	ctx, kill := context.WithCancel(t.Context())
	go func() { time.Sleep(5 * time.Millisecond); kill() }()
	_ = Retry(ctx, h.pool, Selection{}, "killed", func(Outcome) {})
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if err := Retry(t.Context(), h.pool, Selection{}, "test", func(Outcome) {}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	h.flows(l, 20)
	l.stop()
	h.settled()
	if n := h.number(`select sum(quantity)::bigint from usage_events where action_type = 'email_replied'`); n != 2*letters {
		t.Errorf("retried letters count %d, want %d", n, 2*letters)
	}
	if n := h.number(`select count(*) from dead_letters where state = 'retried' and retry_seq is not null`); n != letters {
		t.Errorf("%d letters are retried, want %d", n, letters)
	}
	first := odometer.Position{Epoch: 1, Seq: h.number(`select min(stream_seq) from dead_letters`)}
	h.expectRetry(Selection{IDs: []odometer.Position{first}}, map[string]int{"before retried": 1})
	h.balanced()
	h.accountedWithRetried()
}

// accountedWithRetried is accounted where letters were retried: to the batches
// they stay dead.
func (h *house) accountedWithRetried() {
	h.t.Helper()
	if dead, said := h.number(`select count(*) from dead_letters`), h.number(`select sum(dead)::bigint from batches`); dead != said {
		h.t.Errorf("%d dead letters, batches say %d", dead, said)
	}
	events := h.number(`
		select count(*) from usage_events e where not exists (
			select from dead_letters d where d.stream_epoch = e.stream_epoch and d.stream_seq = e.stream_seq and d.state = 'retried')`)
	if said := h.number(`select sum(events)::bigint from batches`); events != said {
		h.t.Errorf("%d events that were not retried, batches say %d", events, said)
	}
}

// Whose key counts already is a duplicate or a conflict, and never counts.
func TestRetryOfAClaimedKey(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	tenant := h.subscribe(1)[0]
	early := email(tenant, "homeless", 1)
	early.OccurredAt = time.Now().AddDate(0, 0, -50)
	h.run()
	h.publish(reply(tenant, "a", 2))
	h.publish(reply(tenant, "b", 2))
	h.publish(early)
	h.settled()
	h.apply(withReplies())
	now := early
	now.OccurredAt = time.Time{}
	again := reply(tenant, "a", 2)
	again.OccurredAt = time.Now() // other bytes, which the stream keeps
	h.publish(again, reply(tenant, "b", 3), now)
	h.settled()
	h.expectRetry(Selection{Tenant: &tenant}, map[string]int{"duplicate": 2, "open": 1})
	if n := h.number(`select count(*) from dead_letters where state = 'open' and reason = 'idempotency_conflict'`); n != 1 {
		t.Errorf("%d conflicts, want 1", n)
	}
	if n := h.count(tenant, "inbox"); n != 6 {
		t.Errorf("counted %d, want 6", n)
	}
	h.balanced()
}

// A letter that somebody discards while it waits to be retried stays discarded.
func TestRetryLeavesWhatWasDecidedMeanwhile(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	tenant := h.subscribe(1)[0]
	h.run()
	h.publish(reply(tenant, "a", 2), reply(tenant, "b", 3))
	h.settled()
	h.apply(withReplies())
	rows, _ := (&Selection{}).openAfter(t.Context(), h.pool, odometer.Position{})
	letters, err := collectLetters(rows)
	if err != nil {
		t.Fatal(err)
	}
	s := Selection{IDs: []odometer.Position{letters[0].Position}}
	if err := Discard(t.Context(), h.pool, s, "test", "because", func(Outcome) {}); err != nil {
		t.Fatal(err)
	}
	terms := h.number(`select sum(rules_version)::bigint from stream_positions`)
	var told []Outcome
	r := &retrier{pool: h.pool, who: "test", each: func(o Outcome) { told = append(told, o) }, workers: map[int]*worker{}}
	r.a = &Aggregator{Options: Options{Pool: h.pool, Now: time.Now}}
	if err := r.page(t.Context(), letters); err != nil {
		t.Fatal(err)
	}
	if len(told) != 2 || told[0].State != "discarded" || !told[0].Before || told[1].State != "retried" {
		t.Errorf("told %+v", told)
	}
	if n := h.count(tenant, "inbox"); n != 3 {
		t.Errorf("counted %d, want 3", n)
	}
	if h.number(`select sum(rules_version)::bigint from stream_positions`) <= terms {
		t.Error("the terms of the partition were not raised: a reader that waited would count by what it saw before")
	}
}

// Corrections are retried in their turn, against the balance of their turn.
func TestRetriedCorrectionsMeetTheBalance(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	tenant := h.subscribe(1)[0]
	stop := h.run()
	take := func(key string, n int64) publisher.Event {
		return publisher.Event{Adjustment: true, Tenant: tenant, Agent: "inbox", IdempotencyKey: key, Quantity: n}
	}
	h.publish(take("first", -5))
	h.publish(take("second", -5))
	h.publish(email(tenant, "use", 7))
	h.publish(reply(tenant, "later", 50))
	h.settled()
	stop()
	h.apply(withReplies())
	h.expectRetry(Selection{}, map[string]int{"retried": 2, "open": 1})
	if n := h.number(`select count(*) from dead_letters where state = 'open' and detail like '%-5 %balance of 2 %'`); n != 1 {
		t.Error("the refusal does not tell the balance")
	}
	if n := h.count(tenant, "inbox"); n != 52 {
		t.Errorf("balance %d, want 52", n)
	}
	h.balanced()
}

// What letters lacked comes, and they are retried by themselves; while it does
// not come, looking costs next to nothing.
func TestLettersAreRetriedWhenWhatTheyLackedHasCome(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	tenant, stranger := h.subscribe(1)[0], tenantOf(7)
	h.run()
	h.publish(reply(tenant, "action", 1), email(stranger, "period", 2),
		publisher.Event{Tenant: tenant, Agent: "phone", ActionType: "call", IdempotencyKey: "agent", Quantity: 4})
	h.settled()
	expect := func(want int) {
		t.Helper()
		if n, err := RetryLacking(t.Context(), h.pool); err != nil || n != want {
			t.Errorf("%d letters retried by themselves, %v; want %d", n, err, want)
		}
	}
	expect(0)
	c := withReplies()
	c.Agents = append(c.Agents, odometer.Agent{ID: "phone", Noun: "call", Actions: []string{"call"}, LimitKey: "calls_per_month",
		UnitPrice: c.Agents[0].UnitPrice, Meter: "phone_overage", LookupKey: "phone_overage"})
	h.apply(c)
	expect(2)
	h.set(stranger, time.Now().AddDate(0, 0, 1), time.Now().AddDate(0, 0, 20))
	expect(0)
	h.set(stranger, time.Now().AddDate(0, 0, -10), time.Now().AddDate(0, 0, 20))
	expect(1)
	if n := h.number(`select count(*) from usage_events`); n != 3 {
		t.Errorf("%d events, want 3", n)
	}
	h.balanced()
}

func TestLookingForLackingLettersIsCheap(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.attach()
	tenant := h.subscribe(1)[0]
	if _, err := h.pool.Exec(t.Context(), `
		insert into dead_letters (stream_epoch, stream_seq, subject, tenant_id, agent, reason, detail, payload, headers, received_at, judged_by)
		select 1, n, 'usage.x.inbox', $1::uuid, 'inbox',
			case n % 4 when 0 then 'no_billing_period' when 1 then 'unknown_agent' when 2 then 'unknown_action' else 'malformed' end,
			'', '\x7b7d', '{}', now(), null
		from generate_series(1, 100000) n`, tenant); err != nil {
		t.Fatal(err)
	}
	if _, err := h.pool.Exec(t.Context(), `update dead_letters d set judged_by = `+judgedBySQL+` from dead_letters s
		where (s.stream_epoch, s.stream_seq) = (d.stream_epoch, d.stream_seq)`); err != nil {
		t.Fatal(err)
	}
	if _, err := h.pool.Exec(t.Context(), `vacuum analyze dead_letters`); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if n, err := RetryLacking(t.Context(), h.pool); err != nil || n != 0 {
		t.Fatalf("%d retried, %v", n, err)
	}
	took := time.Since(began)
	t.Logf("100,000 letters whose cause persists: a look takes %s", took)
	if took > time.Second {
		t.Errorf("a look at 100,000 letters whose cause persists took %s", took)
	}
	if n := h.number(`select sum(rules_version)::bigint from stream_positions`); n > 1 {
		t.Errorf("the look has disturbed the readers: terms %d", n)
	}
}

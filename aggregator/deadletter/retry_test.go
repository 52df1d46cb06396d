package deadletter

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"odometer"
	"odometer/aggregator/apply"
	"odometer/aggregator/internal/aggtest"
	"odometer/ingest/publisher"
	"odometer/internal/testenv"
)

// retry retries and returns how many dead letters became what; those that were
// decided before are counted apart.
func (h *testEnv) retry(s Selection) map[string]int {
	h.T.Helper()
	became := map[string]int{}
	err := Retry(h.T.Context(), h.Pool, s, "test", func(o Outcome) {
		if o.Before {
			o.State = "before " + o.State
		}
		became[o.State]++
	})
	if err != nil {
		h.T.Fatal(err)
	}
	return became
}

func (h *testEnv) expectRetry(s Selection, want map[string]int) {
	h.T.Helper()
	if got := h.retry(s); fmt.Sprint(got) != fmt.Sprint(want) {
		h.T.Errorf("retried: %v, want %v", got, want)
	}
}

// A dead letter that is retried by several at once, and again, and again after one
// of them was killed in the middle, counts once; its batch stays as it was.
func TestRetryCountsExactlyOnce(t *testing.T) {
	t.Parallel()
	h := newEnv(t, testenv.Options{})
	tenants := h.Subscribe(3)
	h.run()
	const messages = 300
	var events []publisher.Event
	for i := range messages {
		events = append(events, aggtest.Reply(tenants[i%3], fmt.Sprint(i), 2))
	}
	h.Publish(events...)
	h.WaitUntilRead()
	if n := h.Number(`select count(*) from dead_letters where reason = 'unknown_action' and state = 'open'`); n != messages {
		t.Fatalf("%d dead letters, want %d", n, messages)
	}
	h.expectRetry(Selection{Reason: odometer.UnknownAction}, map[string]int{"open": messages})
	h.ApplyCatalogue(aggtest.ReplyCatalogue())
	l := h.StartLoad(2, tenants...)
	ctx, kill := context.WithCancel(t.Context())
	go func() { time.Sleep(5 * time.Millisecond); kill() }()
	_ = Retry(ctx, h.Pool, Selection{}, "killed", func(Outcome) {})
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if err := Retry(t.Context(), h.Pool, Selection{}, "test", func(Outcome) {}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	h.WaitForLoad(l, 20)
	l.Stop()
	h.WaitUntilRead()
	if n := h.Number(`select sum(quantity)::bigint from usage_events where action_type = 'email_replied'`); n != 2*messages {
		t.Errorf("retried dead letters count %d, want %d", n, 2*messages)
	}
	if n := h.Number(`select count(*) from dead_letters where state = 'retried' and retry_seq is not null`); n != messages {
		t.Errorf("%d dead letters are retried, want %d", n, messages)
	}
	first := odometer.Position{Epoch: 1, Seq: h.Number(`select min(stream_seq) from dead_letters`)}
	h.expectRetry(Selection{IDs: []odometer.Position{first}}, map[string]int{"before retried": 1})
	h.CheckCounters()
	h.checkMessages()
}

// checkMessages checks batches where dead letters were retried: there they stay
// dead.
func (h *testEnv) checkMessages() {
	h.T.Helper()
	if dead, recorded := h.Number(`select count(*) from dead_letters`), h.Number(`select sum(dead)::bigint from batches`); dead != recorded {
		h.T.Errorf("%d dead letters, batches say %d", dead, recorded)
	}
	events := h.Number(`
		select count(*) from usage_events e where not exists (
			select from dead_letters d where d.stream_epoch = e.stream_epoch and d.stream_seq = e.stream_seq and d.state = 'retried')`)
	if recorded := h.Number(`select sum(events)::bigint from batches`); events != recorded {
		h.T.Errorf("%d events that were not retried, batches say %d", events, recorded)
	}
}

// A dead letter whose key an event has is a duplicate or a conflict, and never
// counts.
func TestRetryOfAKeyThatHasAnOwner(t *testing.T) {
	t.Parallel()
	h := newEnv(t, testenv.Options{})
	tenant := h.Subscribe(1)[0]
	early := testenv.Email(tenant, "no period", 1)
	early.OccurredAt = time.Now().AddDate(0, 0, -50)
	h.run()
	h.Publish(aggtest.Reply(tenant, "a", 2))
	h.Publish(aggtest.Reply(tenant, "b", 2))
	h.Publish(early)
	h.WaitUntilRead()
	h.ApplyCatalogue(aggtest.ReplyCatalogue())
	now := early
	now.OccurredAt = time.Time{}
	again := aggtest.Reply(tenant, "a", 2)
	again.OccurredAt = time.Now() // other bytes, which the stream keeps
	h.Publish(again, aggtest.Reply(tenant, "b", 3), now)
	h.WaitUntilRead()
	h.expectRetry(Selection{Tenant: &tenant}, map[string]int{"duplicate": 2, "open": 1})
	if n := h.Number(`select count(*) from dead_letters where state = 'open' and reason = 'idempotency_conflict'`); n != 1 {
		t.Errorf("%d conflicts, want 1", n)
	}
	if n := h.Count(tenant, "inbox"); n != 6 {
		t.Errorf("counted %d, want 6", n)
	}
	h.CheckCounters()
}

// A dead letter that somebody discards while it waits to be retried stays discarded.
func TestRetryLeavesWhatWasDecidedMeanwhile(t *testing.T) {
	t.Parallel()
	h := newEnv(t, testenv.Options{})
	tenant := h.Subscribe(1)[0]
	h.run()
	h.Publish(aggtest.Reply(tenant, "a", 2), aggtest.Reply(tenant, "b", 3))
	h.WaitUntilRead()
	h.ApplyCatalogue(aggtest.ReplyCatalogue())
	rows, _ := (&Selection{}).openAfter(t.Context(), h.Pool, odometer.Position{})
	items, err := apply.CollectDeadLetters(rows)
	if err != nil {
		t.Fatal(err)
	}
	s := Selection{IDs: []odometer.Position{items[0].Event.Position}}
	if err := Discard(t.Context(), h.Pool, s, "test", "because", func(Outcome) {}); err != nil {
		t.Fatal(err)
	}
	version := h.Number(`select sum(rules_version)::bigint from stream_positions`)
	var outcomes []Outcome
	r := &retrier{pool: h.Pool, who: "test", each: func(o Outcome) { outcomes = append(outcomes, o) }, appliers: map[int]*apply.Applier{}}
	if err := r.page(t.Context(), items); err != nil {
		t.Fatal(err)
	}
	if len(outcomes) != 2 || outcomes[0].State != "discarded" || !outcomes[0].Before || outcomes[1].State != "retried" {
		t.Errorf("outcomes %+v", outcomes)
	}
	if n := h.Count(tenant, "inbox"); n != 3 {
		t.Errorf("counted %d, want 3", n)
	}
	if h.Number(`select sum(rules_version)::bigint from stream_positions`) <= version {
		t.Error("the rules version of the partition was not raised: a reader that waited would count by what it saw before")
	}
}

// Corrections are retried in their turn, against the balance of their turn.
func TestRetriedCorrectionsMeetTheBalance(t *testing.T) {
	t.Parallel()
	h := newEnv(t, testenv.Options{})
	tenant := h.Subscribe(1)[0]
	stop := h.run()
	take := func(key string, n int64) publisher.Event {
		return publisher.Event{Adjustment: true, Tenant: tenant, Agent: "inbox", IdempotencyKey: key, Quantity: n}
	}
	h.Publish(take("first", -5))
	h.Publish(take("second", -5))
	h.Publish(testenv.Email(tenant, "use", 7))
	h.Publish(aggtest.Reply(tenant, "later", 50))
	h.WaitUntilRead()
	stop()
	h.ApplyCatalogue(aggtest.ReplyCatalogue())
	h.expectRetry(Selection{}, map[string]int{"retried": 2, "open": 1})
	if n := h.Number(`select count(*) from dead_letters where state = 'open' and detail like '%-5 %balance of 2 %'`); n != 1 {
		t.Error("the refusal does not name the balance")
	}
	if n := h.Count(tenant, "inbox"); n != 52 {
		t.Errorf("balance %d, want 52", n)
	}
	h.CheckCounters()
}

// When the rules that made them dead change, dead letters are retried by
// themselves; while they do not, the query costs next to nothing.
func TestDeadLettersAreRetriedWhenRulesChange(t *testing.T) {
	t.Parallel()
	h := newEnv(t, testenv.Options{})
	tenant, unsubscribed := h.Subscribe(1)[0], testenv.Tenant(7)
	h.run()
	h.Publish(aggtest.Reply(tenant, "action", 1), testenv.Email(unsubscribed, "period", 2),
		publisher.Event{Tenant: tenant, Agent: "phone", ActionType: "call", IdempotencyKey: "agent", Quantity: 4})
	h.WaitUntilRead()
	expect := func(want int) {
		t.Helper()
		if n, err := AutoRetry(t.Context(), h.Pool); err != nil || n != want {
			t.Errorf("%d dead letters retried by themselves, %v; want %d", n, err, want)
		}
	}
	expect(0)
	c := aggtest.ReplyCatalogue()
	c.Agents = append(c.Agents, odometer.Agent{ID: "phone", Noun: "call", Actions: []string{"call"}, LimitKey: "calls_per_month",
		UnitPrice: c.Agents[0].UnitPrice, Meter: "phone_overage", LookupKey: "phone_overage"})
	h.ApplyCatalogue(c)
	expect(2)
	h.SetPeriod(unsubscribed, time.Now().AddDate(0, 0, 1), time.Now().AddDate(0, 0, 20))
	expect(0)
	h.SetPeriod(unsubscribed, time.Now().AddDate(0, 0, -10), time.Now().AddDate(0, 0, 20))
	expect(1)
	if n := h.Number(`select count(*) from usage_events`); n != 3 {
		t.Errorf("%d events, want 3", n)
	}
	h.CheckCounters()
}

func TestAutoRetryIsCheapWhenNothingChanged(t *testing.T) {
	t.Parallel()
	h := newEnv(t, testenv.Options{})
	h.createPositions()
	tenant := h.Subscribe(1)[0]
	if _, err := h.Pool.Exec(t.Context(), `
		insert into dead_letters (stream_epoch, stream_seq, subject, tenant_id, agent, reason, detail, payload, headers, received_at, rules_seen)
		select 1, n, 'usage.x.inbox', $1::uuid, 'inbox',
			case n % 4 when 0 then 'no_billing_period' when 1 then 'unknown_agent' when 2 then 'unknown_action' else 'malformed' end,
			'', '\x7b7d', '{}', now(), null
		from generate_series(1, 100000) n`, tenant); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Pool.Exec(t.Context(), `update dead_letters d set rules_seen = `+rulesSeenSQL+` from dead_letters s
		where (s.stream_epoch, s.stream_seq) = (d.stream_epoch, d.stream_seq)`); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Pool.Exec(t.Context(), `vacuum analyze dead_letters`); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if n, err := AutoRetry(t.Context(), h.Pool); err != nil || n != 0 {
		t.Fatalf("%d retried, %v", n, err)
	}
	took := time.Since(began)
	t.Logf("100,000 dead letters whose cause persists: a query takes %s", took)
	if took > time.Second {
		t.Errorf("a query with 100,000 dead letters whose cause persists took %s", took)
	}
	if n := h.Number(`select sum(rules_version)::bigint from stream_positions`); n > 1 {
		t.Errorf("the query has disturbed the readers: rules version %d", n)
	}
}

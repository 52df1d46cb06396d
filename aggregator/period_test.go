package aggregator

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"

	"odometer"
	"odometer/aggregator/apply"
	"odometer/billing"
	"odometer/ingest"
	"odometer/ingest/publisher"
)

// agree sets a subscription as somebody did at a time.
func (h *testEnv) agreed(a billing.SubscriptionChange, at time.Time) {
	h.T.Helper()
	a.Start, a.End = a.Start.UTC().Truncate(time.Microsecond), a.End.UTC().Truncate(time.Microsecond)
	if _, err := billing.Set(h.T.Context(), h.Pool, a, at); err != nil {
		h.T.Fatal(err)
	}
}

// checkPeriods checks that each event lies in the period of its time, that periods
// follow one another, and that what has ended is frozen and what runs is not.
func (h *testEnv) checkPeriods() {
	h.T.Helper()
	for what, sql := range map[string]string{
		"events outside of their period": `
			select count(*) from usage_events e
			where not exists (select from billing_periods p
				where p.tenant_id = e.tenant_id and p.period_start = e.period_start
				  and e.occurred_at >= p.period_start and e.occurred_at < p.period_end)`,
		"gaps between periods": `
			select count(*) from (
				select period_start - lag(period_end) over (partition by tenant_id order by period_start) as gap from billing_periods
			) p where gap <> interval '0'`,
		"counters of another length than their period": `
			select count(*) from usage_counters c join billing_periods p using (tenant_id, period_start) where c.period_end <> p.period_end`,
		"periods that are frozen although they run": `
			select count(*) from billing_periods where frozen_at < period_end`,
	} {
		if n := h.Number(sql); n != 0 {
			h.T.Errorf("%d %s", n, what)
		}
	}
}

// Periods that have ended roll over by themselves, one or several, for what is
// in the stream already and for tenants that send nothing.
func TestPeriodsRollOverByThemselves(t *testing.T) {
	t.Parallel()
	h := newEnv(t)
	now := time.Now().UTC().Truncate(time.Microsecond)
	hour := func(n int) time.Time { return now.Add(time.Duration(n) * time.Hour) }
	moment, several, silent, over := tenantOf(0), tenantOf(1), tenantOf(2), tenantOf(3)
	plan := billing.SubscriptionChange{PlanID: "price_bundle_monthly", Status: odometer.Active, Interval: odometer.Daily}
	state := func(tenant uuid.UUID, status odometer.Status, start, end time.Time) {
		a := plan
		a.Tenant, a.Status, a.Start, a.End = tenant, status, start, end
		h.agreed(a, start)
	}
	state(moment, odometer.Active, now.Add(-24*time.Hour-time.Millisecond), now.Add(-time.Millisecond))
	state(several, odometer.PastDue, hour(-5*24-1), hour(-4*24-1))
	state(silent, odometer.Active, hour(-3*24-1), hour(-2*24-1))
	state(over, odometer.Canceled, hour(-3*24-1), hour(-2*24-1))
	if n := h.Number(`select count(*) from billing_periods`); n != 4 {
		t.Fatalf("%d periods, want 4 before anybody has rolled them over", n)
	}
	at := func(tenant uuid.UUID, key string, occurred time.Time) publisher.Event {
		e := email(tenant, key, 1)
		e.OccurredAt = occurred
		return e
	}
	h.Publish(
		at(moment, "before", now.Add(-2*time.Millisecond)), at(moment, "at", now.Add(-time.Millisecond)), email(moment, "now", 1),
		at(several, "first", hour(-4*24-1).Add(-time.Microsecond)), at(several, "second", hour(-4*24-1)), at(several, "third", hour(-2*24-2)),
		at(several, "later", hour(-24)), email(several, "now", 1),
		at(over, "in", hour(-2*24-2)), at(over, "out", hour(-2*24-1)), email(over, "now", 1),
	)
	h.run()
	h.WaitUntilRead()
	h.Eventually("who sends nothing rolls over too", func() bool {
		return h.Number(`select count(*) from billing_periods where tenant_id = $1`, silent) == 4
	})
	for _, want := range []struct {
		tenant  uuid.UUID
		periods int64
		events  int64
	}{{moment, 2, 3}, {several, 6, 5}, {silent, 4, 0}, {over, 1, 1}} {
		if n := h.Number(`select count(*) from billing_periods where tenant_id = $1`, want.tenant); n != want.periods {
			t.Errorf("tenant %s: %d periods, want %d", want.tenant, n, want.periods)
		}
		if n := h.Number(`select count(*) from usage_events where tenant_id = $1`, want.tenant); n != want.events {
			t.Errorf("tenant %s: %d events, want %d", want.tenant, n, want.events)
		}
	}
	h.Eventually("what has ended is frozen", func() bool {
		return h.Number(`select count(*) from billing_periods where frozen_at is null and period_end <= now()`) == 0
	})
	h.checkPeriods()
	h.CheckCounters()
	h.CheckMessages()
}

// The end of a period, of a trial with a plan and of one without pass while
// events arrive.
func TestPeriodBoundaryUnderLoad(t *testing.T) {
	t.Parallel()
	h := newEnv(t)
	paid, trial, free, quiet := tenantOf(0), tenantOf(1), tenantOf(2), tenantOf(3)
	end := time.Now().Add(5 * time.Second).UTC().Truncate(time.Microsecond)
	later := end.AddDate(0, 0, 10)
	for _, tenant := range []uuid.UUID{paid, quiet} {
		h.SetPeriod(tenant, end.AddDate(0, -1, 0), end)
	}
	h.agreed(billing.SubscriptionChange{Tenant: trial, PlanID: "price_bundle_monthly", Status: odometer.Trial, Interval: odometer.Monthly,
		Start: end.AddDate(0, 0, -14), End: later, TrialEndsAt: &end}, time.Now())
	h.agreed(billing.SubscriptionChange{Tenant: free, Status: odometer.Trial, Interval: odometer.Monthly,
		Start: end.AddDate(0, 0, -14), End: later, TrialEndsAt: &end}, time.Now())
	// One that occurs ahead of time, in a period that is not there yet.
	ahead := email(paid, "ahead", 1)
	ahead.OccurredAt = end.Add(time.Minute)
	h.run()
	l := h.StartLoad(3, paid, trial, free)
	h.Publish(ahead)
	h.Eventually("the boundary has passed", func() bool { return time.Now().After(end.Add(200 * time.Millisecond)) })
	h.WaitForLoad(l, 100)
	acked := l.Stop()
	h.WaitUntilRead()
	for _, tenant := range []uuid.UUID{paid, trial} {
		sent := acked[tenant]
		if tenant == paid {
			sent++
		}
		if n := h.Number(`select count(*) from usage_events where tenant_id = $1`, tenant); n != sent {
			t.Errorf("tenant %s: %d events of %d", tenant, n, sent)
		}
		for _, side := range []string{"<", ">="} {
			counted := h.Number(`select coalesce(sum(count), 0)::bigint from usage_counters where tenant_id = $1 and period_start `+side+` $2`, tenant, end)
			events := h.Number(`select count(*) from usage_events where tenant_id = $1 and occurred_at `+side+` $2`, tenant, end)
			if counted != events || events == 0 {
				t.Errorf("tenant %s: %d counted for %d events %s the boundary", tenant, counted, events, side)
			}
		}
	}
	if n := h.Number(`select count(*) from usage_events where tenant_id = $1 and occurred_at >= $2`, free, end); n != 0 {
		t.Errorf("%d events counted after a trial without a plan", n)
	}
	refused := h.Number(`select count(*) from dead_letters where tenant_id = $1 and reason = 'no_billing_period' and received_at >= $2`, free, end)
	if counted := h.Count(free, "inbox"); refused == 0 || counted+refused != acked[free] {
		t.Errorf("trial without a plan: %d counted and %d refused of %d", counted, refused, acked[free])
	}
	h.Eventually("the trials are over", func() bool {
		return h.Number(`select count(*) from subscriptions where (tenant_id, status) in (($1::uuid, 'active'), ($2, 'expired'))`, trial, free) == 2
	})
	h.Eventually("who is quiet has rolled over", func() bool {
		return h.Number(`select count(*) from billing_periods where tenant_id = $1 and period_start = $2`, quiet, end) == 1
	})
	if n := h.Number(`select count(*) from billing_periods where tenant_id = any($1) and trial <> (period_start < $2)`, []uuid.UUID{trial, free}, end); n != 0 {
		t.Errorf("%d periods of trials are wrong about being free", n)
	}
	h.checkPeriods()
	h.CheckCounters()
	h.CheckMessages()
}

// A subscription that nobody rolled over for longer than an event may be old
// still takes events: its periods follow by themselves, whoever comes first,
// the event or the clock.
func TestEventRollsOverOldPeriod(t *testing.T) {
	t.Parallel()
	h := newEnvFor(t, ingest.StreamConfig{Partitions: 1})
	tenant := tenantOf(0)
	start := time.Now().AddDate(0, 0, -160)
	h.agreed(billing.SubscriptionChange{Tenant: tenant, PlanID: "price_bundle_monthly", Status: odometer.Active, Interval: odometer.Monthly,
		Start: start, End: start.AddDate(0, 0, 30)}, start)
	h.Publish(email(tenant, "at last", 1))
	// By hand: without the clock that runs beside the workers.
	a := h.aggregator()
	at, err := a.attach(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w := a.newWorker(0, at)
	stored := time.Now().UTC().Truncate(time.Microsecond)
	i := apply.Decode(&ingest.Message{
		Kind: odometer.Usage, TenantToken: tenant.String(), AgentToken: "inbox", StoredAt: stored, Position: odometer.Position{Epoch: 1, Seq: 1},
		Data: []byte(`{"idempotency_key":"at last","action_type":"email_processed"}`),
	})
	b := &batch{}
	b.addItem(&i)
	if err := w.commit(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if n := h.Count(tenant, "inbox"); n != 1 {
		t.Errorf("counted %d, want 1; dead letters: %v", n, h.Counted().Dead)
	}
	h.checkPeriods()
}

// What is changed while the aggregator runs is honoured by the very next
// message.
func TestNextMessageUsesChangedRules(t *testing.T) {
	t.Parallel()
	h := newEnv(t)
	tenant, later := tenantOf(0), tenantOf(1)
	h.SetPeriod(tenant, time.Now().AddDate(0, 0, -10), time.Now().AddDate(0, 0, 20))
	h.run()
	var refused, counted int64
	sent := 0
	send := func(count bool, e publisher.Event) {
		t.Helper()
		sent++
		e.IdempotencyKey = fmt.Sprint(sent)
		h.Publish(e)
		if counted++; !count {
			counted--
			refused++
		}
		h.Eventually(fmt.Sprintf("message %d is classified", sent), func() bool {
			return h.Number(`select (select count(*) from usage_events) + (select count(*) from dead_letters)`) == int64(sent)
		})
		if n := h.Number(`select count(*) from usage_events`); n != counted {
			t.Fatalf("message %d, %s %s: %d events, want %d; dead: %v", sent, e.Tenant, e.Agent, n, counted, h.Counted().Dead)
		}
	}
	apply := func(change func(*odometer.Catalogue)) {
		t.Helper()
		c := billing.SampleCatalogue()
		change(&c)
		if err := billing.ApplyCatalogue(t.Context(), h.Pool, c); err != nil {
			t.Fatal(err)
		}
	}
	phone := publisher.Event{Tenant: tenant, Agent: "phone", ActionType: "call"}
	reply := publisher.Event{Tenant: tenant, Agent: "inbox", ActionType: "email_replied"}
	withPhone := func(c *odometer.Catalogue) {
		c.Agents = append(c.Agents, odometer.Agent{ID: "phone", Noun: "call", Actions: []string{"call"}, LimitKey: "calls_per_month",
			UnitPrice: decimal.New(5, -2), Meter: "phone_overage", LookupKey: "phone_overage"})
	}
	withReplies := func(c *odometer.Catalogue) {
		withPhone(c)
		c.Agents[0].Actions = append([]string{"email_replied"}, c.Agents[0].Actions...)
	}
	send(true, email(tenant, "", 1))
	send(false, phone)
	apply(withPhone)
	for range 3 {
		send(true, phone)
		send(false, reply)
		apply(withReplies)
		send(true, reply)
		send(true, email(tenant, "", 1))
		apply(withPhone)
	}
	send(false, email(later, "", 1))
	h.SetPeriod(later, time.Now().AddDate(0, 0, -10), time.Now().AddDate(0, 0, 20))
	send(true, email(later, "", 1))
	// Its period ends now, and does not roll.
	h.agreed(billing.SubscriptionChange{Tenant: later, PlanID: "price_bundle_monthly", Status: odometer.Canceled, Interval: odometer.Monthly,
		Start: time.Now().AddDate(0, 0, -5), End: time.Now().AddDate(0, 0, -1)}, time.Now())
	send(false, email(later, "", 1))
	h.agreed(billing.SubscriptionChange{Tenant: later, PlanID: "price_inboxpilot_monthly", Status: odometer.Active, Interval: odometer.Monthly,
		Start: time.Now().AddDate(0, 0, -1), End: time.Now().AddDate(0, 0, 29)}, time.Now())
	send(true, email(later, "", 1))
	h.CheckCounters()
}

// A period is cut while its events arrive: those behind the new boundary move
// with their counts, and no snapshot ever shows a counter that is not the sum
// of its events.
func TestPeriodIsCutUnderLoad(t *testing.T) {
	t.Parallel()
	h := newEnv(t)
	tenants := h.Subscribe(3)
	start := time.Now().AddDate(0, 0, -10)
	h.run()
	var sent, until atomic.Int64
	until.Store(1 << 40)
	published := make(chan struct{})
	pub, err := publisher.New(h.Server.Connect(t))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(published)
		for n := int64(0); n < until.Load() && t.Context().Err() == nil; {
			var events []publisher.Event
			for range 20 {
				e := email(tenants[n%3], fmt.Sprint(n), n%4+1)
				e.OccurredAt = start.Add(time.Duration(n*7919%(10*24*3600)) * time.Second)
				events = append(events, e)
				n++
			}
			if _, err := pub.PublishBatch(t.Context(), events); err != nil && t.Context().Err() == nil {
				t.Error(err)
				return
			}
			sent.Store(n)
		}
	}()
	snapshots := 0
	for day := 1; day <= 9; day++ {
		more := sent.Load() + 100
		h.Eventually("messages arrive", func() bool { h.CheckCounters(); snapshots++; return sent.Load() >= more })
		for _, tenant := range tenants[:2] {
			h.SetPeriod(tenant, start.AddDate(0, 0, day), start.AddDate(0, 0, day+30))
		}
	}
	until.Store(0)
	<-published
	h.WaitUntilRead()
	if n := h.Number(`select count(*) from usage_events`); n != sent.Load() {
		t.Errorf("%d events of %d; dead letters: %d", n, sent.Load(), h.Number(`select count(*) from dead_letters`))
	}
	for n, want := range []int64{10, 10, 1} {
		if got := h.Number(`select count(*) from billing_periods where tenant_id = $1`, tenants[n]); got != want {
			t.Errorf("tenant %d: %d periods, want %d", n, got, want)
		}
	}
	h.checkPeriods()
	h.CheckCounters()
	h.CheckMessages()
	t.Logf("%d events, balanced in %d snapshots", sent.Load(), snapshots)
}

// A closed period takes what lies before its close in the stream, and nothing
// after it; the rest goes to the next open one. Reading again changes nothing.
func TestLateEventGoesToNextOpenPeriod(t *testing.T) {
	t.Parallel()
	h := newEnvFor(t, ingest.StreamConfig{Partitions: 1})
	tenant := tenantOf(0)
	start := time.Now().AddDate(0, 0, -40).UTC().Truncate(time.Microsecond)
	h.SetPeriod(tenant, start, start.AddDate(0, 0, 30))
	m := newModel()
	m.know(h, tenant)
	stop := h.run()
	early := func(key string, quantity int64) testMessage {
		s := usage(tenant, key, quantity)
		s.occurred = start.AddDate(0, 0, 5)
		return s.encode()
	}
	last := h.publishModelled(m, 1, []testMessage{early("in time", 5), usage(tenant, "running", 1).encode()})
	h.WaitUntilRead()
	h.ClosePeriod(tenant, start, odometer.Position{Epoch: 1, Seq: last})
	m.know(h, tenant)
	h.publishModelled(m, 1, []testMessage{early("late", 7), early("in time", 5), early("in time", 6)})
	h.WaitUntilRead()
	h.agree(m, odometer.Position{})
	if n := h.Number(`select count from usage_counters where period_start = $1`, start); n != 5 {
		t.Errorf("the closed period counts %d, want 5", n)
	}
	if n := h.Number(`select count(*) from usage_events where occurred_at < period_start`); n != 1 {
		t.Errorf("%d late events, want 1", n)
	}
	stop()
	if _, err := h.Pool.Exec(t.Context(), `
		delete from usage_events; delete from usage_counters; delete from dead_letters;
		update stream_positions set seq = 0, stored_at = null`); err != nil {
		t.Fatal(err)
	}
	h.run()
	h.WaitUntilRead()
	h.agree(m, odometer.Position{})
	h.CheckCounters()
}

package aggregator

import (
	"fmt"
	"testing"

	"odometer/ingest/publisher"
)

func TestEventsAreCountedByTenantAgentAndPeriod(t *testing.T) {
	t.Parallel()
	h := newEnv(t)
	tenants := h.Subscribe(7)
	h.run()
	want := map[int]int64{}
	for i := range 200 {
		n := i % len(tenants)
		quantity := int64(i%5 + 1)
		h.Publish(email(tenants[n], fmt.Sprintf("key-%d", i), quantity))
		want[n] += quantity
	}
	h.WaitUntilRead()
	for n, tenant := range tenants {
		if got := h.Count(tenant, "inbox"); got != want[n] {
			t.Errorf("tenant %d: counted %d, want %d", n, got, want[n])
		}
	}
	h.CheckCounters()
	h.CheckMessages()
}

func TestSameKeyCountsForEachTenant(t *testing.T) {
	t.Parallel()
	h := newEnv(t)
	tenants := h.Subscribe(2)
	h.run()
	h.Publish(email(tenants[0], "shared", 3), email(tenants[1], "shared", 4))
	h.WaitUntilRead()
	if a, b := h.Count(tenants[0], "inbox"), h.Count(tenants[1], "inbox"); a != 3 || b != 4 {
		t.Errorf("counted %d and %d, want 3 and 4", a, b)
	}
}

func TestOtherContentUnderSameKeyIsConflict(t *testing.T) {
	t.Parallel()
	h := newEnv(t)
	tenant := h.Subscribe(1)[0]
	h.Publish(email(tenant, "k", 1), email(tenant, "k", 2), email(tenant, "k", 1))
	h.run()
	h.WaitUntilRead()
	h.Publish(email(tenant, "k", 3))
	h.WaitUntilRead()
	if got := h.Count(tenant, "inbox"); got != 1 {
		t.Errorf("counted %d, want 1: the first message with a key owns it", got)
	}
	if got := h.Number(`select count(*) from dead_letters where reason = 'idempotency_conflict'`); got != 2 {
		t.Errorf("%d conflicts, want 2", got)
	}
	h.CheckCounters()
	h.CheckMessages()
}

func TestCorrectionIsCheckedInStreamOrder(t *testing.T) {
	t.Parallel()
	h := newEnv(t)
	tenant := h.Subscribe(1)[0]
	correct := func(key string, quantity int64) publisher.Event {
		return publisher.Event{Adjustment: true, Tenant: tenant, Agent: "inbox", IdempotencyKey: key, Quantity: quantity}
	}
	h.Publish(
		email(tenant, "a", 3),
		correct("too much", -5), // 3 are counted so far
		email(tenant, "b", 4),
		correct("fine", -5),
		correct("a", 1), // a key of its own namespace
	)
	h.run()
	h.WaitUntilRead()
	if got := h.Count(tenant, "inbox"); got != 3 {
		t.Errorf("counted %d, want 3 + 4 - 5 + 1", got)
	}
	if got := h.Number(`select count(*) from dead_letters where reason = 'negative_balance' and detail like '%balance of 3%'`); got != 1 {
		t.Errorf("%d refused corrections that name the balance, want 1", got)
	}
	h.CheckCounters()
	h.CheckMessages()
}

package aggregator

import (
	"fmt"
	"testing"

	"odometer/ingest/publisher"
)

func TestEventsAreCountedByTenantAgentAndPeriod(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	tenants := h.subscribe(7)
	h.run()
	want := map[int]int64{}
	for i := range 200 {
		n := i % len(tenants)
		quantity := int64(i%5 + 1)
		h.publish(email(tenants[n], fmt.Sprintf("key-%d", i), quantity))
		want[n] += quantity
	}
	h.settled()
	for n, tenant := range tenants {
		if got := h.count(tenant, "inbox"); got != want[n] {
			t.Errorf("tenant %d: counted %d, want %d", n, got, want[n])
		}
	}
	h.balanced()
	h.accounted()
}

func TestTheSameKeyCountsForEachTenant(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	tenants := h.subscribe(2)
	h.run()
	h.publish(email(tenants[0], "shared", 3), email(tenants[1], "shared", 4))
	h.settled()
	if a, b := h.count(tenants[0], "inbox"), h.count(tenants[1], "inbox"); a != 3 || b != 4 {
		t.Errorf("counted %d and %d, want 3 and 4", a, b)
	}
}

func TestOtherContentUnderAKeyIsAConflictAlsoWithinABatch(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	tenant := h.subscribe(1)[0]
	h.publish(email(tenant, "k", 1), email(tenant, "k", 2), email(tenant, "k", 1))
	h.run()
	h.settled()
	h.publish(email(tenant, "k", 3))
	h.settled()
	if got := h.count(tenant, "inbox"); got != 1 {
		t.Errorf("counted %d, want 1: the first message of a key claims it", got)
	}
	if got := h.number(`select count(*) from dead_letters where reason = 'idempotency_conflict'`); got != 2 {
		t.Errorf("%d conflicts, want 2", got)
	}
	h.balanced()
	h.accounted()
}

func TestACorrectionIsJudgedAtItsPlaceInTheStream(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	tenant := h.subscribe(1)[0]
	correct := func(key string, quantity int64) publisher.Event {
		return publisher.Event{Adjustment: true, Tenant: tenant, Agent: "inbox", IdempotencyKey: key, Quantity: quantity}
	}
	h.publish(
		email(tenant, "a", 3),
		correct("too much", -5), // 3 are counted so far
		email(tenant, "b", 4),
		correct("fine", -5),
		correct("a", 1), // a key of its own namespace
	)
	h.run()
	h.settled()
	if got := h.count(tenant, "inbox"); got != 3 {
		t.Errorf("counted %d, want 3 + 4 - 5 + 1", got)
	}
	if got := h.number(`select count(*) from dead_letters where reason = 'negative_balance' and detail like '%balance of 3%'`); got != 1 {
		t.Errorf("%d refused corrections that name the balance, want 1", got)
	}
	h.balanced()
	h.accounted()
}

package query

import (
	"context"
	"net/http"
	"testing"

	"odometer/api/apitest"
)

// A tenant that asks for much at once, within its requests a minute, is refused
// some of it; the usage of the moment is answered to everybody.
func TestWhoReadsMuchKeepsNobodyFromReading(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	greedy, other := b.customer("price_bundle_monthly"), b.customer("price_bundle_monthly")
	h := door(t, b.pool, 0)
	tx, err := b.pool.Begin(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	// No read of events ends before this does.
	if _, err := tx.Exec(context.Background(), `lock table usage_events in access exclusive mode`); err != nil {
		t.Fatal(err)
	}
	const asked = 10
	answers := make(chan *http.Response, asked)
	for range asked {
		go func() { answers <- apitest.Get(h, historyRoute, reads(t, greedy)) }()
	}
	for range asked - wideEach {
		apitest.WantProblem(t, <-answers, "503 unavailable")
	}
	if r := apitest.Get(h, usageRoute, reads(t, other)); r.StatusCode != http.StatusOK {
		t.Errorf("another tenant's usage: status %d", r.StatusCode)
	}
	if err := tx.Rollback(context.Background()); err != nil {
		t.Fatal(err)
	}
	for range wideEach {
		if r := <-answers; r.StatusCode != http.StatusOK {
			t.Errorf("a history that was let in: status %d", r.StatusCode)
		}
	}
}

// Package aggtest is what the tests of the aggregator, the replay and the retry
// of dead letters share beyond package testenv. It imports none of them, so that
// their own tests can use it.
package aggtest

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"odometer"
	"odometer/billing"
	"odometer/ingest/publisher"
	"odometer/internal/testenv"
)

// Env is a real stream, a real database and the sample catalogue.
type Env struct {
	*testenv.Env
	T testing.TB
}

// New is a fresh environment.
func New(t testing.TB, o testenv.Options) *Env {
	t.Helper()
	return &Env{testenv.New(t, o), t}
}

// Eventually waits for what must come true by itself.
func (e *Env) Eventually(what string, holds func() bool) {
	e.T.Helper()
	testenv.Eventually(e.T, what, holds)
}

// ClosePeriod marks a period closed, as the reporter will: everything up to the
// position belongs to it.
func (e *Env) ClosePeriod(tenant uuid.UUID, start time.Time, at odometer.Position) {
	e.T.Helper()
	err := pgx.BeginFunc(e.T.Context(), e.Pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(e.T.Context(), `update stream_positions set rules_version = rules_version + 1`); err != nil {
			return err
		}
		tag, err := tx.Exec(e.T.Context(), `
			update billing_periods set status = 'closed', closed_epoch = $3, closed_seq = $4, closed_at = now()
			where tenant_id = $1 and period_start = $2`, tenant, start, at.Epoch, at.Seq)
		if err == nil && tag.RowsAffected() != 1 {
			err = fmt.Errorf("%d periods of %s start at %s", tag.RowsAffected(), tenant, start)
		}
		return err
	})
	if err != nil {
		e.T.Fatal(err)
	}
}

// ReplyCatalogue is the sample catalogue with one more action of inbox,
// email_replied.
func ReplyCatalogue() odometer.Catalogue {
	c := billing.SampleCatalogue()
	c.Agents[0].Actions = append([]string{"email_replied"}, c.Agents[0].Actions...)
	return c
}

// ApplyCatalogue puts a catalogue into force.
func (e *Env) ApplyCatalogue(c odometer.Catalogue) {
	e.T.Helper()
	if err := billing.ApplyCatalogue(e.T.Context(), e.Pool, c); err != nil {
		e.T.Fatal(err)
	}
}

// Reply is an event that only ReplyCatalogue accepts.
func Reply(tenant uuid.UUID, key string, quantity int64) publisher.Event {
	return publisher.Event{Tenant: tenant, Agent: "inbox", ActionType: "email_replied", IdempotencyKey: key, Quantity: quantity}
}

// Counted is everything that a stream must determine.
type Counted struct {
	Events   []string
	Counters []string
	Dead     []string
}

// Counted reads events, counters and dead letters.
func (e *Env) Counted() Counted {
	e.T.Helper()
	return Counted{
		Events: e.Texts(`
			select concat_ws(' ', tenant_id, idempotency_key, kind, agent, action_type, resource_id, quantity, period_start, stream_epoch, stream_seq)
			from usage_events order by tenant_id, kind, idempotency_key`),
		Counters: e.Texts(`
			select concat_ws(' ', tenant_id, agent, period_start, period_end, count)
			from usage_counters where count > 0 order by tenant_id, agent, period_start`),
		Dead: e.Texts(`
			select concat_ws(' ', stream_epoch, stream_seq, subject, tenant_id, agent, reason)
			from dead_letters order by stream_epoch, stream_seq`),
	}
}

// Load publishes events of one unit each until it is stopped, one batch after
// the other, and knows how many the stream has acknowledged for each tenant.
type Load struct {
	Stop func() map[uuid.UUID]int64 // may be called again
	sent *atomic.Int64
}

// StartLoad starts publishing batches of up to size events for the tenants in turn.
func (e *Env) StartLoad(size int, tenants ...uuid.UUID) Load {
	e.T.Helper()
	pub, err := publisher.New(e.Server.Connect(e.T))
	if err != nil {
		e.T.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	acked := map[uuid.UUID]int64{}
	var sent atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; ctx.Err() == nil; {
			var events []publisher.Event
			for range 1 + n%size {
				events = append(events, testenv.Email(tenants[n%len(tenants)], fmt.Sprintf("load %d", n), 1))
				n++
			}
			// Not ctx: what was begun is published until it is acknowledged, or the test
			// is over.
			results, err := pub.PublishBatch(e.T.Context(), events)
			if err != nil {
				if e.T.Context().Err() == nil {
					e.T.Errorf("publish: %v", err)
				}
				return
			}
			for i := range results {
				acked[events[i].Tenant]++
			}
			sent.Add(int64(len(events)))
			select {
			case <-ctx.Done():
			case <-time.After(time.Millisecond): // leaves the processor to others
			}
		}
	}()
	stop := func() map[uuid.UUID]int64 { cancel(); <-done; return acked }
	e.T.Cleanup(func() { stop() })
	return Load{stop, &sent}
}

// WaitForLoad waits until n more messages than now are acknowledged.
func (e *Env) WaitForLoad(l Load, n int64) {
	e.T.Helper()
	until := l.sent.Load() + n
	e.Eventually("messages arrive", func() bool { return l.sent.Load() >= until })
}

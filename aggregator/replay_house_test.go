package aggregator

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"odometer"
)

func (h *house) replay(change ...func(*ReplayOptions)) Replayed {
	h.t.Helper()
	o := ReplayOptions{Pool: h.pool, NATS: h.nc, Batch: 50}
	for _, c := range change {
		c(&o)
	}
	done, err := Replay(h.t.Context(), o)
	if err != nil {
		h.t.Fatal(err)
	}
	return done
}

// history is a partition's life with everything in it: late events of a closed
// period, duplicates, conflicts, refused and counted corrections, letters that
// were retried before and after corrections that depend on them, duplicates
// among letters, and discards.
func (h *house) history(tenants []uuid.UUID) {
	h.t.Helper()
	start := time.Now().AddDate(0, 0, -40).UTC().Truncate(time.Microsecond)
	for _, tenant := range tenants {
		h.set(tenant, start, start.AddDate(0, 0, 30))
	}
	stop := h.run()
	random := rand.New(rand.NewPCG(1, 2))
	part := func(name string, when time.Time) {
		var all []said
		for n := range 240 {
			tenant := tenants[n%len(tenants)]
			s := usage(tenant, fmt.Sprintf("%s %d", name, random.IntN(150)), int64(1+random.IntN(2)))
			if n%7 == 0 {
				s = correction(tenant, fmt.Sprintf("%s %d", name, n), -int64(1+random.IntN(12)))
			}
			if n%35 == 0 {
				s.quantity = -1000 // never
			}
			if n%11 == 0 && s.kind == odometer.Usage {
				s.action, s.key = "email_replied", fmt.Sprintf("%s reply %d", name, random.IntN(6))
			}
			s.occurred = when
			all = append(all, s.encode())
		}
		h.publishAll(all)
		h.settled()
	}
	early := start.AddDate(0, 0, 5)
	part("early", early)
	h.apply(withReplies())
	h.retry(Selection{Reason: odometer.UnknownAction, Tenant: &tenants[0]})
	part("more", early)
	for _, tenant := range tenants[:2] { // nothing arrives between these: a close, retries, and again
		h.close(tenant, start, odometer.Position{Epoch: 1, Seq: h.streamEnd()})
	}
	h.retry(Selection{Reason: odometer.NegativeBalance, Tenant: &tenants[0]})
	h.retry(Selection{Reason: odometer.UnknownAction, Tenant: &tenants[1]})
	part("late", early)
	part("now", time.Time{})
	h.retry(Selection{Reason: odometer.UnknownAction})
	if err := Discard(h.t.Context(), h.pool, Selection{Reason: odometer.NegativeBalance, Tenant: &tenants[1]}, "test", "because", func(Outcome) {}); err != nil {
		h.t.Fatal(err)
	}
	h.retry(Selection{Reason: odometer.NegativeBalance})
	stop()
	for _, sql := range []string{
		`select count(*) from dead_letters where state = 'open' and reason = 'negative_balance'`,
		`select count(*) from dead_letters where state = 'open' and reason = 'idempotency_conflict'`,
		`select count(*) from dead_letters where state = 'retried' and reason = 'negative_balance'`,
		`select count(*) from dead_letters where state = 'retried' and reason = 'unknown_action'`,
		`select count(*) from dead_letters where state = 'duplicate'`,
		`select count(*) from dead_letters where state = 'discarded'`,
		`select count(*) from usage_events where occurred_at < period_start`,
		`select count(*) from usage_events where kind = 'adjustment'`,
		`select sum(duplicates)::bigint from batches`,
	} {
		if h.number(sql) == 0 {
			h.t.Fatalf("the history lacks: %s", sql)
		}
	}
}

// full is all that a replay must leave or make again.
type full struct {
	Books   books
	Last    []string // of each counter
	States  []string
	Batches int64
}

func (h *house) full() full {
	h.t.Helper()
	f := full{Books: h.books(), Batches: h.number(`select count(*) from batches`)}
	for sql, into := range map[string]*[]string{
		`select concat_ws(' ', tenant_id, agent, period_start, last_event_at) from usage_counters where count > 0 order by 1`:                           &f.Last,
		`select concat_ws(' ', stream_seq, state, retry_epoch, retry_seq, retry_closed_until, why) from dead_letters order by stream_epoch, stream_seq`: &f.States,
	} {
		rows, err := h.pool.Query(h.t.Context(), sql)
		if err != nil {
			h.t.Fatal(err)
		}
		for rows.Next() {
			var line string
			if err := rows.Scan(&line); err != nil {
				h.t.Fatal(err)
			}
			*into = append(*into, line)
		}
	}
	return f
}

func (h *house) same(was full) {
	h.t.Helper()
	if diff := cmp.Diff(was, h.full()); diff != "" {
		h.t.Errorf("books (-before +after):\n%s", diff)
	}
}

// subscribed are tenants whose subscription the test sets itself.
func (h *house) subscribed(n int) (tenants []uuid.UUID) {
	for i := range n {
		tenants = append(tenants, tenantOf(i))
	}
	return tenants
}

const emptySQL = `
delete from usage_events;
delete from usage_counters;
delete from dead_letters where state = 'open'`

// replayInPieces stops a replay after some steps and goes on from where it came.
func (h *house) replayInPieces() (runs int) {
	h.t.Helper()
	for from := int64(0); ; runs++ {
		ctx, stop := context.WithCancel(h.t.Context())
		steps := 0
		done, err := Replay(ctx, ReplayOptions{Pool: h.pool, NATS: h.nc, Batch: 30, From: from, Progress: func(Replayed) {
			if steps++; steps == 5 {
				stop()
			}
		}})
		stop()
		if err == nil {
			return runs
		}
		if !errors.Is(err, context.Canceled) || done.Through < from-1 {
			h.t.Fatalf("from %d: %+v: %v", from, done, err)
		}
		from = done.Through + 1
	}
}

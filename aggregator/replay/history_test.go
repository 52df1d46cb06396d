package replay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"odometer"
	"odometer/aggregator/deadletter"
	"odometer/aggregator/internal/aggtest"
	"odometer/ingest"
	"odometer/ingest/publisher"
	"odometer/internal/testenv"
)

func (h *testEnv) replay(change ...func(*Options)) Result {
	h.T.Helper()
	o := Options{Pool: h.Pool, NATS: h.NATS, Batch: 50}
	for _, c := range change {
		c(&o)
	}
	done, err := Run(h.T.Context(), o)
	if err != nil {
		h.T.Fatal(err)
	}
	return done
}

// history is a partition's life with everything in it: late events of a closed
// period, duplicates, conflicts, refused and counted corrections, dead letters
// that were retried before and after corrections that depend on them, duplicates
// among dead letters, and discards.
func (h *testEnv) history(tenants []uuid.UUID) {
	h.T.Helper()
	start := time.Now().AddDate(0, 0, -40).UTC().Truncate(time.Microsecond)
	for _, tenant := range tenants {
		h.SetPeriod(tenant, start, start.AddDate(0, 0, 30))
	}
	stop := h.run()
	random := rand.New(rand.NewPCG(1, 2))
	part := func(name string, when time.Time) {
		for n := range 240 {
			tenant := tenants[n%len(tenants)]
			e := testenv.Email(tenant, fmt.Sprintf("%s %d", name, random.IntN(150)), int64(1+random.IntN(2)))
			if n%7 == 0 {
				e = correction(tenant, fmt.Sprintf("%s %d", name, n), -int64(1+random.IntN(12)))
			}
			if n%35 == 0 {
				e.Quantity = -1000 // never
			}
			if n%11 == 0 && !e.Adjustment {
				e.ActionType, e.IdempotencyKey = "email_replied", fmt.Sprintf("%s reply %d", name, random.IntN(6))
			}
			e.OccurredAt = when
			h.publishWithoutID(e)
		}
		h.WaitUntilRead()
	}
	early := start.AddDate(0, 0, 5)
	part("early", early)
	h.ApplyCatalogue(aggtest.ReplyCatalogue())
	h.retry(deadletter.Selection{Reason: odometer.UnknownAction, Tenant: &tenants[0]})
	part("more", early)
	for _, tenant := range tenants[:2] { // nothing arrives between these: a close, retries, and again
		h.ClosePeriod(tenant, start, odometer.Position{Epoch: 1, Seq: h.LastSeq()})
	}
	h.retry(deadletter.Selection{Reason: odometer.NegativeBalance, Tenant: &tenants[0]})
	h.retry(deadletter.Selection{Reason: odometer.UnknownAction, Tenant: &tenants[1]})
	part("late", early)
	part("now", time.Time{})
	h.retry(deadletter.Selection{Reason: odometer.UnknownAction})
	if err := deadletter.Discard(h.T.Context(), h.Pool, deadletter.Selection{Reason: odometer.NegativeBalance, Tenant: &tenants[1]}, "test", "because", func(deadletter.Outcome) {}); err != nil {
		h.T.Fatal(err)
	}
	h.retry(deadletter.Selection{Reason: odometer.NegativeBalance})
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
		if h.Number(sql) == 0 {
			h.T.Fatalf("the history lacks: %s", sql)
		}
	}
}

// full is all that a replay must leave or restore.
type full struct {
	Counted aggtest.Counted
	Last    []string // of each counter
	States  []string
	Batches int64
}

func (h *testEnv) full() full {
	h.T.Helper()
	f := full{Counted: h.Counted(), Batches: h.Number(`select count(*) from batches`)}
	for sql, into := range map[string]*[]string{
		`select concat_ws(' ', tenant_id, agent, period_start, last_event_at) from usage_counters where count > 0 order by 1`:                           &f.Last,
		`select concat_ws(' ', stream_seq, state, retry_epoch, retry_seq, retry_closed_until, why) from dead_letters order by stream_epoch, stream_seq`: &f.States,
	} {
		rows, err := h.Pool.Query(h.T.Context(), sql)
		if err != nil {
			h.T.Fatal(err)
		}
		for rows.Next() {
			var line string
			if err := rows.Scan(&line); err != nil {
				h.T.Fatal(err)
			}
			*into = append(*into, line)
		}
	}
	return f
}

func (h *testEnv) same(was full) {
	h.T.Helper()
	if diff := cmp.Diff(was, h.full()); diff != "" {
		h.T.Errorf("tables (-before +after):\n%s", diff)
	}
}

// tenants are the first n, whose subscriptions the test sets itself.
func tenants(n int) (tenants []uuid.UUID) {
	for i := range n {
		tenants = append(tenants, testenv.Tenant(i))
	}
	return tenants
}

func correction(tenant uuid.UUID, key string, quantity int64) publisher.Event {
	return publisher.Event{Adjustment: true, Tenant: tenant, Agent: "inbox", ActionType: odometer.AdjustmentAction, IdempotencyKey: key, Quantity: quantity}
}

// publishWithoutID stores an event without the message id by which the stream
// would drop repeats.
func (h *testEnv) publishWithoutID(e publisher.Event) {
	h.T.Helper()
	kind := odometer.Usage
	if e.Adjustment {
		kind = odometer.Adjustment
	}
	fields := map[string]any{"idempotency_key": e.IdempotencyKey, "action_type": e.ActionType, "quantity": e.Quantity}
	if !e.OccurredAt.IsZero() {
		fields["occurred_at"] = e.OccurredAt.UTC().Format(time.RFC3339Nano)
	}
	payload, err := json.Marshal(fields)
	if err != nil {
		h.T.Fatal(err)
	}
	h.PublishRaw(ingest.Subject(kind, e.Tenant, e.Agent), string(payload))
}

// retry retries a selection and returns how many dead letters became what.
func (h *testEnv) retry(s deadletter.Selection) map[string]int {
	h.T.Helper()
	became := map[string]int{}
	err := deadletter.Retry(h.T.Context(), h.Pool, s, "test", func(o deadletter.Outcome) { became[o.State]++ })
	if err != nil {
		h.T.Fatal(err)
	}
	return became
}

const emptySQL = `
delete from usage_events;
delete from usage_counters;
delete from dead_letters where state = 'open'`

// replayInPieces stops a replay after some steps and goes on from where it came.
func (h *testEnv) replayInPieces() (runs int) {
	h.T.Helper()
	for from := int64(0); ; runs++ {
		ctx, stop := context.WithCancel(h.T.Context())
		steps := 0
		done, err := Run(ctx, Options{Pool: h.Pool, NATS: h.NATS, Batch: 30, From: from, Progress: func(Result) {
			if steps++; steps == 5 {
				stop()
			}
		}})
		stop()
		if err == nil {
			return runs
		}
		if !errors.Is(err, context.Canceled) || done.Through < from-1 {
			h.T.Fatalf("from %d: %+v: %v", from, done, err)
		}
		from = done.Through + 1
	}
}

package audit

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// One event of the first tenant's inbox.
const anEvent = `(select event_id from usage_events where agent = 'inbox' and kind = 'usage' and resource_id is null and metadata is null and occurred_at = recorded_at order by event_id limit 1)`

func TestDataThatAgreesHasNoDifference(t *testing.T) {
	t.Parallel()
	e := newFilledEnv(t)
	r := e.finds(Scope{})
	s := r.Stream
	if s.Messages != s.Last || s.Events+s.Duplicates+s.DeadLetters != s.Messages || s.Events != 600 || s.DeadLetters != 6 || s.Duplicates != 1 {
		t.Errorf("stream %+v", s)
	}
	if c := r.Comparisons[eventsCounters]; c.Compared != c.Equal || c.Equal == 0 {
		t.Errorf("counters %+v", c)
	}
	if r.OpenDead != 6 {
		t.Errorf("%d open dead letters, want 6", r.OpenDead)
	}
	e.finds(Scope{Tenant: &e.tenants[1]})
	e.finds(Scope{Since: time.Now().Add(-time.Hour)})
	e.finds(Scope{Since: time.Now().Add(time.Hour)})
}

// Each is what somebody with psql, or a failed disk, may do to rows.
func TestDamageIsFoundAndNamed(t *testing.T) {
	t.Parallel()
	e := newFilledEnv(t)
	for _, row := range []struct {
		name  string
		sql   string
		finds []string
	}{
		{"an event deleted", `delete from usage_events where event_id = ` + anEvent, []string{EventMissing, CounterDiffers}},
		{"a quantity changed", `update usage_events set quantity = quantity + 1 where event_id = ` + anEvent, []string{EventChanged, CounterDiffers}},
		{"a resource changed", `update usage_events set resource_id = 'x' where event_id = ` + anEvent, []string{EventChanged}},
		{"metadata changed", `update usage_events set metadata = '{"a": 1}' where event_id = (select event_id from usage_events where metadata is not null limit 1)`, []string{EventChanged}},
		{"a time changed", `update usage_events set occurred_at = occurred_at - interval '1 microsecond' where event_id = ` + anEvent, []string{EventChanged}},
		{"a stored time changed", `update usage_events set recorded_at = recorded_at - interval '1 hour' where event_id = ` + anEvent, []string{EventChanged}},
		{"an event of another tenant", `update usage_events set tenant_id = gen_random_uuid() where event_id = ` + anEvent, []string{EventMissing, EventWithoutMessage, EventMoved, CounterDiffers, CounterMissing}},
		{"an event invented", `insert into usage_events select tenant_id, gen_random_uuid(), agent, kind, action_type, resource_id, 5, 'invented', metadata, occurred_at, recorded_at, period_start, stream_epoch, stream_seq from usage_events where event_id = ` + anEvent, []string{EventWithoutMessage, CounterDiffers}},
		{"an event invented beyond what was read", `insert into usage_events select tenant_id, gen_random_uuid(), agent, kind, action_type, resource_id, 3, 'beyond', metadata, occurred_at, recorded_at, period_start, stream_epoch, 999999 from usage_events where event_id = ` + anEvent, []string{EventWithoutMessage, CounterDiffers}},
		{"an event moved to another period", `update usage_events e set period_start = (select min(p.period_start) from billing_periods p where p.tenant_id = e.tenant_id) where event_id = ` + anEvent, []string{EventMoved, CounterDiffers, CounterDiffers}},
		{"a counter off by one", `update usage_counters set count = count + 1 where ctid = (select ctid from usage_counters where count > 100 limit 1)`, []string{CounterDiffers}},
		{"a counter row missing", `delete from usage_counters where ctid = (select ctid from usage_counters where count > 100 limit 1)`, []string{CounterMissing}},
		{"an extra counter", `insert into usage_counters (tenant_id, agent, period_start, period_end, count) select tenant_id, 'meeting', period_start, period_end, 7 from billing_periods limit 1`, []string{CounterExtra}},
		{"a dead letter deleted", `delete from dead_letters where ctid = (select ctid from dead_letters limit 1)`, []string{EventMissing}},
		{"a dead letter changed", `update dead_letters set payload = 'nothing' where ctid = (select ctid from dead_letters limit 1)`, []string{DeadLetterChanged}},
		{"a dead letter for an event", `insert into dead_letters select e.stream_epoch, e.stream_seq, 's', e.tenant_id, 'inbox', 'malformed', 'x', d.payload, '{}', e.recorded_at from usage_events e, dead_letters d where event_id = ` + anEvent + ` limit 1`, []string{DeadLetterChanged}},
		{"removed events that were not", `insert into usage_removed (tenant_id, agent, period_start, quantity, events) select tenant_id, agent, period_start, 9, 1 from usage_counters limit 1`, []string{CounterDiffers}},
	} {
		t.Run(row.name, func(t *testing.T) {
			backup(e)
			e.Exec(row.sql)
			sub := *e
			sub.t = t
			sub.finds(Scope{}, row.finds...)
			restore(e)
		})
	}
	e.finds(Scope{})
}

var countedTables = []string{"usage_events", "usage_counters", "usage_removed", "dead_letters"}

func backup(e *testEnv) {
	for _, table := range countedTables {
		e.Exec(`create table saved_` + table + ` as table ` + table)
	}
}

func restore(e *testEnv) {
	for _, table := range countedTables {
		e.Exec(`truncate ` + table)
		e.Exec(`insert into ` + table + ` table saved_` + table)
		e.Exec(`drop table saved_` + table)
	}
}

// The same is found whatever the order of the rows, as where retention has let
// new rows into old blocks, and for one tenant alone.
func TestSameDamageIsFoundInEveryOrderAndScope(t *testing.T) {
	t.Parallel()
	e := newFilledEnv(t)
	e.Exec(`update usage_events set quantity = quantity + 1 where event_id = ` + anEvent)
	e.Exec(`insert into usage_events select tenant_id, gen_random_uuid(), agent, kind, action_type, resource_id, 5, 'invented', metadata, occurred_at, recorded_at, period_start, stream_epoch, stream_seq from usage_events where tenant_id = $1 limit 1`, e.tenants[0])
	e.Exec(`delete from usage_events where ctid = (select ctid from usage_events where tenant_id = $1 and idempotency_key <> 'invented' and quantity = 2 and resource_id is null limit 1)`, e.tenants[0])
	want := e.audit(Scope{})
	e.Exec(`create table mixed as select * from usage_events order by event_id`)
	e.Exec(`truncate usage_events`)
	e.Exec(`insert into usage_events table mixed`)
	if diff := cmp.Diff(want.Differences, e.audit(Scope{}).Differences); diff != "" {
		t.Errorf("in another order it finds: %s", diff)
	}
	var first []string
	for _, d := range want.Differences {
		if d.Tenant != nil && *d.Tenant == e.tenants[0] {
			first = append(first, d.Kind)
		}
	}
	e.finds(Scope{Tenant: &e.tenants[0]}, first...)
}

const fillSQL = `
insert into usage_events (tenant_id, event_id, agent, kind, action_type, quantity, idempotency_key, occurred_at, recorded_at, period_start, stream_epoch, stream_seq)
select gen_random_uuid(), gen_random_uuid(), 'inbox', 'usage', 'email_processed', 1, n::text, now(), now(), now(), 1, n
from generate_series($1::bigint, $2::bigint) as n`

// A chunk must not scan the whole table, whether it was analyzed or not, and
// reads about the blocks that hold its sequences, also where retention has made
// room for new rows between old ones.
func TestChunksReadEventsByTheIndexOnSequences(t *testing.T) {
	t.Parallel()
	e := newTestEnv(t, 0)
	const rows = 100_000
	e.Exec(`alter table usage_events set (autovacuum_enabled = off)`)
	e.Exec(fillSQL, 1, rows)
	e.checkChunk(rows / 2)
	e.Exec(`analyze usage_events`)
	e.checkChunk(rows / 2)

	e.Exec(`delete from usage_events where stream_seq <= $1`, rows/2)
	e.Exec(`vacuum usage_events`)
	e.Exec(`insert into usage_removed (tenant_id, agent, period_start, quantity, events) values (gen_random_uuid(), 'inbox', now(), $1, $1)`, rows/2)
	e.Exec(fillSQL, rows+1, rows+rows/2)
	e.checkChunk(rows * 3 / 4)
	e.checkChunk(rows * 5 / 4)
}

// checkChunk explains how a chunk of 5,000 messages reads its events.
func (e *testEnv) checkChunk(from int) {
	e.t.Helper()
	a := &auditor{options: Options{Pool: e.Pool, Log: slog.New(slog.DiscardHandler)}, report: newReport(Scope{})}
	a.refreshIndex(e.t.Context())
	blocks := e.Number(`select pg_relation_size('usage_events') / current_setting('block_size')::bigint`)
	for _, tenant := range []*uuid.UUID{nil, new(uuid.UUID)} {
		plan := e.explain(eventsSQL, int64(from), int64(from+5000), tenant)
		if !strings.Contains(plan, "usage_events_stream_seq") && tenant == nil || strings.Contains(plan, "Seq Scan") {
			e.t.Errorf("from %d, tenant %v, the plan is %s", from, tenant, plan)
		}
		var read int64
		if _, found, ok := strings.Cut(plan, "lossy="); ok {
			if _, err := fmt.Sscan(found, &read); err != nil {
				e.t.Fatal(err)
			}
		}
		if read > blocks/6 {
			e.t.Errorf("5,000 messages from %d on read %d of %d blocks:\n%s", from, read, blocks, plan)
		}
	}
}

// explain runs a chunk's statement and returns its plan.
func (e *testEnv) explain(sql string, args ...any) string {
	e.t.Helper()
	var plan []string
	err := pgx.BeginTxFunc(e.t.Context(), e.Pool, readOnly, func(tx pgx.Tx) (err error) {
		if _, err := tx.Exec(e.t.Context(), indexOnlySQL); err != nil {
			return err
		}
		rows, _ := tx.Query(e.t.Context(), "explain (analyze, costs off, timing off) "+sql, args...)
		plan, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	if err != nil {
		e.t.Fatal(err)
	}
	return strings.Join(plan, "\n")
}

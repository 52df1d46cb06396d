package admin

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"odometer"
)

// batch inserts a batch of five messages, three of them events.
const batchSQL = `
insert into batches (partition, stream_epoch, from_seq, to_seq, messages, events, duplicates, dead, committed_at)
values ($1, 1, 1, 1, 5, 3, 1, 1, now() - $2 * interval '1 second')`

// A batch has its number before it is committed: one that is committed late is
// in the totals all the same, and none is there twice.
func TestTotalsMissNoBatchThatCommitsLate(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	b.exec(`insert into stream_positions (partition, stream_epoch, seq) select n, 1, 0 from generate_series(4, 400) n`)
	var open []pgx.Tx
	var totals batchTotals
	const atOnce = 20
	known, partition := false, 0
	committed := int64(0)
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	end := func() {
		i := random.IntN(len(open))
		if random.IntN(4) == 0 {
			_ = open[i].Rollback(t.Context())
		} else if err := open[i].Commit(t.Context()); err != nil {
			t.Fatal(err)
		} else {
			committed++
		}
		open = append(open[:i], open[i+1:]...)
	}
	look := func() {
		t.Helper()
		got := get[*Totals](t)(totals.sum(t.Context(), b.pool, atOnce))
		if want := (Totals{5 * committed, 3 * committed, committed, committed}); got != nil && *got != want {
			t.Fatalf("seed %d: %+v, want %+v", seed, *got, want)
		}
		known = got != nil
	}
	for range 400 {
		switch random.IntN(3) {
		case 0:
			if len(open) < 4 {
				tx := get[pgx.Tx](t)(b.pool.Begin(t.Context()))
				// As a batch's: the position is written before the batch gets its number.
				partition++
				if _, err := tx.Exec(t.Context(), `update stream_positions set seq = seq + 1 where partition = $1`, partition); err != nil {
					t.Fatal(err)
				}
				if _, err := tx.Exec(t.Context(), batchSQL, 0, 0); err != nil {
					t.Fatal(err)
				}
				open = append(open, tx)
			}
		case 1:
			if len(open) > 0 {
				end()
			}
		case 2:
			look()
		}
	}
	for len(open) > 0 {
		end()
	}
	settle := func() {
		t.Helper()
		known = false
		for looks := 0; !known || totals.through == 0; looks++ { // transactions of other tests count as well
			if looks == 10_000 {
				t.Fatal("the totals never come to be known, or each look adds up everything")
			}
			look()
		}
	}
	settle()
	b.exec(`delete from batches where batch_id > 3`)
	committed = 0
	if err := b.pool.QueryRow(t.Context(), `select count(*) from batches`).Scan(&committed); err != nil {
		t.Fatal(err)
	}
	settle() // as after a restore
}

func TestUnknownFiguresOfTheOverviewAreNull(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	end := int64(102) // the partitions stand at 100 to 103
	var away, unasked error
	s := newServer(Options{
		Pool:      b.pool,
		StreamEnd: func(context.Context) (int64, error) { return end, away },
		Waiting: func(_ context.Context, partition int, after, through int64) (int64, error) {
			return int64(partition), unasked // of what follows, that much is the partition's own
		},
	})
	load := func() *Overview {
		t.Helper()
		return get[*Overview](t)(s.loadOverview(t.Context()))
	}
	o := load()
	if o.AsOf == nil || *o.FreshnessSeconds < 1 || *o.FreshnessSeconds > 60 || *o.LagMessages != 0+1 || *o.Stream.LastSeq != 102 || o.Stream.Epoch != 1 {
		t.Errorf("all is known, it says %+v", o)
	}
	b.exec(`update stream_positions set complete_until = now() - interval '1 hour' where partition = 2`)
	b.exec(`update stream_positions set complete_until = now() + interval '1 minute' where partition = 1`)
	if o = load(); *o.FreshnessSeconds < 3600 || *o.Partitions[1].FreshnessSeconds != 0 || !o.AsOf.Equal(o.Partitions[2].AsOf.Time) {
		t.Errorf("one partition is an hour behind, it says %+v", o)
	}
	b.exec(`update stream_positions set complete_until = null where partition = 3`)
	if o = load(); o.AsOf != nil || o.FreshnessSeconds != nil || o.Partitions[3].AsOf != nil || o.Partitions[2].AsOf == nil {
		t.Errorf("one partition was never read, it says %+v", o)
	}
	end = 90 // read before the positions, which have moved on
	if o = load(); *o.LagMessages != 0 {
		t.Errorf("a lag of %d", *o.LagMessages)
	}
	end, unasked = 102, errors.New("the stream does not tell")
	if o = load(); o.LagMessages != nil || o.Stream.LastSeq == nil {
		t.Errorf("what waits is not known, it says %+v", o)
	}
	away = errors.New("no NATS")
	if o = load(); o.LagMessages != nil || o.Stream.LastSeq != nil {
		t.Errorf("NATS is away, it says %+v", o)
	}
	b.exec(`delete from stream_positions; delete from stream_epochs`)
	if o = load(); o.AsOf != nil || len(o.Partitions) != 0 || o.Stream.Epoch != 0 || o.At.IsZero() {
		t.Errorf("nothing was ever read, it says %+v", o)
	}
	if list := get[*TenantList](t)(listTenants(t.Context(), b.pool, tenantFilter{Sort: byTenant, Limit: 1})); list.AsOf != nil {
		t.Errorf("tenants are known as of %s", list.AsOf)
	}
}

// While events come and are counted, no figure contradicts another: the stream
// is not behind what was read from it, and what is read does not wait.
func TestTheOverviewIsConsistentWhileTheReaderContinues(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	b.exec(`delete from batches; update stream_positions set seq = 0`)
	readOn := func() {
		b.exec(batchSQL, 0, 0)
		b.exec(`update stream_positions set seq = (select sum(messages) from batches)`)
	}
	s := newServer(Options{
		Pool: b.pool,
		StreamEnd: func(ctx context.Context) (end int64, err error) {
			defer readOn() // while the answer is under way, five more come and are counted
			err = b.pool.QueryRow(ctx, `select sum(messages) from batches`).Scan(&end)
			return end, err
		},
		Waiting: func(_ context.Context, _ int, after, through int64) (int64, error) { return through - after, nil },
	})
	for readOn(); !t.Failed(); readOn() {
		o := get[*Overview](t)(s.loadOverview(t.Context()))
		if o.Totals == nil || *o.LagMessages != 0 || o.Totals.Messages > *o.Stream.LastSeq || o.Partitions[0].Seq > *o.Stream.LastSeq {
			t.Errorf("a lag of %d, %+v of a stream that is at %d, partitions %+v", *o.LagMessages, o.Totals, *o.Stream.LastSeq, o.Partitions)
		}
		if o.Totals.Messages >= 50 {
			break
		}
	}
}

func TestTheOverviewCounts(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	for _, ago := range []int{60, 11, 8, 1} {
		b.exec(batchSQL, 0, ago)
	}
	b.customer("inbox_only", 700)                           // 200 * 0.025 = 5.00
	b.customer("inbox_only", 500+21)                        // 0.525, rounded half up: 0.53
	b.count(b.customer("bundle", 10), "meeting", 1_000_000) // unlimited
	overdue := b.subscribe(odometer.PastDue, "bundle")
	b.period(overdue, at(-day), at(day))
	b.count(overdue, "invoice", 51) // 0.10
	trial := b.subscribe(odometer.Trial, "inbox_only")
	b.period(trial, at(-day), at(day))
	b.count(trial, "inbox", 10_000) // free
	for plan, ends := range map[string]time.Duration{"bundle": -day, "": -day, "inbox_only": day} {
		b.exec(`update subscriptions set trial_ends_at = $2 where tenant_id = $1`, b.subscribe(odometer.Trial, plan), at(ends))
	}
	gone := b.subscribe(odometer.Canceled, "inbox_only")
	b.period(gone, at(-20*day), at(-10*day))
	b.count(gone, "inbox", 9_000)
	b.freeze(gone)
	b.deadLetter(1, trial, odometer.Malformed, "{}")
	b.exec(`insert into audit_findings (kind, subject, detail, found_by, resolved_at) values ('a', 'b', 'c', 'd', null), ('a', 'b', 'c', 'd', now())`)
	b.link(trial, 1, "unknown", 0, 5)
	b.link(trial, 2, "accepted", 5, 9)

	o := get[*Overview](t)(newServer(Options{Pool: b.pool}).loadOverview(t.Context()))
	if o.EventsPerSecond != 0.6 {
		t.Errorf("%v events a second, want 6 in 10 seconds", o.EventsPerSecond)
	}
	if *o.Totals != (Totals{20, 12, 4, 4}) || o.OpenDeadLetters != 1 || o.OpenFindings != 1 || o.UndecidedLinks != 1 {
		t.Errorf("%+v", o)
	}
	if o.Tenants != (TenantCounts{Active: 4, Trial: 2, PastDue: 1, Canceled: 1, Expired: 1}) {
		t.Errorf("tenants %+v", o.Tenants)
	}
	if o.OverageCostCents != 500+53+10 || o.Currency != "usd" {
		t.Errorf("the overage costs %d %s", o.OverageCostCents, o.Currency)
	}
}

// Many who look cost as much as one, and nobody waits for ever.
func TestCachedValuesAreLoadedOnce(t *testing.T) {
	t.Parallel()
	r := newCached[int]()
	loads := 0
	var failed error
	load := func(context.Context) (int, error) { loads++; return loads, failed }
	for range 3 {
		if n := get[int](t)(r.get(t.Context(), time.Hour, load)); n != 1 {
			t.Errorf("load %d", n)
		}
	}
	failed = errors.New("away")
	if _, err := r.get(t.Context(), 0, load); !errors.Is(err, failed) {
		t.Error(err)
	}
	if n := get[int](t)(r.get(t.Context(), time.Hour, load)); n != 1 {
		t.Errorf("a load that failed is cached: %d", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, _ = r.get(t.Context(), 0, func(context.Context) (int, error) {
		cancel()
		if _, err := r.get(ctx, 0, load); !errors.Is(err, context.Canceled) {
			t.Errorf("somebody waited: %v", err)
		}
		return 0, nil
	})
}

package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"odometer/audit/findings"
	"odometer/ingest"
)

// Invariants that are checked all the time. Each is cheap: a look costs one
// statement over the counters and the newest batches, and one question to NATS.
const (
	// CountersGrow: what counters have grown by is what batches added. Only
	// where nothing but batches has changed them between two looks.
	CountersGrow = "counters_grow_by_batches"
	// SequencesAccounted: between two moments at which all partitions stood at
	// the same place, their batches hold as many messages as there are sequences.
	SequencesAccounted = "sequences_accounted"
	// PositionsInStream: no position is beyond the stream's end.
	PositionsInStream = "positions_in_stream"
)

var invariants = []string{CountersGrow, SequencesAccounted, PositionsInStream}

// Watch checks the invariants, so that the daily audit finds nothing that was
// not seen before. That a batch balances (messages = events + duplicates + dead
// letters) is a constraint of its table.
type Watch struct {
	pool   *pgxpool.Pool
	js     jetstream.JetStream
	log    *slog.Logger
	looks  prometheus.Counter
	broken *prometheus.CounterVec
	before *look // nil at first
	since  int64 // the batch after which it counted
}

// NewWatch makes a watch and registers its metrics, each at 0.
func NewWatch(pool *pgxpool.Pool, js jetstream.JetStream, log *slog.Logger, r prometheus.Registerer) *Watch {
	w := &Watch{
		pool: pool, js: js, log: log,
		looks: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "usage_invariant_checks_total", Help: "How often the invariants of the books were checked.",
		}),
		broken: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "usage_invariant_violations_total", Help: "How often an invariant of the books did not hold.",
		}, []string{"invariant"}),
	}
	for _, name := range invariants {
		w.broken.WithLabelValues(name)
	}
	r.MustRegister(w.looks, w.broken)
	return w
}

// watchEvery is how often the invariants are checked.
const watchEvery = 15 * time.Second

// Run checks until ctx ends. A check that cannot be made is made up for by the
// next.
func (w *Watch) Run(ctx context.Context) error {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if _, err := w.Look(ctx); err != nil && ctx.Err() == nil {
			w.log.Warn("the invariants of the books cannot be checked now", "err", err)
		}
	}
}

// look is the books at one moment.
type look struct {
	Counters     int64   // the sum of all counters
	Newest       int64   // the newest batch
	Units        int64   // of batches since the look before
	Messages     int64   // the same
	Unknown      int64   // of these batches, those that do not say what they added
	Epoch        int     // the positions'
	Lowest       int64   // position
	Highest      int64   // position
	RulesVersion []int64 // by partition: raised by whatever else changes counters
}

// slack is how many batches may be under way: one that is not committed yet has
// a lower number than one that is.
const slack = 1000

const lookSQL = `
select
    (select coalesce(sum(count), 0)::bigint from usage_counters) as counters,
    (select coalesce(max(batch_id), 0) from batches) as newest,
    coalesce(sum(b.units), 0)::bigint as units,
    coalesce(sum(b.messages), 0)::bigint as messages,
    count(*) filter (where b.batch_id is not null and b.units is null) as unknown,
    (select coalesce(max(stream_epoch), 0) from stream_positions) as epoch,
    (select coalesce(min(seq), 0) from stream_positions) as lowest,
    (select coalesce(max(seq), 0) from stream_positions) as highest,
    (select coalesce(array_agg(rules_version order by partition), '{}') from stream_positions) as rules_version
from batches b
where b.batch_id > $1`

// Look checks once and returns what was broken.
func (w *Watch) Look(ctx context.Context) (broken []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	now, err := w.look(ctx, w.since)
	if err != nil {
		return nil, err
	}
	last, err := w.streamEnd(ctx)
	if err != nil {
		return nil, err
	}
	w.looks.Inc()
	if last >= 0 && now.Highest > last {
		broken = append(broken, w.report(ctx, PositionsInStream, fmt.Sprintf("a position is at %d, but the stream ends at %d", now.Highest, last)))
	}
	if w.before != nil {
		broken = append(broken, w.compare(ctx, now)...)
	}
	// What the next look compares with counts from a little below the newest
	// batch, so that it stays cheap.
	w.since = max(0, now.Newest-slack)
	w.before, err = w.look(ctx, w.since)
	return broken, err
}

func (w *Watch) look(ctx context.Context, since int64) (*look, error) {
	rows, _ := w.pool.Query(ctx, lookSQL, since)
	l, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByName[look])
	if err != nil {
		return nil, fmt.Errorf("look at the books: %w", err)
	}
	return l, nil
}

// streamEnd is the stream's last sequence, -1 when there is no stream.
func (w *Watch) streamEnd(ctx context.Context) (int64, error) {
	stream, err := w.js.Stream(ctx, ingest.StreamName)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return -1, nil
	case err != nil:
		return 0, fmt.Errorf("look at the stream: %w", err)
	}
	return int64(stream.CachedInfo().State.LastSeq), nil
}

// compare holds two looks against each other. The earlier one has counted the
// batches above its own newest less slack; so has the later one, and more.
func (w *Watch) compare(ctx context.Context, now *look) (broken []string) {
	was := w.before
	if was.Epoch != now.Epoch || now.Unknown > 0 {
		return nil
	}
	grown, added := now.Counters-was.Counters, now.Units-was.Units
	if slices.Equal(was.RulesVersion, now.RulesVersion) && grown != added {
		broken = append(broken, w.report(ctx, CountersGrow, fmt.Sprintf("counters have grown by %d units, batches added %d", grown, added)))
	}
	if was.Lowest == was.Highest && now.Lowest == now.Highest && now.Messages-was.Messages != now.Lowest-was.Lowest {
		broken = append(broken, w.report(ctx, SequencesAccounted, fmt.Sprintf("from %d to %d batches account for %d messages",
			was.Lowest, now.Lowest, now.Messages-was.Messages)))
	}
	return broken
}

// report makes a broken invariant known in every way there is.
func (w *Watch) report(ctx context.Context, invariant, detail string) string {
	w.broken.WithLabelValues(invariant).Inc()
	w.log.Error("the books are not right", "invariant", invariant, "detail", detail)
	err := findings.Record(ctx, w.pool, findings.Finding{
		Kind: "invariant_broken", Subject: invariant, FoundBy: "watch",
		Detail: detail + ": run: odometer audit",
	})
	if err != nil {
		w.log.Error("the finding cannot be written down", "err", err)
	}
	return invariant
}

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

// Invariants that are checked all the time. Each is cheap: a check costs one
// statement over the counters and the newest batches, and one request to NATS.
const (
	// CountersGrow: what counters have grown by is what batches added. Only
	// where nothing but batches has changed them between two checks.
	CountersGrow = "counters_grow_by_batches"
	// SequencesAccounted: between two moments at which all partitions had the
	// same position, their batches hold as many messages as there are sequences.
	SequencesAccounted = "sequences_accounted"
	// PositionsInStream: no position is beyond the stream's end.
	PositionsInStream = "positions_in_stream"
)

var invariants = []string{CountersGrow, SequencesAccounted, PositionsInStream}

// Monitor checks the invariants, so that the daily audit finds nothing that was
// not seen before. That a batch balances (messages = events + duplicates + dead
// letters) is a constraint of its table.
type Monitor struct {
	pool       *pgxpool.Pool
	js         jetstream.JetStream
	log        *slog.Logger
	checks     prometheus.Counter
	violations *prometheus.CounterVec
	before     *sample // nil at first
	since      int64   // the batch after which it counted
}

// NewMonitor makes a monitor and registers its metrics, each at 0.
func NewMonitor(pool *pgxpool.Pool, js jetstream.JetStream, log *slog.Logger, r prometheus.Registerer) *Monitor {
	m := &Monitor{
		pool: pool, js: js, log: log,
		checks: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "usage_invariant_checks_total", Help: "How often the invariants of counting were checked.",
		}),
		violations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "usage_invariant_violations_total", Help: "How often an invariant of counting did not hold.",
		}, []string{"invariant"}),
	}
	for _, name := range invariants {
		m.violations.WithLabelValues(name)
	}
	r.MustRegister(m.checks, m.violations)
	return m
}

// checkEvery is how often the invariants are checked.
const checkEvery = 15 * time.Second

// Run checks until ctx ends. When a check fails, the next one covers its time too.
func (m *Monitor) Run(ctx context.Context) error {
	ticker := time.NewTicker(checkEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if _, err := m.Check(ctx); err != nil && ctx.Err() == nil {
			m.log.Warn("the invariants could not be checked", "reason", err)
		}
	}
}

// sample is what the invariants are about, at one moment.
type sample struct {
	Counters     int64   // the sum of all counters
	Newest       int64   // the newest batch
	Units        int64   // of the batches after the one that the monitor counts from
	Messages     int64   // of the same batches
	Unknown      int64   // those of them that do not say how many units they added
	Epoch        int     // of the positions
	Lowest       int64   // position
	Highest      int64   // position
	RulesVersion []int64 // by partition: raised by whatever else changes counters
}

// slack is how many batches may be under way: one that is not committed yet has
// a lower number than one that is.
const slack = 1000

const sampleSQL = `
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

func (m *Monitor) sample(ctx context.Context) (*sample, error) {
	rows, _ := m.pool.Query(ctx, sampleSQL, m.since)
	s, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByName[sample])
	if err != nil {
		return nil, fmt.Errorf("sample counters and batches: %w", err)
	}
	return s, nil
}

// Check checks once and returns the invariants that do not hold.
func (m *Monitor) Check(ctx context.Context) (violated []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	now, err := m.sample(ctx)
	if err != nil {
		return nil, err
	}
	last, err := m.streamEnd(ctx)
	if err != nil {
		return nil, err
	}
	m.checks.Inc()
	if last >= 0 && now.Highest > last {
		violated = append(violated, m.report(ctx, PositionsInStream, fmt.Sprintf("a position is at %d, but the stream ends at %d", now.Highest, last)))
	}
	if m.before != nil {
		violated = append(violated, m.compare(ctx, now)...)
	}
	// The sample that the next check compares with counts from a little below
	// the newest batch, so that it stays cheap.
	m.since = max(0, now.Newest-slack)
	m.before, err = m.sample(ctx)
	return violated, err
}

// streamEnd is the stream's last sequence, -1 when there is no stream.
func (m *Monitor) streamEnd(ctx context.Context) (int64, error) {
	stream, err := m.js.Stream(ctx, ingest.StreamName)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return -1, nil
	case err != nil:
		return 0, fmt.Errorf("read the state of stream %s: %w", ingest.StreamName, err)
	}
	return int64(stream.CachedInfo().State.LastSeq), nil
}

// compare holds two samples against each other. Both count from the same batch,
// so their differences are what the batches between them did.
func (m *Monitor) compare(ctx context.Context, now *sample) (violated []string) {
	before := m.before
	if before.Epoch != now.Epoch || now.Unknown > 0 {
		return nil
	}
	grown, added := now.Counters-before.Counters, now.Units-before.Units
	if slices.Equal(before.RulesVersion, now.RulesVersion) && grown != added {
		violated = append(violated, m.report(ctx, CountersGrow, fmt.Sprintf("counters have grown by %d units, batches added %d", grown, added)))
	}
	if messages := now.Messages - before.Messages; before.Lowest == before.Highest && now.Lowest == now.Highest && messages != now.Lowest-before.Lowest {
		violated = append(violated, m.report(ctx, SequencesAccounted, fmt.Sprintf("from %d to %d batches account for %d messages",
			before.Lowest, now.Lowest, messages)))
	}
	return violated
}

// report counts, logs and records an invariant that does not hold.
func (m *Monitor) report(ctx context.Context, invariant, detail string) string {
	m.violations.WithLabelValues(invariant).Inc()
	m.log.Error("an invariant does not hold", "invariant", invariant, "reason", detail)
	err := findings.Record(ctx, m.pool, findings.Finding{
		Kind: "invariant_broken", Subject: invariant, FoundBy: "watch",
		Detail: detail + ": run: odometer audit",
	})
	if err != nil {
		m.log.Error("the finding could not be recorded", "reason", err)
	}
	return invariant
}

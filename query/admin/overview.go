package admin

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer"
	"odometer/query"
)

// Overview is the whole installation at a glance.
type Overview struct {
	At               query.Instant   `json:"at" doc:"When the figures were read, by the database's clock. They are at most a second old."`
	AsOf             *query.Instant  `json:"as_of" doc:"Every valid event of every tenant that the stream stored up to then is counted; null while a partition was never read to its end."`
	FreshnessSeconds *float64        `json:"freshness_seconds" doc:"From as_of to at; null without as_of. A second or two are usual while there is traffic, up to five without."`
	LagMessages      *int64          `json:"lag_messages" doc:"Messages that the stream holds, through its last_seq, and that are not read yet; null where the stream did not answer."`
	EventsPerSecond  float64         `json:"events_per_second" doc:"Events counted in the last 10 seconds, by 10."`
	Partitions       []PartitionRead `json:"partitions" doc:"How far each partition of the stream is read."`
	Stream           StreamRead      `json:"stream"`
	Totals           *Totals         `json:"totals" doc:"Null while the many batches of an old installation are still being added up, which each request continues."`
	OpenDeadLetters  int64           `json:"open_dead_letters" doc:"Dead letters that are not retried, discarded or found to be duplicates."`
	OpenFindings     int64           `json:"open_findings" doc:"Things found wrong that are not resolved."`
	UndecidedLinks   int64           `json:"undecided_links" doc:"Reports to Stripe that are planned, being sent, or of unknown outcome."`
	Tenants          TenantCounts    `json:"tenants" doc:"Subscriptions by their status now; at most five seconds older than at."`
	OverageCostCents int64           `json:"overage_cost_cents" doc:"What the overage of all running periods costs so far, as the metric usage_overage_cost_cents; at most five seconds older than at."`
	Currency         string          `json:"currency" doc:"ISO 4217, lower case."`
}

// PartitionRead is how far a partition is read.
type PartitionRead struct {
	Partition        int            `json:"partition"`
	Seq              int64          `json:"seq" doc:"The last sequence of the whole stream through which this partition is read and committed."`
	AsOf             *query.Instant `json:"as_of"`
	FreshnessSeconds *float64       `json:"freshness_seconds"`
}

// StreamRead is what is known of the stream.
type StreamRead struct {
	Epoch   int32  `json:"epoch" doc:"Raised each time the stream was found to have lost its tail or to have been created again; 0 before it was first read."`
	LastSeq *int64 `json:"last_seq" doc:"The stream's last sequence, read after the totals; null where this process does not know it."`
}

// TenantCounts are subscriptions by status.
type TenantCounts struct {
	Active   int64 `json:"active"`
	Trial    int64 `json:"trial"`
	PastDue  int64 `json:"past_due"`
	Canceled int64 `json:"canceled"`
	Expired  int64 `json:"expired"`
}

// How old the figures of an overview may be: dashboards ask every two seconds,
// and a scan of all tenants is too expensive for that.
const (
	overviewAge     = time.Second
	tenantTotalsAge = 5 * time.Second
)

// overview is at most a second old.
func (s *server) overview(ctx context.Context) (*Overview, error) {
	return s.overviews.get(ctx, overviewAge, s.loadOverview)
}

func (s *server) loadOverview(ctx context.Context) (*Overview, error) {
	// Positions are read before the counts: an answer must not claim to be fresher
	// than it is. The stream's end is read after them: it is never below what was
	// read.
	o, err := loadPositions(ctx, s.Pool)
	if err != nil {
		return nil, err
	}
	if err := o.loadFigures(ctx, s.Pool); err != nil {
		return nil, err
	}
	if o.Totals, err = s.totals.sum(ctx, s.Pool, batchesAtOnce); err != nil {
		return nil, err
	}
	if err := s.loadStream(ctx, o); err != nil {
		return nil, err
	}
	tenants, err := s.tenantTotals.get(ctx, tenantTotalsAge, func(ctx context.Context) (tenantTotals, error) {
		return loadTenantTotals(ctx, s.Pool)
	})
	o.Tenants, o.OverageCostCents, o.Currency = tenants.TenantCounts, tenants.OverageCostCents, tenants.Currency
	return o, err
}

const positionsSQL = `
select now(), partition, stream_epoch, seq, complete_until
from (select) as always
left join stream_positions on true
order by partition`

// loadPositions begins an overview with how far the stream is read.
func loadPositions(ctx context.Context, pool *pgxpool.Pool) (*Overview, error) {
	o := &Overview{Partitions: []PartitionRead{}}
	var now time.Time
	var partition *int
	var epoch *int32
	var seq *int64
	var complete *time.Time
	known := true
	rows, _ := pool.Query(ctx, positionsSQL)
	_, err := pgx.ForEachRow(rows, []any{&now, &partition, &epoch, &seq, &complete}, func() error {
		o.At = query.Instant{Time: now}
		if partition == nil {
			known = false
			return nil
		}
		p := PartitionRead{Partition: *partition, Seq: *seq}
		p.AsOf, p.FreshnessSeconds = freshness(now, complete)
		o.Stream.Epoch = max(o.Stream.Epoch, *epoch)
		o.Partitions = append(o.Partitions, p)
		known = known && p.AsOf != nil
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the positions: %w", err)
	}
	for _, p := range o.Partitions {
		if known && (o.AsOf == nil || p.AsOf.Before(o.AsOf.Time)) {
			o.AsOf, o.FreshnessSeconds = p.AsOf, p.FreshnessSeconds
		}
	}
	return o, nil
}

// freshness is the time since complete, to the millisecond. The stream's clock
// may be ahead of the database's.
func freshness(now time.Time, complete *time.Time) (*query.Instant, *float64) {
	if complete == nil {
		return nil, nil
	}
	age := max(0, now.Sub(*complete)).Round(time.Millisecond).Seconds()
	return &query.Instant{Time: *complete}, &age
}

// The newest batches are read from the end: 10 seconds of four busy partitions
// are a few thousand.
const figuresSQL = `
select
    (
        select coalesce(sum(b.events), 0)::bigint
        from (
            select events, committed_at
            from batches
            order by batch_id desc
            limit 20000
        ) b
        where b.committed_at > now() - interval '10 seconds'
    ),
    (select count(*) from dead_letters where state = 'open'),
    (select count(*) from audit_findings where resolved_at is null),
    (select count(*) from overage_reports where state in ('planned', 'sending', 'unknown'))`

func (o *Overview) loadFigures(ctx context.Context, pool *pgxpool.Pool) error {
	var counted int64
	err := pool.QueryRow(ctx, figuresSQL).Scan(&counted, &o.OpenDeadLetters, &o.OpenFindings, &o.UndecidedLinks)
	if err != nil {
		return fmt.Errorf("read the overview's figures: %w", err)
	}
	o.EventsPerSecond = float64(counted) / 10
	return nil
}

// tenantTotals are the figures that need a scan of all tenants.
type tenantTotals struct {
	TenantCounts
	OverageCostCents int64
	Currency         string
}

// statusSQL is the status of subscription `s` now: a trial is over at its end,
// even before the row says so.
const statusSQL = `case
        when s.status = 'trial' and s.trial_ends_at <= now() then
            case when s.plan_id is null then 'expired' else 'active' end
        else s.status
    end`

const countTenantsSQL = `
select ` + statusSQL + `, count(*)
from subscriptions s
group by 1`

// As usage_overage_cost_cents: each agent's cost is rounded once, half up.
const overageCostSQL = `
select
    least(
        coalesce(sum(floor(greatest(0, u.count - coalesce(l."limit", 0)) * a.unit_price * 100 + 0.5)), 0),
        9223372036854775807
    )::bigint,
    coalesce((select currency from catalogue), 'usd')
from billing_periods p
cross join agents a
join ` + counterSQL + ` u on true
left join allowances l on l.plan_id = p.plan_id and l.agent = a.agent
where p.frozen_at is null
  and p.period_start <= now()
  and not p.trial
  and p.plan_id is not null
  and (l.agent is null or l."limit" is not null)`

func loadTenantTotals(ctx context.Context, pool *pgxpool.Pool) (t tenantTotals, err error) {
	var status odometer.Status
	var count int64
	rows, _ := pool.Query(ctx, countTenantsSQL)
	_, err = pgx.ForEachRow(rows, []any{&status, &count}, func() error {
		*t.of(status) += count
		return nil
	})
	if err != nil {
		return t, fmt.Errorf("count tenants: %w", err)
	}
	err = withoutJIT(ctx, pool, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, overageCostSQL).Scan(&t.OverageCostCents, &t.Currency)
	})
	if err != nil {
		return t, fmt.Errorf("add up what the overage costs: %w", err)
	}
	return t, nil
}

func (c *TenantCounts) of(status odometer.Status) *int64 {
	switch status {
	case odometer.Active:
		return &c.Active
	case odometer.Trial:
		return &c.Trial
	case odometer.PastDue:
		return &c.PastDue
	case odometer.Canceled:
		return &c.Canceled
	}
	return &c.Expired
}

// loadStream adds where the stream ends and how many messages are not read yet.
// The positions are read once more, so that what was read meanwhile is not part
// of the lag.
func (s *server) loadStream(ctx context.Context, o *Overview) (err error) {
	if o.Stream.LastSeq, err = s.streamEnd(ctx); err != nil || o.Stream.LastSeq == nil {
		return err
	}
	now, err := loadPositions(ctx, s.Pool)
	if err != nil {
		return err
	}
	o.LagMessages, err = s.lag(ctx, now.Partitions, o.Stream.LastSeq)
	return err
}

// streamTimeout is how long the overview waits for NATS. Without its answer all
// else is shown.
const streamTimeout = time.Second

// streamEnd is nil when it is not known, as when NATS does not answer.
func (s *server) streamEnd(ctx context.Context) (*int64, error) {
	if s.StreamEnd == nil {
		return nil, nil
	}
	limited, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	end, err := s.StreamEnd(limited)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, nil
	}
	return &end, nil
}

// lag is how many messages through the end are not read yet. A partition's
// position is behind the end also when only messages of other partitions follow,
// so the stream is asked for the partition's own. The end was read first: a
// reader may be beyond it already.
func (s *server) lag(ctx context.Context, partitions []PartitionRead, end *int64) (*int64, error) {
	if end == nil || len(partitions) == 0 {
		return end, nil // nothing was read
	}
	limited, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	lag := int64(0)
	for _, p := range partitions {
		if p.Seq >= *end {
			continue
		}
		n, err := s.Waiting(limited, p.Partition, p.Seq, *end)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			return nil, nil
		}
		lag += n
	}
	return &lag, nil
}

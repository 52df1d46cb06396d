package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"odometer"
	"odometer/billing"
)

// growthFactor times the write benchmark's events are counted on top of what is
// stored: long enough for the transient after a checkpoint to end, in which
// every page that is touched for the first time goes into the log as a whole.
const growthFactor = 10

// windowShare of the span is the length of a window in which a rate is taken.
const windowShare = 4

// growth is how an aggregator did on a table that held many events.
type growth struct {
	windows []float64 // events a second, window by window, from a checkpoint on
	steady  float64   // events a second over the second half of the events
}

func (g growth) first() float64 { return g.windows[0] }

func benchGrowth(ctx context.Context, e *environment, report *report) error {
	work := newWorkload(tenantCount)
	s, err := e.openStream(ctx, "growth")
	if err != nil {
		return err
	}
	defer s.close()
	events := e.Events * growthFactor
	e.terminal.Log.Info("filling the stream", "events", events)
	last, err := s.fill(ctx, work, events, func(i int) int { return i })
	if err != nil {
		return err
	}
	all := make([][]growth, len(e.Stored))
	for round := range e.Rounds {
		for i, stored := range e.Stored {
			e.terminal.Log.Info("storing events", "round", round+1, "events", stored)
			found, err := e.grow(ctx, s, work, stored, last)
			if err != nil {
				return fmt.Errorf("with %d events stored: %w", stored, err)
			}
			all[i] = append(all[i], found)
			e.terminal.Log.Info("growth", "round", round+1, "stored", stored, "first", int(found.first()), "steady", int(found.steady))
		}
	}
	report.Growth = growthTable(e.Stored, all)
	return nil
}

// grow stores events in a new database and counts the stream on top of them.
func (e *environment) grow(ctx context.Context, s *stream, work *workload, stored int, last sequences) (found growth, err error) {
	d, err := e.openDatabase(ctx, "growth", amplePlan, work.tenants)
	if err != nil {
		return found, err
	}
	defer func() { err = errors.Join(err, d.drop(context.WithoutCancel(ctx))) }()
	before, err := d.store(ctx, stored, 2)
	if err != nil {
		return found, err
	}
	p, err := e.start(ctx, "aggregator", childParams{DatabaseURL: d.url, NATSURL: s.server.ClientURL()})
	if err != nil {
		return found, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	if err := d.exec(ctx, "checkpoint"); err != nil {
		return found, err
	}
	if err := p.begin(); err != nil {
		return found, err
	}
	events := e.Events * growthFactor
	if found, err = d.watchGrowth(ctx, events, e.Span/windowShare); err != nil {
		return found, err
	}
	if err := d.waitFor(ctx, last); err != nil {
		return found, err
	}
	return found, d.verify(ctx, totals{events: before.events + events, units: before.units + work.units(events)})
}

// watchGrowth takes the rates while the stream is counted.
func (d *database) watchGrowth(ctx context.Context, events int, window time.Duration) (found growth, err error) {
	begin := time.Now()
	from := reading{at: begin} // where the window began
	var half, last reading     // where the second half began; the one before
	for last.at = begin; last.count < events; {
		if err := odometer.Sleep(ctx, window/50); err != nil {
			return growth{}, err
		}
		now := reading{}
		if err := d.QueryRow(ctx, countedMessagesSQL).Scan(&now.count); err != nil {
			return growth{}, fmt.Errorf("ask how much is counted: %w", err)
		}
		now.at = time.Now()
		switch {
		case now.count > last.count:
			last = now
		case now.at.Sub(last.at) > stallLimit:
			return growth{}, fmt.Errorf("nothing was counted for %s after %d events", stallLimit, now.count)
		}
		if now.at.Sub(from.at) >= window || now.count == events && found.windows == nil {
			found.windows = append(found.windows, now.rateSince(from))
			from = now
		}
		if half.count == 0 && now.count >= events/2 {
			half = now
		}
	}
	if half.count == events { // it went faster than it was read
		half = reading{at: begin}
	}
	found.steady = last.rateSince(half)
	return found, nil
}

// reading is how many events were counted at a time.
type reading struct {
	at    time.Time
	count int
}

func (r reading) rateSince(before reading) float64 {
	return float64(r.count-before.count) / r.at.Sub(before.at).Seconds()
}

// Random keys in the order of their arrival, as in production: the index grows as
// it would have.
var storeSQL = insertEventsSQL + `
select
    ($1::uuid[])[1 + mod(n * 7919, cardinality($1::uuid[]))],
    gen_random_uuid(),
    ($2::text[])[1 + mod(n, cardinality($2::text[]))],
    'usage',
    ($3::text[])[1 + mod(n, cardinality($3::text[]))],
    'mailbox/primary/message/' || gen_random_uuid(),
    $4,
    gen_random_uuid(),
    jsonb_build_object('run', gen_random_uuid(), 'step', mod(n, 20), 'model', 'small', 'tokens', mod(n, 8000), 'cached', false),
    stored_at - interval '1 second',
    stored_at,
    p.period_start,
    0,
    n
from (select min(period_start) as period_start from billing_periods) p,
    generate_series($5::bigint, $6::bigint) as n,
    lateral (select now() - interval '14 days' * (1 - n / $7::float8) as stored_at) t`

const sumSQL = `
update usage_counters c
set count = e.quantity,
    last_event_at = e.last_event_at
from (
    select tenant_id, agent, period_start, sum(quantity) as quantity, max(occurred_at) as last_event_at
    from usage_events
    group by tenant_id, agent, period_start
) e
where (c.tenant_id, c.agent, c.period_start) = (e.tenant_id, e.agent, e.period_start)`

const heldSQL = `
select count(*), coalesce(sum(quantity), 0)::bigint
from usage_events`

const (
	storeAtOnce = 250_000 // rows of one statement
	storers     = 2
)

// store makes n events of so many units each inside Postgres, with the counters
// that belong to them, in the state of a table that was vacuumed.
func (d *database) store(ctx context.Context, n, units int) (held totals, err error) {
	tenants, agents, actions, err := d.senders(ctx)
	if err != nil {
		return held, err
	}
	group, storing := errgroup.WithContext(ctx)
	for storer := range storers {
		group.Go(func() error {
			for from := storer * storeAtOnce; from < n; from += storers * storeAtOnce {
				_, err := d.Exec(storing, storeSQL, tenants, agents, actions, units, from+1, min(n, from+storeAtOnce), n)
				if err != nil {
					return fmt.Errorf("store %d events: %w", n, err)
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return held, err
	}
	if err := d.exec(ctx, sumSQL, "vacuum (analyze)"); err != nil {
		return held, err
	}
	if err := d.QueryRow(ctx, heldSQL).Scan(&held.events, &held.units); err != nil {
		return held, fmt.Errorf("store %d events: %w", n, err)
	}
	return held, nil
}

const sendersSQL = `
select array_agg(tenant_id)
from subscriptions`

func (d *database) senders(ctx context.Context) (tenants []uuid.UUID, agents, actions []string, err error) {
	if err := d.QueryRow(ctx, sendersSQL).Scan(&tenants); err != nil {
		return nil, nil, nil, fmt.Errorf("list the tenants: %w", err)
	}
	for _, a := range billing.SampleCatalogue().Agents {
		agents, actions = append(agents, a.ID), append(actions, a.Actions[0])
	}
	return tenants, agents, actions, nil
}

// growthLine is the line of a number of stored events in the table.
type growthLine struct {
	Stored        int         `json:"stored" column:"growth, events stored;thousands"`
	First         float64     `json:"events_per_second_after_checkpoint" column:"after a checkpoint, events/s;thousands"`
	FirstOfLeast  float64     `json:"after_checkpoint_of_first_size" column:"ratio;ratio"`
	Steady        float64     `json:"events_per_second_steady" column:"steady, events/s;thousands"`
	SteadyOfLeast float64     `json:"steady_of_first_size" column:"ratio;ratio"`
	Windows       [][]float64 `json:"windows"` // by round: events per second, window by window
}

const growthNote = `After a checkpoint Postgres logs each page as a whole when it is first touched: the first seconds are slower.
Steady is the second half of the events. Ratios are to the first line.`

func growthTable(stored []int, all [][]growth) []growthLine {
	var lines []growthLine
	steady := func(c growth) float64 { return c.steady }
	for i, n := range stored {
		line := growthLine{
			Stored: n, First: median(all[i], growth.first), Steady: median(all[i], steady),
			FirstOfLeast: medianRatio(all[i], all[0], growth.first), SteadyOfLeast: medianRatio(all[i], all[0], steady),
		}
		for _, c := range all[i] {
			line.Windows = append(line.Windows, c.windows)
		}
		lines = append(lines, line)
	}
	return lines
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Sizes of the audit race: the larger ones are the smaller ones, grown.
var (
	auditedUsually = []int{100_000, 300_000}
	auditedFull    = []int{100_000, 300_000, 3_000_000}
)

// auditLap is what one round came to.
type auditLap struct {
	events                  int
	read, stream, sum, sums time.Duration
	peak                    int64 // bytes of memory at most, of the auditing process alone
}

func (l auditLap) per(took time.Duration) float64 { return float64(l.events) / took.Seconds() }

func (l auditLap) readRate() float64   { return l.per(l.read) }
func (l auditLap) streamRate() float64 { return l.per(l.stream) }
func (l auditLap) sumRate() float64    { return l.per(l.sum) }
func (l auditLap) sumsRate() float64   { return l.per(l.sums) }

func (l auditLap) streamOfRead() float64 { return l.read.Seconds() / l.stream.Seconds() }
func (l auditLap) sumsOfSum() float64    { return l.sum.Seconds() / l.sums.Seconds() }

// auditing is the audit race: one stream and the books made of it, which grow
// from size to size.
type auditing struct {
	*benchCmd
	*ground
	work *workload
	s    *benchStream
	d    *database
	held int // events
}

// raceAudit measures both sides of the audit beside the least that could be
// done: an ordered read without any work, and a bare sum over the same rows.
func (c *benchCmd) raceAudit(ctx context.Context, g *ground, report *benchReport) (err error) {
	a := &auditing{benchCmd: c, ground: g, work: newWorkload(writeTenants)}
	if a.d, err = g.openDatabase(ctx, "audited", amplePlan, a.work.tenants); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.d.drop(context.WithoutCancel(ctx))) }()
	if a.s, err = g.openStream(ctx, "audited"); err != nil {
		return err
	}
	defer a.s.close()
	sizes := c.auditSizes()
	laps := make([][]auditLap, len(sizes))
	for i, events := range sizes {
		g.t.Log.Info("publishing and counting", "events", events-a.held)
		if err := a.grow(ctx, events); err != nil {
			return fmt.Errorf("%d events: %w", events, err)
		}
		for round := range c.Rounds {
			l, err := a.lap(ctx)
			if err != nil {
				return fmt.Errorf("%d events: %w", events, err)
			}
			laps[i] = append(laps[i], l)
			g.t.Log.Info("audit", "round", round+1, "events", events, "read", int(l.readRate()), "stream_side", int(l.streamRate()),
				"sum", int(l.sumRate()), "counters_side", int(l.sumsRate()), "peak_mib", l.peak>>20)
		}
	}
	report.Audit = auditTable(laps)
	return nil
}

// auditSizes are in the order of their growth.
func (c *benchCmd) auditSizes() []int {
	switch {
	case len(c.Audited) > 0:
		return slices.Compact(slices.Sorted(slices.Values(c.Audited)))
	case c.Full:
		return auditedFull
	default:
		return auditedUsually
	}
}

// grow publishes events until there are so many, counts them meanwhile, and
// leaves the table as autovacuum would.
func (a *auditing) grow(ctx context.Context, events int) error {
	if err := a.count(ctx, events); err != nil {
		return err
	}
	a.held = events
	if err := a.d.verify(ctx, books{events: events, units: a.work.units(events)}); err != nil {
		return err
	}
	return a.d.exec(ctx, "vacuum (analyze)", "checkpoint")
}

func (a *auditing) count(ctx context.Context, events int) (err error) {
	r, err := a.enter(ctx, contestant{Role: aggregateRole, DatabaseURL: a.d.url, NATSURL: a.s.server.ClientURL()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.leave()) }()
	if err := r.start(); err != nil {
		return err
	}
	last, err := a.s.fill(ctx, a.work, events-a.held, func(i int) int { return a.held + i })
	if err != nil {
		return err
	}
	return a.d.waitFor(ctx, last)
}

// lap lets each contestant run once; each side of the audit comes next to what
// it is measured by.
func (a *auditing) lap(ctx context.Context) (l auditLap, err error) {
	l.events = a.held
	if l.read, err = a.readBare(ctx); err != nil {
		return l, err
	}
	found, peak, err := a.audit(ctx)
	if err != nil {
		return l, err
	}
	l.stream, l.sums, l.peak = found.Stream, found.Sums, peak
	l.sum, err = a.sumBare(ctx)
	return l, err
}

// readBare reads the stream in order, in a process of its own.
func (a *auditing) readBare(ctx context.Context) (took time.Duration, err error) {
	r, err := a.enter(ctx, contestant{Role: orderedRole, NATSURL: a.s.server.ClientURL(), Messages: a.held})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, r.leave()) }()
	begin := time.Now()
	if err := r.start(); err != nil {
		return 0, err
	}
	err = r.expect(doneWord)
	return time.Since(begin), err
}

// audit audits in a process of its own, which fails unless the books agree.
func (a *auditing) audit(ctx context.Context) (found auditTimes, peak int64, err error) {
	r, err := a.enter(ctx, contestant{Role: auditRole, DatabaseURL: a.d.url, NATSURL: a.s.server.ClientURL(), Messages: a.held})
	if err != nil {
		return found, 0, err
	}
	defer func() { err = errors.Join(err, r.leave()) }()
	if err := r.start(); err != nil {
		return found, 0, err
	}
	text, err := r.words.ReadString('\n')
	if err != nil {
		return found, 0, fmt.Errorf("the auditing process did not come to an end: %w", err)
	}
	err = json.Unmarshal([]byte(text), &found)
	return found, peakMemory(r.pid()), err
}

const bareSumSQL = `
select tenant_id, agent, period_start, sum(quantity)::bigint
from usage_events
group by tenant_id, agent, period_start`

// sumBare takes every row of the sum from Postgres and does nothing with it.
func (a *auditing) sumBare(ctx context.Context) (time.Duration, error) {
	begin := time.Now()
	rows, _ := a.d.Query(ctx, bareSumSQL)
	for rows.Next() { // they are not even looked at
	}
	if err := rows.Err(); err != nil {
		return 0, fmt.Errorf("add up the events: %w", err)
	}
	return time.Since(begin), nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// The contestants of the write race, in the order of the table.
const (
	naiveOne        = "naive, 1 connection"
	naiveFour       = "naive, 4 connections"
	bareCopy        = "bare COPY"
	aggregatedOnce  = "aggregator"
	aggregatedAgain = "aggregator, 95 % repeats"
	onlyRead        = "reading only"
)

const (
	writeTenants = 1000
	repeats      = 0.95 // share of messages in the second stream that repeat the first
)

// lap is what one contestant has done in one round.
type lap struct {
	events int
	took   time.Duration
	effort effort
	stored int64 // bytes that were added, 0 when nothing is stored
	peak   int64 // bytes of memory at most, 0 when it is not the contestant's alone
}

func (l lap) rate() float64 { return float64(l.events) / l.took.Seconds() }

// writing is the write race: its streams, filled once, and its databases. Each
// contestant begins each lap with empty books, right after a checkpoint.
type writing struct {
	*benchCmd
	*ground
	work         *workload
	first, again *benchStream // new events; mostly repeats of them
	firstTails   tails
	againTails   tails
	fresh        int // events of again that are new
	aggregated   *database
	naive        *database
	copied       *database
	rows         [][]any // what COPY writes
}

func (c *benchCmd) raceWriting(ctx context.Context, g *ground, report *benchReport) error {
	w := &writing{benchCmd: c, ground: g, work: newWorkload(writeTenants)}
	defer w.close()
	if err := w.prepare(ctx); err != nil {
		return err
	}
	laps := map[string][]lap{}
	for round := range c.Rounds {
		for _, contestant := range []struct {
			name string
			run  func(context.Context) (lap, error)
		}{
			{naiveOne, func(ctx context.Context) (lap, error) { return w.runNaive(ctx, 1) }},
			{naiveFour, func(ctx context.Context) (lap, error) { return w.runNaive(ctx, 4) }},
			{bareCopy, w.runCopy},
			{aggregatedOnce, w.runAggregator},
			{aggregatedAgain, w.runRepeats}, // repeats what the lap before has counted
			{onlyRead, w.runReading},
		} {
			l, err := contestant.run(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", contestant.name, err)
			}
			laps[contestant.name] = append(laps[contestant.name], l)
			g.t.Log.Info("write", "round", round+1, "contestant", contestant.name, "events_per_second", int(l.rate()))
		}
	}
	report.Write = writeTable(laps)
	return nil
}

func (w *writing) prepare(ctx context.Context) (err error) {
	for _, d := range []struct {
		name string
		at   **database
	}{{"naive", &w.naive}, {"copied", &w.copied}, {"aggregated", &w.aggregated}} {
		if *d.at, err = w.openDatabase(ctx, d.name, amplePlan, w.work.tenants); err != nil {
			return err
		}
	}
	w.t.Log.Info("filling the streams", "events", 2*w.Events)
	if w.first, err = w.openStream(ctx, "first"); err != nil {
		return err
	}
	if w.firstTails, err = w.first.fill(ctx, w.work, w.Events, func(i int) int { return i }); err != nil {
		return err
	}
	if w.again, err = w.openStream(ctx, "again"); err != nil {
		return err
	}
	var list []int
	list, w.fresh = w.work.repeated(w.Events, repeats)
	if w.againTails, err = w.again.fill(ctx, w.work, w.Events, func(i int) int { return list[i] }); err != nil {
		return err
	}
	return w.prepareRows(ctx)
}

func (w *writing) close() {
	for _, s := range []*benchStream{w.first, w.again} {
		if s != nil {
			s.close()
		}
	}
	for _, d := range []*database{w.naive, w.copied, w.aggregated} {
		if d != nil {
			d.Close()
		}
	}
}

// runAggregator counts the first stream into empty books.
func (w *writing) runAggregator(ctx context.Context) (lap, error) {
	if err := w.aggregated.clear(ctx); err != nil {
		return lap{}, err
	}
	l, err := w.aggregate(ctx, w.first, w.firstTails)
	if err != nil {
		return lap{}, err
	}
	return l, w.aggregated.verify(ctx, books{events: w.Events, units: w.work.units(w.Events)})
}

// runRepeats counts the second stream into the books that hold the first.
func (w *writing) runRepeats(ctx context.Context) (lap, error) {
	if err := w.aggregated.forgetStream(ctx); err != nil {
		return lap{}, err
	}
	l, err := w.aggregate(ctx, w.again, w.againTails)
	if err != nil {
		return lap{}, err
	}
	all := w.Events + w.fresh
	return l, w.aggregated.verify(ctx, books{events: all, units: w.work.units(all), duplicates: w.Events - w.fresh})
}

// aggregate lets an aggregator, in a process of its own, count a whole stream:
// from its start until every partition is committed to its last message.
func (w *writing) aggregate(ctx context.Context, s *benchStream, last tails) (l lap, err error) {
	r, err := w.enter(ctx, contestant{Role: aggregateRole, DatabaseURL: w.aggregated.url, NATSURL: s.server.ClientURL()})
	if err != nil {
		return lap{}, err
	}
	defer func() { err = errors.Join(err, r.leave()) }()
	before, err := w.aggregated.eventBytes(ctx)
	if err != nil {
		return lap{}, err
	}
	effort, begin := w.effort(r.pid()), time.Now()
	if err := r.start(); err != nil {
		return lap{}, err
	}
	if err := w.aggregated.waitFor(ctx, last); err != nil {
		return lap{}, err
	}
	l = lap{events: w.Events, took: time.Since(begin), effort: w.effort(r.pid()).minus(effort), peak: peakMemory(r.pid())}
	after, err := w.aggregated.eventBytes(ctx)
	l.stored = after - before
	return l, err
}

// runReading reads the first stream and stores nothing.
func (w *writing) runReading(ctx context.Context) (l lap, err error) {
	r, err := w.enter(ctx, contestant{Role: readRole, NATSURL: w.first.server.ClientURL(), Messages: w.Events})
	if err != nil {
		return lap{}, err
	}
	defer func() { err = errors.Join(err, r.leave()) }()
	effort, begin := w.effort(r.pid()), time.Now()
	if err := r.start(); err != nil {
		return lap{}, err
	}
	if err := r.expect(doneWord); err != nil {
		return lap{}, err
	}
	return lap{events: w.Events, took: time.Since(begin), effort: w.effort(r.pid()).minus(effort), peak: peakMemory(r.pid())}, nil
}

package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"odometer/cmd/internal/cli"
	"os"
	"strings"
	"time"
)

// peerRate is how many events a second the nearest peer reached on two cores,
// with inserts alone.
const peerRate = 12_000

// mailLap is what one contestant has done in one round.
type mailLap struct {
	events          int
	acked, counted  time.Duration // from the first request to the last answer; until the last event is counted
	p50, p99        time.Duration // of a request
	postgres, nats  time.Duration // CPU time
	count, take     time.Duration // CPU time of the aggregator, and of the process with the handler
	send            time.Duration // CPU time of the clients
	peak, countPeak int64         // bytes of memory at most, of the handler's process and of the aggregator's
}

func (l mailLap) rate(took time.Duration) float64 { return float64(l.events) / took.Seconds() }

func (l mailLap) ackedRate() float64 { return l.rate(l.acked) }

// countedRate is 0 where nobody counts.
func (l mailLap) countedRate() float64 {
	if l.counted == 0 {
		return 0
	}
	return l.rate(l.counted)
}

// mailing is the ingest race. Each lap has a stream of its own, and books that
// are as new.
type mailing struct {
	*benchCmd
	*ground
	work   *workload
	d      *database
	secret []byte
	laps   int
}

func (c *benchCmd) raceIngest(ctx context.Context, g *ground, report *benchReport) (err error) {
	m := &mailing{benchCmd: c, ground: g, work: newWorkload(writeTenants), secret: make([]byte, 32)}
	if _, err := rand.Read(m.secret); err != nil {
		return err
	}
	if m.d, err = g.openDatabase(ctx, "mailed", amplePlan, m.work.tenants); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.d.drop(context.WithoutCancel(ctx))) }()
	g.t.Log.Info("writing requests", "events", c.Events)
	for i := range mails {
		if err := m.write(&mails[i]); err != nil {
			return err
		}
	}
	laps := map[string][]mailLap{}
	for round := range c.Rounds {
		for i := range mails {
			l, err := m.lap(ctx, &mails[i])
			if err != nil {
				return fmt.Errorf("%s: %w", mails[i].name, err)
			}
			laps[mails[i].name] = append(laps[mails[i].name], l)
			g.t.Log.Info("ingest", "round", round+1, "contestant", mails[i].name,
				"acknowledged_per_second", int(l.ackedRate()), "counted_per_second", int(l.countedRate()), "p99", l.p99)
		}
	}
	report.Ingest = ingestTable(laps)
	return nil
}

// lap sends everything once, and waits until it is counted.
func (m *mailing) lap(ctx context.Context, way *mail) (l mailLap, err error) {
	if err := m.d.clear(ctx); err != nil {
		return l, err
	}
	m.laps++
	s, err := m.openStream(ctx, fmt.Sprintf("mailed-%d", m.laps))
	if err != nil {
		return l, err
	}
	defer s.discard()
	var c crew
	defer func() { err = errors.Join(err, c.leave()) }()
	if err := m.enlist(ctx, s, way, &c); err != nil {
		return l, err
	}
	if l, err = m.run(ctx, &c); err != nil || c.counter == nil {
		return l, err
	}
	return l, m.d.verify(ctx, books{events: m.Events, units: m.work.units(m.Events)})
}

// crew are the processes of a lap.
type crew struct {
	taker, sender *runner
	counter       *runner // nil where nobody counts
	url           string  // of the API
}

func (c *crew) leave() (err error) {
	for _, r := range []*runner{c.sender, c.taker, c.counter} {
		if r != nil {
			err = errors.Join(err, r.leave())
		}
	}
	return err
}

// enlist starts the processes, and returns when all are ready to begin.
func (m *mailing) enlist(ctx context.Context, s *benchStream, way *mail, c *crew) (err error) {
	if c.taker, err = m.enter(ctx, contestant{Role: takeRole, NATSURL: s.server.ClientURL()}); err != nil {
		return err
	}
	if err := c.taker.tell(hex.EncodeToString(m.secret)); err != nil {
		return err
	}
	if c.url, err = c.taker.words.ReadString('\n'); err != nil {
		return fmt.Errorf("start the handler: %w", err)
	}
	if c.sender, err = m.enter(ctx, contestant{Role: sendRole}); err != nil {
		return err
	}
	if err := c.sender.tell(m.file(way)); err != nil {
		return err
	}
	if err := c.sender.expect(readyWord); err != nil || !way.counted {
		return err
	}
	if c.counter, err = m.enter(ctx, contestant{Role: aggregateRole, DatabaseURL: m.d.url, NATSURL: s.server.ClientURL()}); err != nil {
		return err
	}
	if err := c.counter.start(); err != nil {
		return err
	}
	return m.d.waitUntilRead(ctx)
}

// run fires the gun, and takes the times.
func (m *mailing) run(ctx context.Context, c *crew) (l mailLap, err error) {
	before := m.mailEffort(c)
	begin := time.Now()
	if err := c.sender.tell(strings.TrimSpace(c.url)); err != nil {
		return l, err
	}
	text, err := c.sender.words.ReadString('\n')
	if err != nil {
		return l, fmt.Errorf("the clients did not come to an end: %w", err)
	}
	var sent delivery
	if err := json.Unmarshal([]byte(text), &sent); err != nil {
		return l, fmt.Errorf("the clients said %q: %w", text, err)
	}
	if sent.Accepted != m.Events {
		return l, fmt.Errorf("%d events were sent, %d were accepted", m.Events, sent.Accepted)
	}
	var counted time.Duration
	if c.counter != nil {
		if err := m.d.waitForMessages(ctx, m.Events); err != nil {
			return l, err
		}
		counted = time.Since(begin)
	}
	l = m.mailEffort(c)
	l.minus(before)
	l.events, l.acked, l.counted, l.p50, l.p99 = m.Events, sent.Took, counted, sent.P50, sent.P99
	return l, nil
}

// mailEffort reads the CPU times so far.
func (m *mailing) mailEffort(c *crew) (l mailLap) {
	all := m.effort(c.taker.pid())
	l.nats, l.take, l.postgres = all.here, all.child, all.postgres
	l.send = m.effort(c.sender.pid()).child
	l.peak = peakMemory(c.taker.pid())
	if c.counter != nil {
		l.count, l.countPeak = m.effort(c.counter.pid()).child, peakMemory(c.counter.pid())
	}
	return l
}

func (l *mailLap) minus(before mailLap) {
	l.nats -= before.nats
	l.take -= before.take
	l.postgres -= before.postgres
	l.send -= before.send
	l.count -= before.count
}

// waitForMessages waits until so many are booked.
func (d *database) waitForMessages(ctx context.Context, n int) error {
	var seen int
	for moved := time.Now(); ; {
		before := seen
		if err := d.QueryRow(ctx, climbedSQL).Scan(&seen); err != nil {
			return fmt.Errorf("ask how much is counted: %w", err)
		}
		switch {
		case seen >= n:
			return nil
		case seen != before:
			moved = time.Now()
		case time.Since(moved) > stuckTime:
			return fmt.Errorf("nothing was counted for %s after %d events", stuckTime, seen)
		}
		if err := cli.PauseFor(ctx, lookPause); err != nil {
			return err
		}
	}
}

// discard closes the stream and removes what it holds.
func (s *benchStream) discard() {
	dir := s.server.StoreDir()
	s.close()
	_ = os.RemoveAll(dir) // the ground goes with it at the latest
}

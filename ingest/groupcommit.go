package ingest

import (
	"context"
	"errors"
	"sync"
	"time"
)

// groupsInFlight is how many groups are under way at once: one that the server
// stores and one that it receives. Whoever comes meanwhile makes the next.
const groupsInFlight = 2

// group is group commit: the server's cost of an atomic batch is large, and the
// same for 20 messages and for 1,000. It never makes one caller's fate
// another's: a group is tried once, and each of its lots that is not stored
// then goes on alone.
type group struct {
	mu      sync.Mutex
	waiting []*lot
	senders int
}

// lot is what one caller publishes.
type lot struct {
	*batch
	ctx  context.Context
	done chan bool // whether the group has settled it
}

// sendTogether is sendBatch along with other callers.
func (p *Publisher) sendTogether(ctx context.Context, b *batch) {
	if len(b.messages) == 0 {
		return
	}
	l := &lot{batch: b, ctx: ctx, done: make(chan bool, 1)}
	if p.group.join(l) {
		go p.sendGroups()
	}
	stored := false
	select {
	case stored = <-l.done:
	case <-ctx.Done():
		if !p.group.withdraw(l) {
			stored = <-l.done // what is under way reads the caller's bytes
		}
	}
	switch {
	case stored:
		b.settleRepeats()
	case ctx.Err() != nil:
		b.refuse(new(patience).ended(ctx, errOthersTurn))
		b.settleRepeats()
	default:
		p.sendBatch(ctx, b)
	}
}

var errOthersTurn = errors.New("others were being stored")

// join takes a lot in, and reports whether another sender is wanted.
func (g *group) join(l *lot) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting = append(g.waiting, l)
	if g.senders == groupsInFlight {
		return false
	}
	g.senders++
	return true
}

// withdraw takes a lot out, unless it is under way or done.
func (g *group) withdraw(l *lot) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, other := range g.waiting {
		if other == l {
			g.waiting = append(g.waiting[:i:i], g.waiting[i+1:]...)
			return true
		}
	}
	return false
}

// next takes as many lots as fit into one batch, in the order in which they
// came. With none, a sender goes.
func (g *group) next() []*lot {
	g.mu.Lock()
	defer g.mu.Unlock()
	messages, bytes, n := 0, 0, 0
	for _, l := range g.waiting {
		messages, bytes = messages+len(l.messages), bytes+l.bytes
		if n > 0 && (messages > batchMessages || bytes > batchBytes) {
			break
		}
		n++
	}
	if n == 0 {
		g.senders--
		g.waiting = nil
		return nil
	}
	lots := g.waiting[:n:n]
	g.waiting = g.waiting[n:]
	return lots
}

// sendGroups sends until nobody waits.
func (p *Publisher) sendGroups() {
	for lots := p.group.next(); lots != nil; lots = p.group.next() {
		p.sendGroup(lots)
	}
}

// sendGroup tries to store lots, once, and tells each whether it is stored.
func (p *Publisher) sendGroup(lots []*lot) {
	ctx, cancel := context.WithDeadline(context.Background(), attemptEnd(lots, p.attempt))
	defer cancel()
	messages := 0
	batches := make([]*batch, len(lots))
	for i, l := range lots {
		batches[i] = l.batch
		messages += len(l.messages)
	}
	ctx, stop := p.denials.watch(ctx, batches...)
	defer stop()
	if messages < batchWorth {
		p.sendFewOnce(ctx, batches...)
		for _, l := range lots {
			l.done <- l.stored()
		}
		return
	}
	last, err := p.sendBatchOnce(ctx, batches...)
	for _, l := range lots {
		if messages -= len(l.messages); err == nil {
			l.acknowledge(last - uint64(messages))
		}
		l.done <- err == nil
	}
}

// attemptEnd is when nobody waits any longer: one who is in a hurry must not
// end the attempt for the others.
func attemptEnd(lots []*lot, attempt time.Duration) time.Time {
	var last time.Time
	latest := time.Now().Add(attempt)
	for _, l := range lots {
		deadline, ok := l.ctx.Deadline()
		if !ok || deadline.After(latest) {
			return latest
		}
		if deadline.After(last) {
			last = deadline
		}
	}
	return last
}

// stored reports whether every message has its acknowledgement.
func (b *batch) stored() bool {
	for _, r := range b.results {
		if r.Err != nil {
			return false
		}
	}
	return true
}

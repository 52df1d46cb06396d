package publisher

import (
	"context"
	"errors"
	"sync"
	"time"
)

// groupsInFlight is how many groups are under way at once: one that the server
// stores and one that it receives. What is published meanwhile makes the next.
const groupsInFlight = 2

// group is group commit: the server's cost of an atomic batch is large, and the
// same for 20 messages and for 1,000. A failure for one caller is none for
// another: a group is tried once, and each caller's batch that is not stored
// then goes on alone.
type group struct {
	mu      sync.Mutex
	waiting []*submission
	senders int
}

// submission is what one caller publishes.
type submission struct {
	batch  *batch
	ctx    context.Context
	stored chan bool // whether the group has stored it
}

// sendGrouped is sendBatch along with other callers.
func (p *Publisher) sendGrouped(ctx context.Context, b *batch) {
	if len(b.messages) == 0 {
		return
	}
	s := &submission{batch: b, ctx: ctx, stored: make(chan bool, 1)}
	if p.group.join(s) {
		go p.sendGroups()
	}
	stored := false
	select {
	case stored = <-s.stored:
	case <-ctx.Done():
		if !p.group.withdraw(s) {
			stored = <-s.stored // what is under way reads the caller's bytes
		}
	}
	switch {
	case stored:
		b.copyToRepeats()
	case ctx.Err() != nil:
		b.fail(new(retry).ended(ctx, errNoTurn))
		b.copyToRepeats()
	default:
		p.sendBatch(ctx, b)
	}
}

var errNoTurn = errors.New("other callers' events were being stored")

// join adds a submission, and reports whether another sender is wanted.
func (g *group) join(s *submission) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting = append(g.waiting, s)
	if g.senders == groupsInFlight {
		return false
	}
	g.senders++
	return true
}

// withdraw removes a submission, unless it is under way or done.
func (g *group) withdraw(s *submission) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, other := range g.waiting {
		if other == s {
			g.waiting = append(g.waiting[:i:i], g.waiting[i+1:]...)
			return true
		}
	}
	return false
}

// next takes as many submissions as fit into one batch, in the order in which
// they came. With none, a sender ends.
func (g *group) next() []*submission {
	g.mu.Lock()
	defer g.mu.Unlock()
	messages, bytes, n := 0, 0, 0
	for _, s := range g.waiting {
		messages, bytes = messages+len(s.batch.messages), bytes+s.batch.bytes
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
	taken := g.waiting[:n:n]
	g.waiting = g.waiting[n:]
	return taken
}

// sendGroups sends until no submission waits.
func (p *Publisher) sendGroups() {
	for submissions := p.group.next(); submissions != nil; submissions = p.group.next() {
		p.sendGroup(submissions)
	}
}

// sendGroup tries to store submissions, once, and answers each.
func (p *Publisher) sendGroup(submissions []*submission) {
	ctx, cancel := context.WithDeadline(context.Background(), attemptEnd(submissions, p.attempt))
	defer cancel()
	messages := 0
	batches := make([]*batch, len(submissions))
	for i, s := range submissions {
		batches[i] = s.batch
		messages += len(s.batch.messages)
	}
	ctx, stop := p.denials.watch(ctx, batches...)
	defer stop()
	if messages < batchWorth {
		p.sendSingly(ctx, batches...)
		for _, s := range submissions {
			s.stored <- s.batch.stored()
		}
		return
	}
	last, err := p.sendBatchOnce(ctx, batches...)
	for _, s := range submissions {
		if messages -= len(s.batch.messages); err == nil {
			s.batch.acknowledge(last - uint64(messages))
		}
		s.stored <- err == nil
	}
}

// attemptEnd is when no caller waits any longer: one with a short deadline must
// not end the attempt for the others.
func attemptEnd(submissions []*submission, attempt time.Duration) time.Time {
	var last time.Time
	latest := time.Now().Add(attempt)
	for _, s := range submissions {
		deadline, ok := s.ctx.Deadline()
		if !ok || deadline.After(latest) {
			return latest
		}
		if deadline.After(last) {
			last = deadline
		}
	}
	return last
}

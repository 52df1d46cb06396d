package audit

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"odometer/ingest"
)

// outcome is what became of a message.
type outcome byte

const (
	pending   outcome = iota // not found yet
	counted                  // it is an event
	altered                  // it is an event, but not as it says
	repeated                 // it repeats an event
	dead                     // it is a dead letter
	forgotten                // it is nothing
)

// matcher finds what became of messages.
type matcher struct {
	*auditor
	layout *layout

	mu    sync.Mutex
	byKey []span // chunks in which events without a message were not looked for
}

// span is a run of the stream with how many events of it were found.
type span struct {
	from, to int64
	events   int64
}

func (a *auditor) newMatcher(ctx context.Context, first int64) (*matcher, error) {
	m := &matcher{auditor: a, layout: &layout{}}
	if a.Tenant != nil {
		return m, nil
	}
	a.step("where events lie")
	var err error
	if m.layout, err = loadLayout(ctx, a.Pool, first, a.at.end); err != nil {
		return nil, err
	}
	if m.layout.older > 0 {
		a.report.unknown(streamEvents, m.layout.older, "events whose messages have left the stream by age")
	}
	return m, nil
}

// compare finds out what became of a chunk's messages, and which events of its
// span none of them tells of, in one snapshot.
func (m *matcher) compare(ctx context.Context, c *chunk) error {
	for i := range c.messages {
		msg := &c.messages[i]
		if msg.event, msg.reject = ingest.Decode(&msg.Message); msg.reject == nil {
			msg.id = msg.event.ID()
		}
	}
	begin, end, inWindow := m.layout.window(c.from, c.to, len(c.messages))
	inWindow = inWindow && m.Tenant == nil
	err := pgx.BeginTxFunc(ctx, m.Pool, snapshot, func(tx pgx.Tx) error {
		var found []difference
		var err error
		switch {
		case c.strays:
			found, err = m.matchAll(ctx, tx, c)
		case inWindow:
			found, err = m.matchWindow(ctx, tx, c, begin, end)
		}
		if err != nil {
			return err
		}
		if err := m.matchDead(ctx, tx, c); err != nil {
			return err
		}
		return m.settle(ctx, tx, c, found)
	})
	if err != nil {
		return fmt.Errorf("compare messages %d to %d: %w", c.from, c.to, err)
	}
	m.tell(c, inWindow)
	return nil
}

// Asked for by blocks: one small plan for each run of them.
const windowSQL = `
select` + recordColumns + `
from unnest($1::text[], $2::text[]) as w (begin, "end")
cross join lateral (
    select *
    from usage_events
    where ctid >= w.begin::tid
      and ctid < w."end"::tid
      and stream_seq between $3 and $4
    offset 0
) e`

func (m *matcher) matchWindow(ctx context.Context, tx pgx.Tx, c *chunk, begin, end []string) ([]difference, error) {
	rows, err := tx.Query(ctx, windowSQL, binaryRows, begin, end, c.from, c.to)
	return m.match(c, rows, err)
}

const spanSQL = `
select` + recordColumns + `
from usage_events e
where e.stream_seq between $1 and $2
  and ($3::uuid is null or e.tenant_id = $3)`

// matchAll looks through the whole table.
func (m *matcher) matchAll(ctx context.Context, tx pgx.Tx, c *chunk) ([]difference, error) {
	rows, err := tx.Query(ctx, spanSQL, binaryRows, c.from, c.to, m.Tenant)
	return m.match(c, rows, err)
}

// match compares stored events with the messages at their sequences.
func (m *matcher) match(c *chunk, rows pgx.Rows, err error) (found []difference, _ error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var r record
	for rows.Next() {
		r.scan(rows.RawValues())
		msg := c.find(r.Seq)
		switch {
		case msg != nil && msg.reject == nil && r.of(msg):
			found = m.own(c, msg, &r, found)
		case c.strays || m.Tenant == nil:
			found = m.stray(msg, &r, found)
		}
	}
	return found, rows.Err()
}

// difference is one, with the event whose period is still to be found.
type difference struct {
	Difference
	msg *message
}

// own compares a message with its event.
func (m *matcher) own(c *chunk, msg *message, r *record, found []difference) []difference {
	msg.outcome = counted
	field, expected, is := r.differs(msg)
	if field == "" {
		return found
	}
	msg.outcome = altered
	if c.strays {
		return found
	}
	return append(found, difference{Difference: Difference{
		Kind: EventChanged, Tenant: r.tenantID(), Agent: msg.event.Agent, Period: &r.period, Where: m.at.position(r.Seq),
		Expected: field + " " + expected, Found: field + " " + is,
		Cause: "the row was changed after it was counted",
		Repair: byHand("no repair is defined: the message is right; delete the row with event_id %s, then: odometer replay --from-seq %d --tenant %s",
			uuid.UUID(r.id), r.Seq, uuid.UUID(r.tenant)),
	}})
}

// stray judges an event that no message at its sequence tells of.
func (m *matcher) stray(msg *message, r *record, found []difference) []difference {
	switch {
	case r.Seq > m.at.through(m.at.partitionOf(r.tenant)):
		return found // it was counted after the positions were read
	case r.Epoch < m.at.of(r.Seq):
		m.report.unknown(streamEvents, 1, "events of a tail that the stream has lost: they stay counted, and no message proves them")
		return found
	case msg == nil && !m.heldAt(r.Seq):
		m.report.unknown(streamEvents, 1, "events whose messages have left the stream")
		return found
	}
	period := r.period
	return append(found, difference{Difference: Difference{
		Kind: EventUnknown, Tenant: r.tenantID(), Agent: string(r.agent), Period: &period,
		Where:    fmt.Sprintf("%s, key %q", m.at.position(r.Seq), r.key),
		Expected: "no event", Found: fmt.Sprintf("an event of %d units", r.quantity),
		Cause: "the row was written by hand, or its tenant, key or position was changed",
		Repair: byHand("no repair is defined: no message of the stream says this; delete the row with event_id %s if nobody can account for it, then: odometer replay --from-seq %d --tenant %s",
			uuid.UUID(r.id), r.Seq, uuid.UUID(r.tenant)),
	}})
}

// heldAt reports whether the stream still has a message at a sequence. Only a
// gap, or what ages out while it is read, has none.
func (m *matcher) heldAt(seq int64) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	stored, err := ingest.StoredTime(ctx, m.NATS, seq)
	return err == nil && stored != nil
}

// tell books what became of the messages.
func (m *matcher) tell(c *chunk, inWindow bool) {
	if c.strays {
		return
	}
	var of [forgotten + 1]int64
	here := int64(0)
	for i := range c.messages {
		of[c.messages[i].outcome]++
		if o := c.messages[i].outcome; o == counted || o == altered {
			here++
		}
	}
	m.report.equal(streamEvents, of[counted]+of[repeated]+of[dead])
	m.report.mu.Lock()
	s := &m.report.Stream
	s.Messages += int64(len(c.messages))
	s.Waiting += c.waiting
	s.Events += of[counted] + of[altered]
	s.Duplicates += of[repeated]
	s.DeadLetters += of[dead]
	m.report.mu.Unlock()
	if !inWindow {
		m.mu.Lock()
		m.byKey = append(m.byKey, span{c.from, c.to, here})
		m.mu.Unlock()
	}
}

package audit

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"odometer"
	"odometer/billing"
	"odometer/ingest"
)

// outcome is what a message became.
type outcome byte

const (
	pending    outcome = iota // not known yet
	counted                   // an event
	altered                   // an event that does not say what the message says
	duplicate                 // a duplicate of an event
	deadLetter                // a dead letter
	missing                   // nothing
)

// compareChunk finds out, in one snapshot, what a chunk's messages became, and
// which events of its range have no message.
func (a *auditor) compareChunk(ctx context.Context, c *chunk) error {
	for i := range c.messages {
		m := &c.messages[i]
		if m.event, m.reject = ingest.Decode(m.Message); m.reject == nil {
			m.id = m.event.ID()
		}
	}
	err := pgx.BeginTxFunc(ctx, a.options.Pool, readOnly, func(tx pgx.Tx) error {
		if err := a.matchEvents(ctx, tx, c); err != nil {
			return err
		}
		if err := a.matchDeadLetters(ctx, tx, c); err != nil {
			return err
		}
		if err := a.matchKeys(ctx, tx, c); err != nil {
			return err
		}
		return a.reportMissing(ctx, tx, c)
	})
	if err != nil {
		return fmt.Errorf("compare messages %d to %d: %w", c.from, c.to, err)
	}
	a.report.addMessages(c)
	return nil
}

// Whether statistics are old or absent, only the index may be used: a scan of
// the whole table for every chunk would never end.
const indexOnlySQL = `set local enable_seqscan = off`

// Sequences are used again after a lost tail, so events of earlier epochs come
// along; isExtra knows them by their epoch.
const eventsSQL = `
select` + storedEventColumns + `
from usage_events e
where e.stream_seq between $1 and $2
  and ($3::uuid is null or e.tenant_id = $3)`

// matchEvents compares the events of the chunk's range with its messages.
func (a *auditor) matchEvents(ctx context.Context, tx pgx.Tx, c *chunk) error {
	if _, err := tx.Exec(ctx, indexOnlySQL); err != nil {
		return err
	}
	rows, err := tx.Query(ctx, eventsSQL, binaryRows, c.from, c.to, a.scope.Tenant)
	if err != nil {
		return err
	}
	defer rows.Close()
	var e storedEvent
	for rows.Next() {
		e.scan(rows.RawValues())
		m := c.find(e.Seq)
		if m != nil && m.reject == nil && e.madeOf(m) {
			a.compareEvent(m, &e)
			continue
		}
		extra, err := a.isExtra(ctx, m, &e)
		if err != nil {
			return err
		}
		if extra {
			a.reportExtra(&e)
		}
	}
	return rows.Err()
}

// compareEvent compares a message with the event that was made of it.
func (a *auditor) compareEvent(m *message, e *storedEvent) {
	m.outcome = counted
	field, expected, found := e.differs(m)
	if field == "" {
		return
	}
	m.outcome = altered
	d := e.counter(m.event.Agent).difference(EventChanged)
	d.Where, d.Cause = a.at.label(e.Seq), "the row was changed after it was counted"
	d.Expected, d.Found = field+" "+expected, field+" "+found
	d.Repair = byHand("no repair is defined: the message is right; delete the row with event_id %s, then: odometer replay --from-seq %d --tenant %s",
		uuid.UUID(e.id), e.Seq, d.Tenant)
	a.report.addDifference(streamEvents, d)
}

// isExtra reports whether an event that the message at its sequence does not
// account for should not exist. m is nil when the chunk has no message there.
func (a *auditor) isExtra(ctx context.Context, m *message, e *storedEvent) (bool, error) {
	switch {
	case e.Seq > a.at.read(a.at.partitionOf(e.tenant)):
		return false, nil // it was counted after the positions were read
	case e.Epoch < a.at.epochs.Of(e.Seq).Epoch:
		a.report.addUnknown(streamEvents, 1, "events of a tail that the stream has lost: they stay counted, and no message proves them")
		return false, nil
	case m != nil:
		return true, nil
	}
	// Only a gap, and what leaves the stream by age while it is read, has no message.
	stored, err := ingest.StoredTime(ctx, a.options.NATS, e.Seq)
	if err == nil && stored == nil {
		a.report.addUnknown(streamEvents, 1, "events whose messages have left the stream")
	}
	return stored != nil, err
}

func (a *auditor) reportExtra(e *storedEvent) {
	d := e.counter(string(e.agent)).difference(EventWithoutMessage)
	d.Where = fmt.Sprintf("%s, key %q", a.at.label(e.Seq), e.key)
	d.Expected, d.Found = "no event", fmt.Sprintf("an event of %d units", e.quantity)
	d.Cause = "the row was written by hand, or its tenant, key or position was changed"
	d.Repair = byHand("no repair is defined: no message of the stream says this; delete the row with event_id %s if nobody can account for it, then: odometer replay --from-seq %d --tenant %s",
		uuid.UUID(e.id), e.Seq, d.Tenant)
	a.report.addDifference(streamEvents, d)
}

// deadRow is a dead letter of the chunk's range.
type deadRow struct {
	odometer.Position
	state    string
	received time.Time
	payload  []byte
}

const deadLettersSQL = `
select stream_epoch, stream_seq, state, received_at, payload
from dead_letters
where stream_epoch = any($1)
  and stream_seq between $2 and $3`

// matchDeadLetters finds the messages that are dead letters. A dead letter that
// was retried, or found to be a duplicate then, must be an event or repeat one.
func (a *auditor) matchDeadLetters(ctx context.Context, tx pgx.Tx, c *chunk) error {
	epochs := make([]int32, len(a.at.epochs))
	for i, e := range a.at.epochs {
		epochs[i] = e.Epoch
	}
	rows, _ := tx.Query(ctx, deadLettersSQL, epochs, c.from, c.to)
	var d deadRow
	_, err := pgx.ForEachRow(rows, []any{&d.Epoch, &d.Seq, &d.state, &d.received, &d.payload}, func() error {
		m := c.find(d.Seq)
		if m != nil && (d.Epoch == m.Position.Epoch || d.received.Equal(m.StoredAt)) {
			a.compareDeadLetter(m, &d)
		}
		return nil
	})
	return err
}

func (a *auditor) compareDeadLetter(m *message, row *deadRow) {
	retried := row.state == "retried" || row.state == "duplicate"
	isEvent := m.outcome == counted || m.outcome == altered
	if m.outcome == pending && (!retried || m.reject != nil) {
		m.outcome = deadLetter
	}
	d := Difference{Tenant: tenantOf(m), Agent: m.event.Agent, Where: fmt.Sprintf("dead letter %d-%d", row.Epoch, row.Seq)}
	switch {
	case !bytes.Equal(row.payload, m.Data) || !row.received.Equal(m.StoredAt):
		d.Kind, d.Cause = DeadLetterChanged, "the row was changed after it was written"
		d.Expected = fmt.Sprintf("the message's %d bytes, stored %s", len(m.Data), m.StoredAt.Format(time.RFC3339Nano))
		d.Found = fmt.Sprintf("%d bytes, stored %s", len(row.payload), row.received.UTC().Format(time.RFC3339Nano))
		d.Repair = byHand("no repair is defined: the message is right; delete the row, then: odometer replay --from-seq %d", row.Seq)
	case isEvent && !retried && row.Epoch == m.Position.Epoch:
		d.Kind, d.Cause = DeadLetterCounted, "its row was written, or its state changed, by hand"
		d.Expected, d.Found = "an event or a dead letter", "both, the dead letter "+row.state
		d.Repair = command("deadletters", "discard", fmt.Sprintf("%d-%d", row.Epoch, row.Seq), "--why", "it is an event")
	default:
		return
	}
	a.report.addDifference(streamEvents, d)
}

// tenantOf is a message's tenant, nil when it names none.
func tenantOf(m *message) *uuid.UUID {
	if m.event.Tenant == uuid.Nil {
		return nil
	}
	return &m.event.Tenant
}

const keysSQL = `
select k.ord,` + storedEventColumns + `
from unnest($1::uuid[], $2::uuid[]) with ordinality as k (tenant_id, event_id, ord)
join usage_events e on e.tenant_id = k.tenant_id and e.event_id = k.event_id`

// matchKeys finds the duplicates among the messages that are nothing yet.
func (a *auditor) matchKeys(ctx context.Context, tx pgx.Tx, c *chunk) error {
	var tenants, ids [][16]byte
	var asked []*message
	for i := range c.messages {
		m := &c.messages[i]
		if m.outcome == pending && m.reject == nil {
			tenants, ids, asked = append(tenants, m.event.Tenant), append(ids, m.id), append(asked, m)
		}
	}
	if len(asked) == 0 {
		return nil
	}
	rows, err := tx.Query(ctx, keysSQL, binaryRows, tenants, ids)
	if err != nil {
		return err
	}
	defer rows.Close()
	var e storedEvent
	for rows.Next() {
		values := rows.RawValues()
		e.scan(values[1:])
		m := asked[binary.BigEndian.Uint64(values[0])-1]
		if m.outcome = duplicate; !e.repeatedBy(&m.event) {
			m.outcome = altered
			a.reportConflict(m, &e)
		}
	}
	return rows.Err()
}

// reportConflict reports a message that says other than the event with its key,
// and is no dead letter.
func (a *auditor) reportConflict(m *message, e *storedEvent) {
	d := e.counter(m.event.Agent).difference(EventChanged)
	d.Where = fmt.Sprintf("%s, key %q", a.at.label(m.seq()), m.event.Key)
	d.Expected = fmt.Sprintf("agent %s, action_type %s, quantity %d, as its repeat says", m.event.Agent, m.event.Action, m.event.Quantity)
	d.Found = fmt.Sprintf("agent %s, action_type %s, quantity %d, stored at %d-%d", e.agent, e.action, e.quantity, e.Epoch, e.Seq)
	d.Cause = "the event was changed after this message was found to repeat it, or the dead letter of a conflict was deleted"
	d.Repair = command("replay", "--from-seq", fmt.Sprint(m.seq()), "--tenant", d.Tenant.String()).
		note(" (books the conflict); a changed event: see its own message")
	a.report.addDifference(streamEvents, d)
}

// reportMissing reports the messages that are no event, no duplicate and no
// dead letter.
func (a *auditor) reportMissing(ctx context.Context, tx pgx.Tx, c *chunk) error {
	for i := range c.messages {
		m := &c.messages[i]
		if m.outcome != pending {
			continue
		}
		m.outcome = missing
		d := Difference{
			Kind: EventMissing, Tenant: tenantOf(m), Agent: m.event.Agent, Where: a.at.label(m.seq()),
			Expected: "a dead letter", Found: "nothing", Cause: "its row was deleted",
		}
		args := []string{"replay"} // from the first message on: a repeat must not be counted in its original's place
		if d.Tenant != nil {
			args = append(args, "--tenant", d.Tenant.String())
		}
		d.Repair = command(args...)
		if m.reject == nil {
			d.Where += fmt.Sprintf(", key %q", m.event.Key)
			d.Expected = fmt.Sprintf("an event of %d units, or a dead letter", m.event.Quantity)
			var err error
			if d.Period, err = a.periodOf(ctx, tx, m); err != nil {
				return err
			}
		}
		a.report.addDifference(streamEvents, d)
	}
	return nil
}

// periodOf is the start of the period that a message's event would be in, nil
// when there is none, or when the report lists no more differences.
func (a *auditor) periodOf(ctx context.Context, tx pgx.Tx, m *message) (*time.Time, error) {
	if a.report.full() {
		return nil, nil
	}
	tenant, err := billing.Load(ctx, tx, m.event.Tenant)
	if errors.Is(err, billing.ErrNoSubscription) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if p := odometer.PeriodFor(tenant.Periods, m.event.OccurredAt, m.event.Position); p != nil {
		return &p.Start, nil
	}
	return nil, nil
}

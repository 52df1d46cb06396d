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
)

// letter is a dead letter of the span.
type letter struct {
	odometer.Position
	State    string
	Received time.Time
	Payload  []byte
}

const lettersSQL = `
select stream_epoch, stream_seq, state, received_at, payload
from dead_letters
where stream_epoch = any($1)
  and stream_seq between $2 and $3`

// matchDead finds the messages that are dead letters. One that was retried, or
// found to be a duplicate then, must be an event or repeat one.
func (m *matcher) matchDead(ctx context.Context, tx pgx.Tx, c *chunk) error {
	epochs := make([]int32, len(m.at.epochs))
	for i, e := range m.at.epochs {
		epochs[i] = e.Epoch
	}
	rows, _ := tx.Query(ctx, lettersSQL, epochs, c.from, c.to)
	var l letter
	_, err := pgx.ForEachRow(rows, []any{&l.Epoch, &l.Seq, &l.State, &l.Received, &l.Payload}, func() error {
		msg := c.find(l.Seq)
		if msg != nil && (l.Epoch == msg.Position.Epoch || l.Received.Equal(msg.StoredAt)) {
			m.bury(c, msg, &l)
		}
		return nil
	})
	return err
}

func (m *matcher) bury(c *chunk, msg *message, l *letter) {
	settled := l.State == "retried" || l.State == "duplicate"
	was := msg.outcome
	if was == pending && (!settled || msg.reject != nil) {
		msg.outcome = dead
	}
	if c.strays {
		return
	}
	d := Difference{Tenant: tenantOf(msg), Agent: msg.event.Agent, Where: fmt.Sprintf("dead letter %d-%d", l.Epoch, l.Seq)}
	switch {
	case !bytes.Equal(l.Payload, msg.Data) || !l.Received.Equal(msg.StoredAt):
		d.Kind, d.Cause = DeadChanged, "the row was changed after it was written"
		d.Expected, d.Found = fmt.Sprintf("the message's %d bytes, stored %s", len(msg.Data), msg.StoredAt.Format(time.RFC3339Nano)),
			fmt.Sprintf("%d bytes, stored %s", len(l.Payload), l.Received.UTC().Format(time.RFC3339Nano))
		d.Repair = byHand("no repair is defined: the message is right; delete the row, then: odometer replay --from-seq %d", l.Seq)
		m.report.differs(streamEvents, d)
	case (was == counted || was == altered) && !settled && l.Epoch == msg.Position.Epoch:
		d.Kind, d.Cause = DeadCounted, "its row was written, or its state changed, by hand"
		d.Expected, d.Found = "an event or a dead letter", "both, the dead letter "+l.State
		d.Repair = command("deadletters", "discard", fmt.Sprintf("%d-%d", l.Epoch, l.Seq), "--why", "it is an event")
		m.report.differs(streamEvents, d)
	}
}

func tenantOf(msg *message) *uuid.UUID {
	if msg.event.Tenant == uuid.Nil {
		return nil
	}
	return &msg.event.Tenant
}

const keysSQL = `
select k.ord,` + recordColumns + `
from unnest($1::uuid[], $2::uuid[]) with ordinality as k (tenant_id, event_id, ord)
join usage_events e on e.tenant_id = k.tenant_id and e.event_id = k.event_id`

// matchKeys asks for the keys of the messages that are nothing yet: repeats,
// and events outside of their window.
func (m *matcher) matchKeys(ctx context.Context, tx pgx.Tx, c *chunk) (found []difference, err error) {
	var tenants, ids [][16]byte
	var asked []*message
	for i := range c.messages {
		msg := &c.messages[i]
		if msg.outcome == pending && msg.reject == nil {
			tenants, ids, asked = append(tenants, msg.event.Tenant), append(ids, msg.id), append(asked, msg)
		}
	}
	if len(asked) == 0 {
		return nil, nil
	}
	rows, err := tx.Query(ctx, keysSQL, binaryRows, tenants, ids)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var r record
	for rows.Next() {
		values := rows.RawValues()
		r.scan(values[1:])
		msg := asked[binary.BigEndian.Uint64(values[0])-1]
		switch {
		case r.of(msg):
			found = m.own(c, msg, &r, found)
		case r.says(&msg.event):
			msg.outcome = repeated
		default:
			msg.outcome = altered
			found = append(found, m.unlike(msg, &r))
		}
	}
	return found, rows.Err()
}

// unlike is a message that says other than the event with its key, and is no
// dead letter.
func (m *matcher) unlike(msg *message, r *record) difference {
	period := r.period
	return difference{Difference: Difference{
		Kind: EventChanged, Tenant: r.tenantID(), Agent: msg.event.Agent, Period: &period,
		Where:    fmt.Sprintf("%s, key %q", m.at.position(msg.seq()), msg.event.Key),
		Expected: fmt.Sprintf("agent %s, action_type %s, quantity %d, as its repeat says", msg.event.Agent, msg.event.Action, msg.event.Quantity),
		Found:    fmt.Sprintf("agent %s, action_type %s, quantity %d, stored at %d-%d", r.agent, r.action, r.quantity, r.Epoch, r.Seq),
		Cause:    "the event was changed after this message was found to repeat it, or the dead letter of a conflict was deleted",
		Repair: command("replay", "--from-seq", fmt.Sprint(msg.seq()), "--tenant", uuid.UUID(r.tenant).String()).
			note(" (books the conflict); a changed event: see its own message"),
	}}
}

// settle books what is left: what has no event, no repeat and no dead letter.
func (m *matcher) settle(ctx context.Context, tx pgx.Tx, c *chunk, found []difference) error {
	if !c.strays {
		more, err := m.matchKeys(ctx, tx, c)
		if err != nil {
			return err
		}
		found = append(found, more...)
		for i := range c.messages {
			if msg := &c.messages[i]; msg.outcome == pending {
				msg.outcome = forgotten
				found = append(found, m.missing(msg))
			}
		}
	}
	for _, d := range found {
		if d.msg != nil && d.Tenant != nil && d.Period == nil {
			if err := m.findPeriod(ctx, tx, &d); err != nil {
				return err
			}
		}
		m.report.differs(streamEvents, d.Difference)
	}
	return nil
}

func (m *matcher) missing(msg *message) difference {
	d := difference{msg: msg, Difference: Difference{
		Kind: EventMissing, Tenant: tenantOf(msg), Agent: msg.event.Agent, Where: m.at.position(msg.seq()),
		Expected: "a dead letter", Found: "nothing",
		Cause: "its row was deleted",
	}}
	if msg.reject == nil {
		d.Where += fmt.Sprintf(", key %q", msg.event.Key)
		d.Expected = fmt.Sprintf("an event of %d units, or a dead letter", msg.event.Quantity)
	} else {
		d.msg = nil
	}
	args := []string{"replay"} // from the first message on: a repeat must not be counted in its original's place
	if d.Tenant != nil {
		args = append(args, "--tenant", d.Tenant.String())
	}
	d.Repair = command(args...)
	return d
}

// findPeriod names the period that an event would be in.
func (m *matcher) findPeriod(ctx context.Context, tx pgx.Tx, d *difference) error {
	if m.report.listed() >= maxListed {
		return nil
	}
	tenant, err := billing.Load(ctx, tx, *d.Tenant)
	if errors.Is(err, billing.ErrNoSubscription) {
		return nil
	}
	if err != nil {
		return err
	}
	if p := odometer.PeriodFor(tenant.Periods, d.msg.event.OccurredAt, d.msg.event.Position); p != nil {
		d.Period = &p.Start
	}
	return nil
}

func (r *Report) listed() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.Differences)
}

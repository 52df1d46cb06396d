package aggregator

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"odometer"
)

// sortOut tells the new events from repeats and conflicts. Only a batch that
// holds messages which were not inserted needs to ask.
func (w *worker) sortOut(ctx context.Context, conn *pgx.Conn, j *judged, fresh int, t *tally) error {
	rest := make([]*item, 0, len(j.events)+len(j.homeless))
	for _, p := range j.events {
		rest = append(rest, p.item)
	}
	if fresh == len(j.events) && len(j.homeless) == 0 {
		t.counted = rest
		return nil
	}
	rest = append(rest, j.homeless...)
	claims, err := loadClaims(ctx, conn, rest)
	if err != nil {
		return err
	}
	for n, i := range rest {
		claim, claimed := claims[n]
		homeless := n >= len(j.events)
		switch {
		case homeless && (!claimed || claim.after(i)):
			t.dead = append(t.dead, deadLetter{i, odometer.Rejection{
				Reason: odometer.NoBillingPeriod, Detail: w.terms.homelessness(&i.event)}})
		case !claimed:
			t.counted = append(t.counted, i)
		case claim.Reread:
			t.reread++
			t.duplicates++
		case claim.Same:
			t.duplicates++
		default:
			t.dead = append(t.dead, deadLetter{i, claim.conflict(i)})
		}
	}
	if len(t.counted) != fresh {
		return fmt.Errorf("count partition %d: %d events were inserted, %d messages say they were", w.partition, fresh, len(t.counted))
	}
	return nil
}

// claim is the stored event that has a message's key.
type claim struct {
	Ord      int
	Reread   bool // it was this very message
	Same     bool // it says the same
	Epoch    int32
	Seq      int64
	Agent    string
	Action   string
	Resource *string
	Quantity int64
}

// after reports whether the key was claimed only after the message.
func (c claim) after(i *item) bool {
	return odometer.Position{Epoch: c.Epoch, Seq: c.Seq}.After(i.event.Position)
}

// conflict says in what the message differs from the event that has its key.
func (c claim) conflict(i *item) odometer.Rejection {
	e := &i.event
	differs := func() string {
		switch {
		case c.Agent != e.Agent:
			return fmt.Sprintf("agent %s there, %s here", c.Agent, e.Agent)
		case c.Action != e.Action:
			return fmt.Sprintf("action_type %s there, %s here", c.Action, e.Action)
		case c.Quantity != e.Quantity:
			return fmt.Sprintf("quantity %d there, %d here", c.Quantity, e.Quantity)
		default:
			return fmt.Sprintf("resource_id %s there, %s here", quoted(c.Resource), quoted(e.Resource))
		}
	}
	return odometer.Rejection{
		Reason: odometer.IdempotencyConflict,
		Detail: fmt.Sprintf("idempotency_key %q belongs to the event at %d-%d: %s", e.Key, c.Epoch, c.Seq, differs()),
	}
}

func quoted(s *string) string {
	if s == nil {
		return "null"
	}
	return fmt.Sprintf("%q", *s)
}

// Rows that this transaction has inserted from the very message are the new
// events; every other row with the key had it first.
const claimsSQL = `
select
    b.ord::integer,
    e.stream_seq = b.stream_seq and e.recorded_at = b.recorded_at as reread,
    (e.agent, e.action_type, e.quantity) = (b.agent, b.action_type, b.quantity)
        and e.resource_id is not distinct from b.resource_id as same,
    e.stream_epoch as epoch,
    e.stream_seq as seq,
    e.agent,
    e.action_type as action,
    e.resource_id as resource,
    e.quantity
from unnest(
    $1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::timestamptz[], $8::bigint[]
) with ordinality as b (
    tenant_id, event_id, agent, action_type, resource_id, quantity, recorded_at, stream_seq, ord
)
join usage_events e on e.tenant_id = b.tenant_id and e.event_id = b.event_id
where not (e.xmin = pg_current_xact_id()::xid and e.stream_seq = b.stream_seq)`

// loadClaims finds, by index into items, the stored events that have their
// keys and are not what this transaction made of them.
func loadClaims(ctx context.Context, conn *pgx.Conn, items []*item) (map[int]claim, error) {
	c := newColumns(len(items))
	for _, i := range items {
		c.add(i, time.Time{})
	}
	rows, _ := conn.Query(ctx, claimsSQL, c.tenant, c.id, c.agent, c.action, c.resource, c.quantity, c.recorded, c.seq)
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[claim])
	if err != nil {
		return nil, fmt.Errorf("compare repeats among %d events: %w", len(items), err)
	}
	claims := make(map[int]claim, len(found))
	for _, f := range found {
		claims[f.Ord-1] = f
	}
	return claims, nil
}

package aggregator

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"odometer"
)

// setRepeatsAside takes out of a batch what repeats stored events, before the
// rest is inserted: among many repeats it is cheaper to look for a key than to
// try to insert it. What it misses the insert finds. Nothing here needs the
// transaction: keys of a partition are claimed only under its position's lock,
// so a claim that is seen once stands.
func (w *worker) setRepeatsAside(ctx context.Context, conn *pgx.Conn, events []placed, t *tally) ([]placed, error) {
	items := make([]*item, len(events))
	for n, p := range events {
		items[n] = p.item
	}
	claims, err := loadClaims(ctx, conn, items, len(items))
	if err != nil {
		return nil, err
	}
	rest := events[:0:0]
	for n, p := range events {
		if !t.settle(p.item, claims, n) {
			rest = append(rest, p)
		}
	}
	return rest, nil
}

// sortOut tells the new events from repeats and conflicts. Only a batch that
// holds messages which were not inserted needs to ask.
func (w *worker) sortOut(ctx context.Context, conn *pgx.Conn, events []placed, homeless []*item, fresh int, t *tally) error {
	rest := make([]*item, 0, len(events)+len(homeless))
	for _, p := range events {
		rest = append(rest, p.item)
	}
	if fresh == len(events) && len(homeless) == 0 {
		t.counted = rest
		return nil
	}
	rest = append(rest, homeless...)
	claims, err := loadClaims(ctx, conn, rest, len(events))
	if err != nil {
		return err
	}
	for n, i := range rest {
		switch {
		case t.settle(i, claims, n):
		case n < len(events):
			t.counted = append(t.counted, i)
		default:
			t.dead = append(t.dead, w.unhoused(i))
		}
	}
	if len(t.counted) != fresh {
		return fmt.Errorf("count partition %d: %d events were inserted, %d messages say they were", w.partition, fresh, len(t.counted))
	}
	return nil
}

// settle books the n-th message by its claim; false when it has none.
func (t *tally) settle(i *item, c *claims, n int) bool {
	switch c.of[n] {
	case reread:
		t.reread++
		t.duplicates++
	case repeated:
		t.duplicates++
	case conflicting:
		t.dead = append(t.dead, deadLetter{i, c.holders[n].conflict(i)})
	default:
		return false
	}
	return true
}

// claim says how a message stands to the stored event that has its key.
type claim byte

const (
	unclaimed   claim = iota // there is none, or this transaction made it of the message
	reread                   // it was made of this very message, in another reading
	repeated                 // it says the same
	conflicting              // it says something else
)

// claims are those of a batch, by index into its items.
type claims struct {
	of      []claim
	holders map[int]holder // of conflicting ones
}

// holder is an event that has a key which another message wants.
type holder struct {
	Ord      int
	Epoch    int32
	Seq      int64
	Agent    string
	Action   string
	Resource *string
	Quantity int64
}

// conflict says in what the message differs from the event that has its key.
func (c holder) conflict(i *item) odometer.Rejection {
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
// events; every other row with the key had it first. A message without a
// period ($9 of them have one) is dead where the key was claimed only later.
// Repeats come in masses and conflicts singly, so only these tell what they say.
const claimsSQL = `
with claimed as materialized (
    select
        b.ord::integer,
        case
            when e.stream_seq = b.stream_seq and e.recorded_at = b.recorded_at then 'reread'
            when e.quantity = b.quantity
                and e.agent = b.agent
                and e.action_type = b.action_type
                and e.resource_id is not distinct from b.resource_id then 'repeated'
            else 'conflicting'
        end as claim,
        e.stream_epoch as epoch,
        e.stream_seq as seq,
        e.agent,
        e.action_type as action,
        e.resource_id as resource,
        e.quantity
    from unnest(
        $1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::timestamptz[],
        $8::integer[], $10::bigint[]
    ) with ordinality as b (
        tenant_id, event_id, agent, action_type, resource_id, quantity, recorded_at, stream_epoch, stream_seq, ord
    )
    join usage_events e on e.tenant_id = b.tenant_id and e.event_id = b.event_id
    where not (e.xmin = pg_current_xact_id()::xid and e.stream_seq = b.stream_seq)
      and not (b.ord > $9 and (e.stream_epoch, e.stream_seq) > (b.stream_epoch, b.stream_seq))
)
select
    array(select ord from claimed where claim = 'reread'),
    array(select ord from claimed where claim = 'repeated'),
    coalesce(
        (select jsonb_agg(to_jsonb(c) - 'claim') from claimed c where c.claim = 'conflicting'),
        '[]'
    )`

// loadClaims finds the stored events that have the items' keys and are not
// what this transaction made of them. The first settled items have a period.
func loadClaims(ctx context.Context, conn *pgx.Conn, items []*item, settled int) (*claims, error) {
	c := newColumns(len(items))
	for _, i := range items {
		c.add(i, time.Time{})
	}
	takeColumns(conn)
	var same, again []int32
	var conflicts []holder
	err := conn.QueryRow(ctx, claimsSQL,
		&c.tenant, &c.id, &c.agent, &c.action, &c.resource, &c.quantity, &c.recorded, &c.epoch, settled, &c.seq,
	).Scan(&again, &same, &conflicts)
	if err != nil {
		return nil, fmt.Errorf("compare repeats among %d events: %w", len(items), err)
	}
	found := &claims{of: make([]claim, len(items)), holders: map[int]holder{}}
	for _, ord := range again {
		found.of[ord-1] = reread
	}
	for _, ord := range same {
		found.of[ord-1] = repeated
	}
	for _, h := range conflicts {
		found.of[h.Ord-1] = conflicting
		found.holders[h.Ord-1] = h
	}
	return found, nil
}

package apply

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"odometer"
)

// DropKnownDuplicates takes out of a batch what repeats stored events, before
// the rest is inserted: among many duplicates it is cheaper to look for a key
// than to try to insert it. What it misses Insert finds. It needs no
// transaction: keys of a partition are inserted only under its position's lock
// and stay, so an owner that is seen once remains the owner.
func (a *Applier) DropKnownDuplicates(ctx context.Context, conn *pgx.Conn, b *Batch) error {
	owners, err := loadKeyOwners(ctx, conn, b)
	if err != nil {
		return err
	}
	events, noPeriod := b.Events, b.NoPeriod
	b.Events, b.NoPeriod = nil, nil
	for n, i := range events {
		if !b.resolve(i, owners, n) {
			b.Events = append(b.Events, i)
		}
	}
	for n, i := range noPeriod {
		if !b.resolve(i, owners, len(events)+n) {
			b.NoPeriod = append(b.NoPeriod, i)
		}
	}
	return nil
}

// resolveConflicts separates the new events, of which Insert has inserted fresh,
// from duplicates and conflicts. A batch whose events were all inserted needs no
// query for that.
func (a *Applier) resolveConflicts(ctx context.Context, conn *pgx.Conn, b *Batch, fresh int) error {
	if fresh == len(b.Events) && len(b.NoPeriod) == 0 {
		b.Inserted = b.Events
		return nil
	}
	owners, err := loadKeyOwners(ctx, conn, b)
	if err != nil {
		return err
	}
	for n, i := range b.Events {
		if !b.resolve(i, owners, n) {
			b.Inserted = append(b.Inserted, i)
		}
	}
	for n, i := range b.NoPeriod {
		if !b.resolve(i, owners, len(b.Events)+n) {
			b.Dead = append(b.Dead, a.NoPeriod(i))
		}
	}
	if len(b.Inserted) != fresh {
		return fmt.Errorf("count partition %d: %d events were inserted, but %d messages have no other owner of their key", a.Partition, fresh, len(b.Inserted))
	}
	return nil
}

// resolve records what the n-th item is by the owner of its key; false when
// nobody else owns it.
func (b *Batch) resolve(i *Item, owners *keyOwners, n int) bool {
	switch owners.ownership[n] {
	case reread:
		b.Reread++
		b.Duplicates++
	case repeated:
		b.Duplicates++
	case conflicting:
		b.Dead = append(b.Dead, DeadLetter{i, owners.conflicts[n].conflict(i)})
	default:
		return false
	}
	return true
}

// ownership says how an item relates to the stored event that owns its key.
type ownership byte

const (
	unowned     ownership = iota // there is none, or this transaction made it of the item
	reread                       // it was made of this very message, in another reading
	repeated                     // it has the same content
	conflicting                  // it has other content
)

// keyOwners are the owners of a batch's keys, by index into its events and then
// its items without a period.
type keyOwners struct {
	ownership []ownership
	conflicts map[int]keyOwner
}

// keyOwner is an event whose key another message with other content has, too.
type keyOwner struct {
	Ord      int
	Epoch    int32
	Seq      int64
	Agent    string
	Action   string
	Resource *string
	Quantity int64
}

// conflict says in what the message differs from the event that owns its key.
func (o keyOwner) conflict(i *Item) odometer.Rejection {
	e := &i.Event
	differs := func() string {
		switch {
		case o.Agent != e.Agent:
			return fmt.Sprintf("agent %s there, %s here", o.Agent, e.Agent)
		case o.Action != e.Action:
			return fmt.Sprintf("action_type %s there, %s here", o.Action, e.Action)
		case o.Quantity != e.Quantity:
			return fmt.Sprintf("quantity %d there, %d here", o.Quantity, e.Quantity)
		default:
			return fmt.Sprintf("resource_id %s there, %s here", quoted(o.Resource), quoted(e.Resource))
		}
	}
	return odometer.Rejection{
		Reason: odometer.IdempotencyConflict,
		Detail: fmt.Sprintf("idempotency_key %q belongs to the event at %d-%d: %s", e.Key, o.Epoch, o.Seq, differs()),
	}
}

func quoted(s *string) string {
	if s == nil {
		return "null"
	}
	return fmt.Sprintf("%q", *s)
}

// Rows that this transaction has inserted from the very message are the new
// events; every other row with the key owns it. A message of the stream without
// a period (those after the first $9) does not repeat an event that lies after
// it: it is dead, and the later message is the first that counts. Duplicates
// come in masses and conflicts singly, so only conflicts return their content.
const keyOwnersSQL = `
with owned as materialized (
    select
        b.ord::integer,
        case
            when e.stream_seq = b.stream_seq and e.recorded_at = b.recorded_at then 'reread'
            when e.quantity = b.quantity
                and e.agent = b.agent
                and e.action_type = b.action_type
                and e.resource_id is not distinct from b.resource_id then 'repeated'
            else 'conflicting'
        end as ownership,
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
    array(select ord from owned where ownership = 'reread'),
    array(select ord from owned where ownership = 'repeated'),
    coalesce(
        (select jsonb_agg(to_jsonb(o) - 'ownership') from owned o where o.ownership = 'conflicting'),
        '[]'
    )`

// loadKeyOwners finds the stored events that own the keys of a batch's items and
// are not what this transaction made of them.
func loadKeyOwners(ctx context.Context, conn *pgx.Conn, b *Batch) (*keyOwners, error) {
	n := len(b.Events) + len(b.NoPeriod)
	c := newColumns(n)
	anyOwner := len(b.Events)
	for _, i := range b.Events {
		c.add(i)
	}
	for _, i := range b.NoPeriod {
		c.add(i)
		if i.Retry != nil && i.Retry.Now { // it comes after everything that counts
			anyOwner = n
		}
	}
	registerColumns(conn)
	var rereads, repeats []int32
	var conflicts []keyOwner
	err := conn.QueryRow(ctx, keyOwnersSQL,
		&c.tenant, &c.id, &c.agent, &c.action, &c.resource, &c.quantity, &c.recorded, &c.epoch, anyOwner, &c.seq,
	).Scan(&rereads, &repeats, &conflicts)
	if err != nil {
		return nil, fmt.Errorf("compare the keys of %d messages with stored events: %w", n, err)
	}
	found := &keyOwners{ownership: make([]ownership, n), conflicts: map[int]keyOwner{}}
	for _, ord := range rereads {
		found.ownership[ord-1] = reread
	}
	for _, ord := range repeats {
		found.ownership[ord-1] = repeated
	}
	for _, owner := range conflicts {
		found.ownership[owner.Ord-1] = conflicting
		found.conflicts[owner.Ord-1] = owner
	}
	return found, nil
}

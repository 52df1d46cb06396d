package subscriptions

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stripe/stripe-go/v76"
)

// pageSize is how many subscriptions are listed and compared at once, the most
// that Stripe gives.
const pageSize = 100

// Compared is what a comparison came to.
type Compared struct {
	Looked   int // subscriptions at Stripe
	Changed  int // that our books did not know so
	Findings int // that a person must look at
}

// comparison is one run of Compare.
type comparison struct {
	*Sync
	conn     *pgxpool.Conn
	page     []*stripe.Subscription
	figures  Compared
	first    error
	failures int // in a row
}

// Compare lists all subscriptions at Stripe and brings ours to theirs, whatever
// became of the hooks: the job `subscriptions`. Where nothing differs it locks
// and fetches nothing. A subscription that fails does not stop the others; the
// first error is returned.
func (s *Sync) Compare(ctx context.Context) (Compared, error) {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return Compared{}, fmt.Errorf("compare subscriptions: %w", err)
	}
	defer conn.Release()
	c := &comparison{Sync: s, conn: conn}
	if err := c.run(ctx); err != nil {
		return c.figures, fmt.Errorf("compare subscriptions: %w", err)
	}
	return c.figures, c.first
}

func (c *comparison) run(ctx context.Context) error {
	if err := makeListed(ctx, c.conn); err != nil {
		return err
	}
	defer dropListed(context.WithoutCancel(ctx), c.conn)
	err := c.list(ctx, "", func(sub *stripe.Subscription) error {
		if c.page = append(c.page, sub); len(c.page) < pageSize {
			return nil
		}
		return c.comparePage(ctx)
	})
	if err != nil {
		return err
	}
	if err := c.comparePage(ctx); err != nil {
		return err
	}
	return c.compareUnlisted(ctx)
}

// comparePage compares what was listed since the last one.
func (c *comparison) comparePage(ctx context.Context) error {
	if len(c.page) == 0 {
		return nil
	}
	b, err := load(ctx, c.conn, c.page...)
	if err != nil {
		return err
	}
	if err := addListed(ctx, c.conn, c.page); err != nil {
		return err
	}
	now := c.now()
	c.figures.Looked += len(c.page)
	for _, sub := range c.page {
		v := b.judge(sub, now)
		if v.kind == "" && len(v.set) == 0 && len(b.open[sub.ID]) == 0 {
			continue
		}
		if err := c.settleOne(ctx, sub.ID); err != nil {
			return err
		}
	}
	clear(c.page)
	c.page = c.page[:0]
	return nil
}

// settleOne settles a subscription that differs; it returns an error when
// there is no use in going on.
func (c *comparison) settleOne(ctx context.Context, id string) error {
	done, err := c.settleAlone(ctx, id, byJob)
	if done.changed && err == nil {
		c.figures.Changed++
	}
	if done.found && err == nil {
		c.figures.Findings++
	}
	if err == nil {
		err = c.lookBehind(ctx, done.over, byJob)
	}
	if err == nil {
		c.failures = 0
		return nil
	}
	if c.first == nil {
		c.first = fmt.Errorf("compare subscriptions: %w", err)
	}
	if c.failures++; c.failures >= maxFailures || ctx.Err() != nil {
		return err
	}
	return nil
}

// A table of the session: the list may be longer than memory should hold, and
// a transaction that lasts as long would hold up the vacuum.
const makeListedSQL = `
create temporary table listed (subscription text primary key)`

func makeListed(ctx context.Context, conn *pgxpool.Conn) error {
	if _, err := conn.Exec(ctx, makeListedSQL); err != nil {
		return fmt.Errorf("make the list of subscriptions: %w", err)
	}
	return nil
}

const dropListedSQL = `
drop table pg_temp.listed`

// dropListed leaves the connection as it was. One that cannot be cleaned is
// not used again.
func dropListed(ctx context.Context, conn *pgxpool.Conn) {
	if _, err := conn.Exec(ctx, dropListedSQL); err != nil {
		_ = conn.Conn().Close(ctx)
	}
}

const addListedSQL = `
insert into pg_temp.listed
select unnest($1::text[])
on conflict do nothing`

func addListed(ctx context.Context, conn *pgxpool.Conn, subs []*stripe.Subscription) error {
	ids := make([]string, len(subs))
	for i, sub := range subs {
		ids[i] = sub.ID
	}
	if _, err := conn.Exec(ctx, addListedSQL, ids); err != nil {
		return fmt.Errorf("note %d listed subscriptions: %w", len(ids), err)
	}
	return nil
}

// maxUnlisted bounds how many subscriptions are fetched one by one because the
// list lacks them. More are one mistake, like the key of another account.
const maxUnlisted = 100

const unlistedSQL = `
select stripe_subscription
from subscriptions s
where stripe_subscription <> ''
  and not exists (select from pg_temp.listed l where l.subscription = s.stripe_subscription)
order by updated_at desc
limit $1`

// compareUnlisted looks at what our books have and the list did not: made
// since, or gone.
func (c *comparison) compareUnlisted(ctx context.Context) error {
	rows, _ := c.conn.Query(ctx, unlistedSQL, maxUnlisted)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("find subscriptions that Stripe did not list: %w", err)
	}
	for _, id := range ids {
		if err := c.settleOne(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

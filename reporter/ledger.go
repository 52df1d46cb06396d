package reporter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// querier is a pool or a transaction.
type querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// A link for a target about which something is undecided is not stored: it is
// planned again when that is decided.
const insertLinksSQL = `
insert into overage_reports (
    tenant_id, agent, period_start, billed_period_start, revision, from_total, to_total, value,
    origin, sink, account, livemode, stripe_customer, meter, reported_at, identifier, generation,
    state, decided_at, detail
)
select
    l.tenant_id, l.agent, l.period_start, l.billed_period_start, l.revision, l.from_total, l.to_total, l.value,
    l.origin, l.sink, l.account, l.livemode, l.stripe_customer, l.meter, l.reported_at, l.identifier, l.generation,
    l.state, l.decided_at, nullif(l.detail, '')
from unnest(
    $1::uuid[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::integer[], $6::bigint[], $7::bigint[], $8::bigint[],
    $9::text[], $10::text[], $11::text[], $12::boolean[], $13::text[], $14::text[], $15::timestamptz[], $16::text[], $17::bigint[],
    $18::text[], $19::timestamptz[], $20::text[]
) as l (
    tenant_id, agent, period_start, billed_period_start, revision, from_total, to_total, value,
    origin, sink, account, livemode, stripe_customer, meter, reported_at, identifier, generation,
    state, decided_at, detail
)
on conflict (account, livemode, stripe_customer, meter) where state in ('planned', 'sending', 'unknown') do nothing
returning identifier`

// insertLinks stores links and returns those that were.
func insertLinks(ctx context.Context, q querier, links []*Link) ([]*Link, error) {
	if len(links) == 0 {
		return nil, nil
	}
	var c linkColumnsOf
	for _, l := range links {
		l.identify()
		c.add(l)
	}
	rows, _ := q.Query(ctx, insertLinksSQL, c.tenant, c.agent, c.period, c.billed, c.revision, c.from, c.to, c.value,
		c.origin, c.sink, c.account, c.livemode, c.customer, c.meter, c.reportedAt, c.identifier, c.generation,
		c.state, c.decided, c.detail)
	identifiers, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("store %d links of the ledger: %w", len(links), err)
	}
	isStored := make(map[string]bool, len(identifiers))
	for _, id := range identifiers {
		isStored[id] = true
	}
	var stored []*Link
	for _, l := range links {
		if isStored[l.Identifier] {
			stored = append(stored, l)
		}
	}
	return stored, nil
}

// linkColumnsOf are links as columns for unnest.
type linkColumnsOf struct {
	tenant                                                                   []uuid.UUID
	period, billed, reportedAt                                               []time.Time
	decided                                                                  []*time.Time
	agent, origin, sink, account, customer, meter, identifier, state, detail []string
	from, to, value, generation                                              []int64
	revision                                                                 []int
	livemode                                                                 []bool
}

func (c *linkColumnsOf) add(l *Link) {
	c.tenant = append(c.tenant, l.Tenant)
	c.agent = append(c.agent, l.Agent)
	c.period = append(c.period, l.Period)
	c.billed = append(c.billed, l.Billed)
	c.revision = append(c.revision, l.Revision)
	c.from = append(c.from, l.From)
	c.to = append(c.to, l.To)
	c.value = append(c.value, l.Value)
	c.origin = append(c.origin, l.Origin)
	c.sink = append(c.sink, string(l.Sink))
	c.account = append(c.account, l.Account)
	c.livemode = append(c.livemode, l.Livemode)
	c.customer = append(c.customer, l.Customer)
	c.meter = append(c.meter, l.Meter)
	c.reportedAt = append(c.reportedAt, l.ReportedAt)
	c.identifier = append(c.identifier, l.Identifier)
	c.generation = append(c.generation, l.Generation)
	c.state = append(c.state, string(l.State))
	c.decided = append(c.decided, l.Decided)
	c.detail = append(c.detail, l.Detail)
}

// errGone says that a link is no longer as it was read: somebody else has it.
var errGone = errors.New("the link was decided by somebody else")

// ungone takes a link that somebody else has decided for done.
func ungone(err error) error {
	if errors.Is(err, errGone) {
		return nil
	}
	return err
}

const markSendingSQL = `
update overage_reports
set state = 'sending',
    attempts = attempts + 1,
    first_attempt_at = coalesce(first_attempt_at, $3),
    last_attempt_at = $3
where identifier = $1
  and state = $2`

// markSending commits that a call is about to be made.
func markSending(ctx context.Context, q querier, l *Link, now time.Time) error {
	tag, err := q.Exec(ctx, markSendingSQL, l.Identifier, l.State, now)
	if err != nil {
		return fmt.Errorf("mark link %s as sending: %w", l.Identifier, err)
	}
	if tag.RowsAffected() == 0 {
		return errGone
	}
	return nil
}

const unmarkSQL = `
update overage_reports
set state = $2,
    attempts = $3,
    first_attempt_at = $4,
    last_attempt_at = $5
where identifier = $1
  and state = 'sending'
  and attempts = $3 + 1`

// unmark takes a mark back after a call that certainly changed nothing.
func unmark(ctx context.Context, q querier, before *Link) error {
	_, err := q.Exec(ctx, unmarkSQL, before.Identifier, before.State, before.Attempts, before.FirstAttempt, before.LastAttempt)
	if err != nil {
		return fmt.Errorf("take back the mark of link %s: %w", before.Identifier, err)
	}
	return nil
}

const decideSQL = `
update overage_reports
set state = $2,
    detail = nullif($3, ''),
    retry_at = $4,
    absent_since = $5,
    decided_at = $6
where identifier = $1
  and state in ('planned', 'sending', 'unknown')`

// decide stores what became of an undecided link: its State, Detail, RetryAt,
// AbsentSince and Decided.
func decide(ctx context.Context, q querier, l *Link) error {
	tag, err := q.Exec(ctx, decideSQL, l.Identifier, l.State, l.Detail, l.RetryAt, l.AbsentSince, l.Decided)
	if err != nil {
		return fmt.Errorf("store that link %s is %s: %w", l.Identifier, l.State, err)
	}
	if tag.RowsAffected() == 0 {
		return errGone
	}
	return nil
}

const undecidedSQL = `
select` + linkColumns + `
from overage_reports r
where r.state in ('planned', 'sending', 'unknown')
  and ($1::uuid is null or r.tenant_id = $1)
  and (r.retry_at is null or r.retry_at <= $2)
  and (r.last_attempt_at is null or r.last_attempt_at < $3)
  and (r.attempts, r.identifier) > ($4, $5)
order by r.attempts, r.identifier
limit $6`

// undecided lists links that wait for an answer and were not tried since,
// those with the fewest attempts first, from after the given one on.
func undecided(ctx context.Context, pool *pgxpool.Pool, tenant *uuid.UUID, due, since time.Time, after *Link, limit int) ([]*Link, error) {
	attempts, identifier := -1, ""
	if after != nil {
		attempts, identifier = after.Attempts, after.Identifier
	}
	rows, _ := pool.Query(ctx, undecidedSQL, tenant, due, since, attempts, identifier, limit)
	links, err := pgx.CollectRows(rows, scanLink)
	if err != nil {
		return nil, fmt.Errorf("list undecided links: %w", err)
	}
	return links, nil
}

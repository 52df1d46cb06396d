package reporter

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

const linkColumns = `
    r.tenant_id, r.agent, r.period_start, r.billed_period_start, r.revision, r.from_total, r.to_total, r.value,
    r.origin, r.sink, r.account, r.livemode, r.stripe_customer, r.meter, r.reported_at, r.identifier, r.generation,
    r.state, r.attempts, r.first_attempt_at, r.last_attempt_at, r.retry_at, r.absent_since, r.decided_at,
    coalesce(r.detail, '')`

// What was billed in an unsettled period belongs here too when it arose in a
// settled one.
const loadLinksSQL = `
select` + linkColumns + `
from overage_reports r
join unnest($1::uuid[], $2::timestamptz[]) as o (tenant_id, since) using (tenant_id)
where r.period_start >= o.since
   or r.billed_period_start >= o.since
order by r.tenant_id, r.period_start, r.agent, r.revision`

func loadLinks(ctx context.Context, tx pgx.Tx, books []*book) error {
	ids := make([]uuid.UUID, len(books))
	since := make([]time.Time, len(books))
	byTenant := make(map[uuid.UUID]*book, len(books))
	for i, b := range books {
		ids[i], since[i] = b.tenant, b.periods[0].start
		byTenant[b.tenant] = b
	}
	rows, _ := tx.Query(ctx, loadLinksSQL, ids, since)
	links, err := pgx.CollectRows(rows, scanLink)
	if err != nil {
		return fmt.Errorf("load the ledger of %d tenants: %w", len(books), err)
	}
	for _, l := range links {
		own := byTenant[l.Tenant]
		own.links = append(own.links, l)
	}
	return nil
}

func scanLink(row pgx.CollectableRow) (*Link, error) {
	l := &Link{}
	err := row.Scan(&l.Tenant, &l.Agent, &l.Period, &l.Billed, &l.Revision, &l.From, &l.To, &l.Value,
		&l.Origin, &l.Sink, &l.Account, &l.Livemode, &l.Customer, &l.Meter, &l.ReportedAt, &l.Identifier, &l.Generation,
		&l.State, &l.Attempts, &l.FirstAttempt, &l.LastAttempt, &l.RetryAt, &l.AbsentSince, &l.Decided, &l.Detail)
	return l, err
}

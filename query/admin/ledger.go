package admin

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer/api"
)

// ledgerFilter selects ledger entries.
type ledgerFilter struct {
	TenantID string `query:"tenant_id" format:"uuid" doc:"Only of this tenant."`
	State    string `query:"state" enum:"planned,sending,accepted,verified,unknown,rejected,unbillable" doc:"Only of this state."`
	Limit    int    `query:"limit" minimum:"1" maximum:"500" default:"100" doc:"How many entries a page has at most."`
	Cursor   string `query:"cursor" maxLength:"200" doc:"The next_cursor of the page before, with the same filter."`
}

// Ledger is a page of the overage ledger, the newest entries first.
type Ledger struct {
	Totals     []LedgerTotal `json:"totals" doc:"Of all states and pages, of the tenant if one is asked for; a state without entries is not among them."`
	Links      []LedgerEntry `json:"links"`
	NextCursor *string       `json:"next_cursor" doc:"Asks for the next page; null on the last."`
}

// LedgerTotal adds up the entries of a state.
type LedgerTotal struct {
	State string `json:"state" enum:"planned,sending,accepted,verified,unknown,rejected,unbillable"`
	Links int64  `json:"links"`
	Units int64  `json:"units" doc:"By which the entries raise the totals that are reported to Stripe; credits lower them."`
}

// LedgerEntry is one entry of the totals that are reported to Stripe for one
// tenant, agent and period.
type LedgerEntry struct {
	TenantID          uuid.UUID  `json:"tenant_id"`
	Agent             string     `json:"agent"`
	PeriodStart       time.Time  `json:"period_start" doc:"Of the period in which the overage arose."`
	BilledPeriodStart time.Time  `json:"billed_period_start" doc:"Of the period whose invoice takes it; a later one where it was carried."`
	Revision          int        `json:"revision" doc:"The entry's number in its chain."`
	FromTotal         int64      `json:"from_total" doc:"The overage that Stripe knew before, in units."`
	ToTotal           int64      `json:"to_total" doc:"The overage that Stripe knows after it."`
	Value             int64      `json:"value" doc:"What is sent: the difference, or with the sink usage_records the new total."`
	Origin            string     `json:"origin" enum:"reported,found,invoiced" doc:"reported: we sent it; found: Stripe's summary had more than the ledger; invoiced: the final invoice bills it."`
	Sink              string     `json:"sink" enum:"meter_events,usage_records"`
	Livemode          bool       `json:"livemode"`
	StripeCustomer    string     `json:"stripe_customer"`
	Meter             string     `json:"meter"`
	ReportedAt        time.Time  `json:"reported_at" doc:"The timestamp that is sent to Stripe."`
	Identifier        string     `json:"identifier" doc:"By which Stripe recognizes repeats."`
	State             string     `json:"state" enum:"planned,sending,accepted,verified,unknown,rejected,unbillable"`
	Attempts          int        `json:"attempts"`
	FirstAttemptAt    *time.Time `json:"first_attempt_at"`
	DecidedAt         *time.Time `json:"decided_at"`
	Detail            *string    `json:"detail" doc:"Stripe's error, or why nothing is sent."`
	CreatedAt         time.Time  `json:"created_at"`
}

// entryCursor is an entry's position in the ledger.
type entryCursor struct {
	CreatedAt  time.Time `json:"c"`
	Identifier string    `json:"i"`
}

// name identifies the list.
func (f *ledgerFilter) name() []string {
	return []string{"ledger", strings.ToLower(f.TenantID), f.State}
}

// One tenant's chains are found by the primary key. Without a tenant the whole
// table is read, as the totals do in any case.
const entriesSQL = `
select
    tenant_id, agent, period_start, billed_period_start, revision, from_total, to_total, value, origin, sink, livemode,
    stripe_customer, meter, reported_at, identifier, state, attempts, first_attempt_at, decided_at, detail, created_at
from overage_reports
where ($1::uuid is null or tenant_id = $1)
  and ($2 = '' or state = $2)
  and ($3::timestamptz is null or (created_at, identifier) < ($3, $4))
order by created_at desc, identifier desc
limit $5`

const ledgerTotalsSQL = `
select state, count(*) as links, sum(to_total - from_total)::bigint as units
from overage_reports
where $1::uuid is null or tenant_id = $1
group by state
order by array_position(array['planned', 'sending', 'unknown', 'accepted', 'verified', 'rejected', 'unbillable'], state)`

func loadLedger(ctx context.Context, pool *pgxpool.Pool, f ledgerFilter) (*Ledger, error) {
	tenant, err := onlyTenant(f.TenantID)
	if err != nil {
		return nil, err
	}
	after, err := readCursor[entryCursor](f.Cursor, f.name()...)
	if err != nil {
		return nil, err
	}
	var created *time.Time
	var identifier string
	if after != nil {
		if err := checkText("cursor", after.Identifier); err != nil {
			return nil, badCursor(f.Cursor)
		}
		created, identifier = &after.CreatedAt, after.Identifier
	}
	l := &Ledger{}
	rows, _ := pool.Query(ctx, entriesSQL, planned, tenant, f.State, created, identifier, f.Limit+1)
	if l.Links, err = pgx.CollectRows(rows, pgx.RowToStructByName[LedgerEntry]); err != nil {
		return nil, fmt.Errorf("list ledger entries: %w", err)
	}
	for i := range l.Links {
		k := &l.Links[i]
		inUTC(&k.PeriodStart, &k.BilledPeriodStart, &k.ReportedAt, k.FirstAttemptAt, k.DecidedAt, &k.CreatedAt)
	}
	if len(l.Links) > f.Limit {
		l.Links = l.Links[:f.Limit]
		last := &l.Links[f.Limit-1]
		l.NextCursor = api.WriteCursor(entryCursor{last.CreatedAt, last.Identifier}, f.name()...)
	}
	rows, _ = pool.Query(ctx, ledgerTotalsSQL, planned, tenant)
	if l.Totals, err = pgx.CollectRows(rows, pgx.RowToStructByName[LedgerTotal]); err != nil {
		return nil, fmt.Errorf("add up the ledger: %w", err)
	}
	return l, nil
}

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
	"odometer/audit/findings"
)

// Finding is something that was found wrong.
type Finding struct {
	FindingID   int64      `json:"finding_id"`
	Kind        string     `json:"kind" doc:"What it is, as counter_drift."`
	Subject     string     `json:"subject" doc:"What it is about. While a finding is open, kind and subject stand once."`
	TenantID    *uuid.UUID `json:"tenant_id" nullable:"true"`
	Agent       *string    `json:"agent"`
	PeriodStart *time.Time `json:"period_start"`
	Detail      string     `json:"detail" doc:"What is wrong, and what to do."`
	Before      *int64     `json:"before" doc:"The figure that was found."`
	After       *int64     `json:"after" doc:"The figure that it should be, or was repaired to."`
	FoundAt     time.Time  `json:"found_at"`
	FoundBy     string     `json:"found_by"`
	ResolvedAt  *time.Time `json:"resolved_at"`
	ResolvedBy  *string    `json:"resolved_by"`
	Resolution  *string    `json:"resolution"`
}

// FindingList is the newest findings.
type FindingList struct {
	Findings []Finding `json:"findings"`
}

const findingColumns = `
    finding_id, kind, subject, tenant_id, agent, period_start, detail, before, after,
    found_at, found_by, resolved_at, resolved_by, resolution`

const findingsSQL = `
select` + findingColumns + `
from audit_findings
where $1 = 'all'
   or (resolved_at is null) = ($1 = 'open')
order by finding_id desc
limit $2`

// listFindings is the newest findings of a state: open, resolved or all.
func listFindings(ctx context.Context, pool *pgxpool.Pool, state string, limit int) (*FindingList, error) {
	rows, _ := pool.Query(ctx, findingsSQL, state, limit)
	found, err := collectFindings(rows)
	if err != nil {
		return nil, fmt.Errorf("list findings: %w", err)
	}
	return &FindingList{found}, nil
}

func collectFindings(rows pgx.Rows) ([]Finding, error) {
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[Finding])
	for i := range found {
		inUTC(found[i].PeriodStart, &found[i].FoundAt, found[i].ResolvedAt)
	}
	return found, err
}

const findingSQL = `
select` + findingColumns + `
from audit_findings
where finding_id = $1`

// resolveFinding closes a finding and answers it as it is then. One that is
// resolved already stays as somebody else has left it.
func resolveFinding(ctx context.Context, pool *pgxpool.Pool, id int64, who, how string) (*Finding, error) {
	how = strings.TrimSpace(how)
	if how == "" {
		return nil, api.NewProblem(api.InvalidRequest, "resolution is empty: say how the finding was resolved, for whoever asks later.")
	}
	if err := clean("resolution", how); err != nil {
		return nil, err
	}
	if err := findings.ResolveByID(ctx, pool, id, who, how); err != nil {
		return nil, err
	}
	rows, _ := pool.Query(ctx, findingSQL, id)
	found, err := collectFindings(rows)
	switch {
	case err != nil:
		return nil, fmt.Errorf("read finding %d: %w", id, err)
	case len(found) == 0:
		return nil, noFinding(id)
	}
	return &found[0], nil
}

func noFinding(id int64) *api.Problem {
	return api.NewProblem(api.NotFound, "There is no finding %d. GET /api/v1/admin/findings lists them.", id)
}

package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer/api"
	"odometer/audit/findings"
)

// Finding is a problem that a job or an audit found.
type Finding struct {
	FindingID   int64      `json:"finding_id"`
	Kind        string     `json:"kind" doc:"What it is, as counter_drift."`
	Subject     string     `json:"subject" doc:"What it is about. There is at most one open finding of a kind and subject."`
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

// resolveFinding resolves a finding and returns it. A finding that is resolved
// already stays unchanged.
func resolveFinding(ctx context.Context, pool *pgxpool.Pool, id int64, who, how string) (*Finding, error) {
	how = strings.TrimSpace(how)
	if how == "" {
		return nil, api.NewProblem(api.InvalidRequest, "resolution is empty: say how the finding was resolved.")
	}
	if err := checkText("resolution", how); err != nil {
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

// LastAudit is the newest audit of the job reconcile, if any.
type LastAudit struct {
	Audit *StoredAudit `json:"audit" doc:"Null before the first."`
}

// StoredAudit is a stored audit of all tenants.
type StoredAudit struct {
	At        time.Time   `json:"at"`
	By        string      `json:"by" doc:"Who made it."`
	Different int64       `json:"different" doc:"How many differences there are; what reconcile repaired afterwards is among them."`
	Report    AuditReport `json:"report"`
}

// AuditReport is an audit's report as odometer audit --json prints it.
type AuditReport struct {
	TenantID        *uuid.UUID        `json:"tenant_id" nullable:"true" doc:"Null: all tenants."`
	Since           *time.Time        `json:"since" doc:"Null: all that the stream held."`
	At              time.Time         `json:"at"`
	Comparisons     []AuditComparison `json:"comparisons"`
	Stream          AuditStream       `json:"stream"`
	OpenDeadLetters int64             `json:"open_dead_letters"`
	Different       int64             `json:"different"`
	Differences     []AuditDifference `json:"differences" doc:"The first 1,000."`
	Notes           []string          `json:"notes" doc:"What is not settled yet or cannot be known, and why."`
}

// AuditComparison is the outcome of comparing two data sets.
type AuditComparison struct {
	Name      string `json:"name"`
	Of        string `json:"of" doc:"What was counted."`
	Compared  int64  `json:"compared"`
	Equal     int64  `json:"equal"`
	Different int64  `json:"different"`
	Unsettled int64  `json:"unsettled" doc:"Not settled yet: no difference."`
	Unknown   int64  `json:"unknown" doc:"Cannot be known: no difference."`
}

// AuditStream is the outcome of the messages that were compared.
type AuditStream struct {
	FirstSeq    int64 `json:"first_seq"`
	ThroughSeq  int64 `json:"through_seq"`
	LastSeq     int64 `json:"last_seq"`
	Messages    int64 `json:"messages"`
	Events      int64 `json:"events"`
	Duplicates  int64 `json:"duplicates"`
	DeadLetters int64 `json:"dead_letters"`
	Waiting     int64 `json:"waiting" doc:"Stored, not read by the aggregator yet."`
}

// AuditDifference is one difference between two data sets.
type AuditDifference struct {
	Comparison  string     `json:"comparison"`
	Kind        string     `json:"kind"`
	TenantID    *uuid.UUID `json:"tenant_id" nullable:"true"`
	Agent       string     `json:"agent,omitempty"`
	PeriodStart *time.Time `json:"period_start"`
	Where       string     `json:"where,omitempty" doc:"Position, key or link."`
	Expected    string     `json:"expected"`
	Found       string     `json:"found"`
	Cause       string     `json:"cause" doc:"The likely one."`
	Repair      string     `json:"repair" doc:"The command that repairs it, or that none is defined."`
	RepairArgs  []string   `json:"repair_args,omitempty" nullable:"false" doc:"The arguments of that odometer command."`
}

const lastAuditSQL = `
select at, by, different, report
from audits
order by audit_id desc
limit 1`

func loadLastAudit(ctx context.Context, pool *pgxpool.Pool) (*LastAudit, error) {
	rows, _ := pool.Query(ctx, lastAuditSQL)
	stored, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*StoredAudit, error) {
		a := &StoredAudit{}
		var report []byte
		if err := row.Scan(&a.At, &a.By, &a.Different, &report); err != nil {
			return nil, err
		}
		inUTC(&a.At)
		return a, json.Unmarshal(report, &a.Report)
	})
	if err != nil {
		return nil, fmt.Errorf("read the last audit: %w", err)
	}
	last := &LastAudit{}
	if len(stored) > 0 {
		last.Audit = stored[0]
	}
	return last, nil
}

package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer/audit/findings"
)

// keptAudits is how many audits are kept: three months of nightly ones.
const keptAudits = 100

// Stores an audit and deletes all but the newest $5, this one among them.
const storeSQL = `
with kept as (
    insert into audits (at, by, different, report)
    values ($1, $2, $3, $4)
    returning audit_id
)
delete from audits
where audit_id <= (
    select audit_id
    from audits
    order by audit_id desc
    offset $5 - 1
    limit 1
)`

// StoreReport stores an audit's report, so that people can see the last one
// without making another, and deletes the oldest. By is who made it.
func StoreReport(ctx context.Context, pool *pgxpool.Pool, r *Report, by string) error {
	report, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode the audit's report: %w", err)
	}
	report = bytes.ReplaceAll(report, []byte(`\u0000`), []byte(`\ufffd`)) // what jsonb cannot hold
	if _, err := pool.Exec(ctx, storeSQL, r.At, by, r.Different, report, keptAudits); err != nil {
		return fmt.Errorf("store the audit's report: %w", err)
	}
	return nil
}

// foundBy marks the findings of audits of everything. Each audit resolves those
// that it does not find again.
const foundBy = "audit"

// maxRecorded bounds the findings of one audit; its figures count the rest too.
const maxRecorded = 200

const openFindingsSQL = `
select kind, subject
from audit_findings
where found_by = $1
  and resolved_at is null`

const countersRightSQL = `
update audit_findings
set resolved_at = now(),
    resolved_by = $1,
    resolution = 'an audit found no counter that differs'
where kind in ('reconcile_error', 'invariant_broken')
  and resolved_at is null`

// RecordFindings writes an audit's differences to audit_findings, so that
// operators are alerted to each once, and resolves those that it did not find
// again. A counter's drift is recorded by Reconcile, with what was done about it.
// The audit must have been of everything.
func RecordFindings(ctx context.Context, pool *pgxpool.Pool, r *Report) error {
	current := map[[2]string]bool{}
	drift := false
	for i := range r.Differences {
		d := &r.Differences[i]
		if d.Kind == CounterDiffers || d.Kind == CounterMissing || d.Kind == CounterExtra {
			drift = true
			continue
		}
		if len(current) == maxRecorded {
			continue
		}
		f := d.finding()
		current[[2]string{f.Kind, f.Subject}] = true
		if err := findings.Record(ctx, pool, f); err != nil {
			return err
		}
	}
	if !drift {
		if _, err := pool.Exec(ctx, countersRightSQL, foundBy); err != nil {
			return fmt.Errorf("resolve findings about counters: %w", err)
		}
	}
	return resolveOthers(ctx, pool, current)
}

// resolveOthers resolves the findings of earlier audits that are not current.
func resolveOthers(ctx context.Context, pool *pgxpool.Pool, current map[[2]string]bool) error {
	rows, _ := pool.Query(ctx, openFindingsSQL, foundBy)
	open, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (key [2]string, err error) {
		err = row.Scan(&key[0], &key[1])
		return key, err
	})
	if err != nil {
		return fmt.Errorf("list the open findings of audits: %w", err)
	}
	for _, key := range open {
		if current[key] {
			continue
		}
		if err := findings.Resolve(ctx, pool, key[0], key[1], foundBy, "an audit did not find it again"); err != nil {
			return err
		}
	}
	return nil
}

// finding is the difference as a finding for operators.
func (d *Difference) finding() findings.Finding {
	f := findings.Finding{
		Kind: d.Kind, Agent: d.Agent, FoundBy: foundBy,
		Detail: fmt.Sprintf("%s: expected %s, found %s: %s; %s", d.Where, d.Expected, d.Found, d.Cause, d.Repair.Text),
	}
	subject := []string{d.Agent, d.Where}
	if d.Tenant != nil && *d.Tenant != uuid.Nil {
		f.Tenant = *d.Tenant
		subject = append(subject, d.Tenant.String())
	}
	if d.Period != nil {
		f.Period = *d.Period
		subject = append(subject, d.Period.UTC().Format("2006-01-02T15:04:05.999999Z"))
	}
	f.Subject = strings.TrimSpace(strings.Join(subject, " "))
	f.Detail = strings.TrimPrefix(f.Detail, ": ")
	return f
}

package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
)

// keptAudits is how many audits are kept: three months of nightly ones.
const keptAudits = 100

// What is older than the newest $5, this one among them, goes.
const keepSQL = `
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

// Keep stores an audit's report, so that people can see the last one without
// making another, and forgets the oldest. By is who made it.
func Keep(ctx context.Context, pool *pgxpool.Pool, r *Report, by string) error {
	report, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode the audit's report: %w", err)
	}
	report = bytes.ReplaceAll(report, []byte(`\u0000`), []byte(`\ufffd`)) // what jsonb cannot hold
	if _, err := pool.Exec(ctx, keepSQL, r.At, by, r.Different, report, keptAudits); err != nil {
		return fmt.Errorf("keep the audit's report: %w", err)
	}
	return nil
}

package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// LastAudit is the newest audit that the job reconcile made, if any.
type LastAudit struct {
	Audit *KeptAudit `json:"audit" doc:"Null while none was made."`
}

// KeptAudit is an audit of everything.
type KeptAudit struct {
	At        time.Time   `json:"at"`
	By        string      `json:"by" doc:"Who made it."`
	Different int64       `json:"different" doc:"How many differences there are; what reconcile repaired afterwards is among them."`
	Report    AuditReport `json:"report"`
}

// AuditReport is what an audit found, in the words of odometer audit --json.
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

// AuditComparison is what comparing two books came to.
type AuditComparison struct {
	Name      string `json:"name"`
	Of        string `json:"of" doc:"What was counted."`
	Compared  int64  `json:"compared"`
	Equal     int64  `json:"equal"`
	Different int64  `json:"different"`
	Unsettled int64  `json:"unsettled" doc:"Not settled yet: no difference."`
	Unknown   int64  `json:"unknown" doc:"Cannot be known: no difference."`
}

// AuditStream is what became of the messages that were compared.
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

// AuditDifference is one disagreement of two books.
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
	kept, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*KeptAudit, error) {
		a := &KeptAudit{}
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
	if len(kept) > 0 {
		last.Audit = kept[0]
	}
	return last, nil
}

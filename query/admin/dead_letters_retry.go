package admin

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer"
	"odometer/api"
)

// DeadLetterSelection selects dead letters to retry.
type DeadLetterSelection struct {
	IDs      []string `json:"ids,omitempty" maxItems:"1000" doc:"The ids of dead letters, as the list has them."`
	Reason   string   `json:"reason,omitempty" enum:"malformed,invalid_field,subject_mismatch,unknown_agent,unknown_action,too_old,in_future,idempotency_conflict,no_billing_period,negative_balance" doc:"The open ones of this reason."`
	TenantID string   `json:"tenant_id,omitempty" format:"uuid" doc:"The open ones of this tenant."`
	Cursor   string   `json:"cursor,omitempty" maxLength:"200" doc:"The next_cursor of the call before, with the same selection."`
}

// DeadLetterOutcome is the outcome of a dead letter's retry.
type DeadLetterOutcome struct {
	ID      string          `json:"id"`
	State   string          `json:"state" enum:"open,retried,duplicate,discarded" doc:"retried: it is an event now, and counts. duplicate: the event was counted before. open: it still cannot be an event, for this reason."`
	Reason  odometer.Reason `json:"reason"`
	Detail  string          `json:"detail"`
	Already bool            `json:"already" doc:"It was decided before this call, which changed nothing."`
}

// RetryResult is the outcome of a retry.
type RetryResult struct {
	Counts     DeadLetterCounts    `json:"counts" doc:"The dead letters of this call by their state now."`
	Letters    []DeadLetterOutcome `json:"letters"`
	NextCursor *string             `json:"next_cursor" doc:"There are more dead letters than one call retries: call again with it as cursor. Null when this was all."`
}

// DeadLetterCounts are dead letters by state.
type DeadLetterCounts struct {
	Retried   int `json:"retried"`
	Duplicate int `json:"duplicate"`
	Discarded int `json:"discarded"`
	Open      int `json:"open"`
}

// maxRetried bounds the dead letters of one call: a retry blocks counting in
// their partitions while it runs.
const maxRetried = 1000

// retry classifies dead letters again, by the current catalogue and periods.
func (s *server) retry(ctx context.Context, l DeadLetterSelection, who string) (*RetryResult, error) {
	ids, next, err := selectDeadLetters(ctx, s.Pool, l)
	if err != nil {
		return nil, err
	}
	result := &RetryResult{Letters: []DeadLetterOutcome{}, NextCursor: next}
	if len(ids) == 0 {
		return result, nil
	}
	outcomes, err := s.RetryDeadLetters(ctx, ids, who)
	if err != nil {
		return nil, err
	}
	for _, o := range outcomes {
		result.Letters = append(result.Letters, o)
		*result.Counts.of(o.State)++
	}
	result.sort(ids)
	return result, nil
}

// sort orders the outcomes by position; dead letters are retried partition by
// partition.
func (r *RetryResult) sort(ids []odometer.Position) {
	order := make(map[string]int, len(ids))
	for i, at := range ids {
		order[deadLetterID(at)] = i
	}
	slices.SortFunc(r.Letters, func(a, b DeadLetterOutcome) int { return order[a.ID] - order[b.ID] })
}

func (c *DeadLetterCounts) of(state string) *int {
	switch state {
	case "retried":
		return &c.Retried
	case "duplicate":
		return &c.Duplicate
	case "discarded":
		return &c.Discarded
	}
	return &c.Open
}

// deadLetterCursor is a dead letter's position.
type deadLetterCursor struct {
	Epoch int32 `json:"e"`
	Seq   int64 `json:"q"`
}

// name identifies the selection.
func (l *DeadLetterSelection) name() []string {
	return append([]string{"dead letters", l.Reason, strings.ToLower(l.TenantID)}, l.IDs...)
}

// Dead letters that are named by id are found in any state, so that each has an
// outcome; others while they are open. They are retried in the order of the
// stream.
const selectDeadLettersSQL = `
select d.stream_epoch, d.stream_seq
from dead_letters d
where (d.state = 'open' or $1::integer[] is not null)
  and ($1::integer[] is null or (d.stream_epoch, d.stream_seq) in (select * from unnest($1::integer[], $2::bigint[])))
  and ($3 = '' or d.reason = $3)
  and ($4::uuid is null or d.tenant_id = $4)
  and (d.stream_epoch, d.stream_seq) > ($5, $6)
order by d.stream_epoch, d.stream_seq
limit $7`

// selectDeadLetters finds the dead letters of one call, and the cursor of the next.
func selectDeadLetters(ctx context.Context, pool *pgxpool.Pool, l DeadLetterSelection) (ids []odometer.Position, next *string, err error) {
	if len(l.IDs) == 0 && l.Reason == "" && l.TenantID == "" {
		return nil, nil, api.NewProblem(api.InvalidRequest, "Nothing says which dead letters to retry: give ids, reason or tenant_id.")
	}
	var tenant *uuid.UUID
	if tenant, err = onlyTenant(l.TenantID); err != nil {
		return nil, nil, err
	}
	epochs, seqs, err := mustExist(ctx, pool, l.IDs)
	if err != nil {
		return nil, nil, err
	}
	after, err := readCursor[deadLetterCursor](l.Cursor, l.name()...)
	if err != nil {
		return nil, nil, err
	}
	if after == nil {
		after = &deadLetterCursor{}
	}
	rows, _ := pool.Query(ctx, selectDeadLettersSQL, planned, epochs, seqs, l.Reason, tenant, after.Epoch, after.Seq, maxRetried+1)
	ids, err = pgx.CollectRows(rows, pgx.RowToStructByPos[odometer.Position])
	if err != nil {
		return nil, nil, fmt.Errorf("look up dead letters: %w", err)
	}
	if len(ids) > maxRetried {
		ids = ids[:maxRetried]
		last := ids[maxRetried-1]
		next = api.WriteCursor(deadLetterCursor{last.Epoch, last.Seq}, l.name()...)
	}
	return ids, next, nil
}

const missingDeadLettersSQL = `
select l.stream_epoch, l.stream_seq
from unnest($1::integer[], $2::bigint[]) as l (stream_epoch, stream_seq)
left join dead_letters d using (stream_epoch, stream_seq)
where d.stream_epoch is null`

// mustExist parses ids, and returns a Problem unless each has a dead letter.
func mustExist(ctx context.Context, pool *pgxpool.Pool, ids []string) (epochs []int32, seqs []int64, err error) {
	for _, id := range ids {
		at, err := parseDeadLetterID(id)
		if err != nil {
			return nil, nil, err
		}
		epochs, seqs = append(epochs, at.Epoch), append(seqs, at.Seq)
	}
	if len(ids) == 0 {
		return nil, nil, nil
	}
	rows, _ := pool.Query(ctx, missingDeadLettersSQL, epochs, seqs)
	missing, err := pgx.CollectRows(rows, pgx.RowToStructByPos[odometer.Position])
	if err != nil {
		return nil, nil, fmt.Errorf("look up dead letters: %w", err)
	}
	if len(missing) > 0 {
		names := make([]string, len(missing))
		for i, at := range missing {
			names[i] = deadLetterID(at)
		}
		return nil, nil, noDeadLetters(names...)
	}
	return epochs, seqs, nil
}

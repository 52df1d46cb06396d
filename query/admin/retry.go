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

// LetterSelection says which dead letters to retry.
type LetterSelection struct {
	IDs      []string `json:"ids,omitempty" maxItems:"1000" doc:"These, as the list names them."`
	Reason   string   `json:"reason,omitempty" enum:"malformed,invalid_field,subject_mismatch,unknown_agent,unknown_action,too_old,in_future,idempotency_conflict,no_billing_period,negative_balance" doc:"The open ones of this reason."`
	TenantID string   `json:"tenant_id,omitempty" format:"uuid" doc:"The open ones of this tenant."`
	Cursor   string   `json:"cursor,omitempty" maxLength:"200" doc:"The next_cursor of the call before, with the same selection."`
}

// LetterOutcome is what became of a dead letter.
type LetterOutcome struct {
	ID      string          `json:"id"`
	State   string          `json:"state" enum:"open,retried,duplicate,discarded" doc:"retried: it is an event now, and counts. duplicate: what it says was counted before. open: it still cannot be an event, for this reason."`
	Reason  odometer.Reason `json:"reason"`
	Detail  string          `json:"detail"`
	Already bool            `json:"already" doc:"It was decided before this call, which did nothing about it."`
}

// RetryResult is what a retry came to.
type RetryResult struct {
	Counts     LetterCounts    `json:"counts" doc:"The letters of this call by their state now."`
	Letters    []LetterOutcome `json:"letters"`
	NextCursor *string         `json:"next_cursor" doc:"There are more letters than one call retries: call again with it as cursor. Null when this was all."`
}

// LetterCounts are letters by state.
type LetterCounts struct {
	Retried   int `json:"retried"`
	Duplicate int `json:"duplicate"`
	Discarded int `json:"discarded"`
	Open      int `json:"open"`
}

// maxRetried bounds the letters of one call: a retry keeps others from counting
// in their partitions while it goes on.
const maxRetried = 1000

// retry judges letters anew, by the catalogue and the periods of today.
func (s *server) retry(ctx context.Context, l LetterSelection, who string) (*RetryResult, error) {
	ids, next, err := selectLetters(ctx, s.Pool, l)
	if err != nil {
		return nil, err
	}
	result := &RetryResult{Letters: []LetterOutcome{}, NextCursor: next}
	if len(ids) == 0 {
		return result, nil
	}
	outcomes, err := s.RetryLetters(ctx, ids, who)
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

// sort brings the letters into the order of the stream; they are judged
// partition by partition.
func (r *RetryResult) sort(ids []odometer.Position) {
	place := make(map[string]int, len(ids))
	for i, at := range ids {
		place[letterID(at)] = i
	}
	slices.SortFunc(r.Letters, func(a, b LetterOutcome) int { return place[a.ID] - place[b.ID] })
}

func (c *LetterCounts) of(state string) *int {
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

// letterPlace is a letter's place in the stream.
type letterPlace struct {
	Epoch int32 `json:"e"`
	Seq   int64 `json:"q"`
}

// name tells the selection from others.
func (l *LetterSelection) name() []string {
	return append([]string{"dead letters", l.Reason, strings.ToLower(l.TenantID)}, l.IDs...)
}

// Named letters are found whatever their state, so that each can be told of;
// others while they are open. In the order of the stream, in which they are to
// be judged.
const selectLettersSQL = `
select d.stream_epoch, d.stream_seq
from dead_letters d
where (d.state = 'open' or $1::integer[] is not null)
  and ($1::integer[] is null or (d.stream_epoch, d.stream_seq) in (select * from unnest($1::integer[], $2::bigint[])))
  and ($3 = '' or d.reason = $3)
  and ($4::uuid is null or d.tenant_id = $4)
  and (d.stream_epoch, d.stream_seq) > ($5, $6)
order by d.stream_epoch, d.stream_seq
limit $7`

// selectLetters finds the letters of one call, and where the next goes on.
func selectLetters(ctx context.Context, pool *pgxpool.Pool, l LetterSelection) (ids []odometer.Position, next *string, err error) {
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
	after, err := placeIn[letterPlace](l.Cursor, l.name()...)
	if err != nil {
		return nil, nil, err
	}
	if after == nil {
		after = &letterPlace{}
	}
	rows, _ := pool.Query(ctx, selectLettersSQL, planned, epochs, seqs, l.Reason, tenant, after.Epoch, after.Seq, maxRetried+1)
	ids, err = pgx.CollectRows(rows, pgx.RowToStructByPos[odometer.Position])
	if err != nil {
		return nil, nil, fmt.Errorf("look up dead letters: %w", err)
	}
	if len(ids) > maxRetried {
		ids = ids[:maxRetried]
		last := ids[maxRetried-1]
		next = api.WriteCursor(letterPlace{last.Epoch, last.Seq}, l.name()...)
	}
	return ids, next, nil
}

const missingLettersSQL = `
select l.stream_epoch, l.stream_seq
from unnest($1::integer[], $2::bigint[]) as l (stream_epoch, stream_seq)
left join dead_letters d using (stream_epoch, stream_seq)
where d.stream_epoch is null`

// mustExist reads ids, of which each must be of a dead letter.
func mustExist(ctx context.Context, pool *pgxpool.Pool, ids []string) (epochs []int32, seqs []int64, err error) {
	for _, id := range ids {
		at, err := parseLetterID(id)
		if err != nil {
			return nil, nil, err
		}
		epochs, seqs = append(epochs, at.Epoch), append(seqs, at.Seq)
	}
	if len(ids) == 0 {
		return nil, nil, nil
	}
	rows, _ := pool.Query(ctx, missingLettersSQL, epochs, seqs)
	missing, err := pgx.CollectRows(rows, pgx.RowToStructByPos[odometer.Position])
	if err != nil {
		return nil, nil, fmt.Errorf("look up dead letters: %w", err)
	}
	if len(missing) > 0 {
		names := make([]string, len(missing))
		for i, at := range missing {
			names[i] = letterID(at)
		}
		return nil, nil, noLetters(names...)
	}
	return epochs, seqs, nil
}

package aggregator

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer"
)

// LetterGroup counts dead letters of one reason, tenant and state.
type LetterGroup struct {
	Reason odometer.Reason
	Tenant *uuid.UUID // nil where the subject names none
	State  string
	Count  int64
	Oldest time.Time // when the stream stored it
	Newest time.Time
}

const groupsSQL = `
select d.reason, d.tenant_id, d.state, count(*), min(d.received_at), max(d.received_at)
from dead_letters d
where ` + selectedSQL + `
  and ($5 = '' or d.state = $5)
group by d.reason, d.tenant_id, d.state
order by count(*) desc, d.reason, d.tenant_id, d.state`

// GroupLetters counts a selection's letters of a state, "" for any.
func GroupLetters(ctx context.Context, pool *pgxpool.Pool, s Selection, state string) ([]LetterGroup, error) {
	rows, _ := pool.Query(ctx, groupsSQL, s.args(state)...)
	groups, err := pgx.CollectRows(rows, pgx.RowToStructByPos[LetterGroup])
	if err != nil {
		return nil, fmt.Errorf("count dead letters: %w", err)
	}
	return groups, nil
}

// Letter is a dead letter with all that is known of it.
type Letter struct {
	Outcome
	Subject   string
	Tenant    *uuid.UUID
	Agent     *string
	Payload   []byte
	Headers   map[string][]string
	Received  time.Time
	DecidedAt *time.Time
	DecidedBy *string
	Why       *string
}

const lettersSQL = `
select
    d.stream_epoch, d.stream_seq, d.state, d.reason, d.detail, d.subject, d.tenant_id, d.agent,
    d.payload, d.headers, d.received_at, d.decided_at, d.decided_by, d.why
from dead_letters d
where ` + selectedSQL + `
  and ($5 = '' or d.state = $5)
order by d.stream_epoch desc, d.stream_seq desc
limit $6`

// Letters reads a selection's newest letters of a state, "" for any.
func Letters(ctx context.Context, pool *pgxpool.Pool, s Selection, state string, limit int) ([]Letter, error) {
	if err := s.mustExist(ctx, pool); err != nil {
		return nil, err
	}
	rows, _ := pool.Query(ctx, lettersSQL, s.args(state, limit)...)
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (l Letter, err error) {
		var headers []byte
		err = row.Scan(&l.ID.Epoch, &l.ID.Seq, &l.State, &l.Reason, &l.Detail, &l.Subject, &l.Tenant, &l.Agent,
			&l.Payload, &headers, &l.Received, &l.DecidedAt, &l.DecidedBy, &l.Why)
		if err == nil {
			err = json.Unmarshal(headers, &l.Headers)
		}
		return l, err
	})
	if err != nil {
		return nil, fmt.Errorf("read dead letters: %w", err)
	}
	return found, nil
}

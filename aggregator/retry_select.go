package aggregator

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer"
)

// ErrNoLetter says that there is no dead letter with an id.
var ErrNoLetter = errors.New("no such dead letter")

// Selection names dead letters: by their ids, a reason, a tenant, or what of
// these is given at once. The zero value is all of them.
type Selection struct {
	IDs    []odometer.Position
	Reason odometer.Reason // "" for any
	Tenant *uuid.UUID      // nil for any
}

// selectedSQL is the condition for `d`; its arguments are args.
const selectedSQL = `
      ($1 = '' or d.reason = $1)
  and ($2::uuid is null or d.tenant_id = $2)
  and ($3::integer[] is null or (d.stream_epoch, d.stream_seq) in (select * from unnest($3::integer[], $4::bigint[])))`

func (s *Selection) args(more ...any) []any {
	var epochs []int32
	var seqs []int64
	for _, at := range s.IDs {
		epochs, seqs = append(epochs, at.Epoch), append(seqs, at.Seq)
	}
	return append([]any{string(s.Reason), s.Tenant, epochs, seqs}, more...)
}

const openAfterSQL = `
select ` + letterColumns + `
from dead_letters d
where d.state = 'open'
  and ` + selectedSQL + `
  and (d.stream_epoch, d.stream_seq) > ($5, $6)
order by d.stream_epoch, d.stream_seq
limit $7`

func (s *Selection) openAfter(ctx context.Context, pool *pgxpool.Pool, after odometer.Position) (pgx.Rows, error) {
	return pool.Query(ctx, openAfterSQL, s.args(after.Epoch, after.Seq, lettersAtOnce)...)
}

const missingLettersSQL = `
select stream_epoch, stream_seq
from unnest($1::integer[], $2::bigint[]) as l (stream_epoch, stream_seq)
where not exists (
    select from dead_letters d
    where d.stream_epoch = l.stream_epoch
      and d.stream_seq = l.stream_seq
)`

// mustExist is ErrNoLetter when an id is of no dead letter.
func (s *Selection) mustExist(ctx context.Context, pool *pgxpool.Pool) error {
	if len(s.IDs) == 0 {
		return nil
	}
	args := s.args()
	rows, _ := pool.Query(ctx, missingLettersSQL, args[2], args[3])
	missing, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
		var at odometer.Position
		err := row.Scan(&at.Epoch, &at.Seq)
		return LetterID(at), err
	})
	switch {
	case err != nil:
		return fmt.Errorf("look up dead letters: %w", err)
	case len(missing) > 0:
		return fmt.Errorf("%w: %s: see them with: odometer deadletters list", ErrNoLetter, strings.Join(missing, ", "))
	}
	return nil
}

const decidedSQL = `
select d.stream_epoch, d.stream_seq, d.state, d.reason, d.detail
from dead_letters d
where d.state <> 'open'
  and ` + selectedSQL + `
order by d.stream_epoch, d.stream_seq`

// tellDecided tells of named letters that are not open any more.
func (s *Selection) tellDecided(ctx context.Context, pool *pgxpool.Pool, each func(Outcome)) error {
	if len(s.IDs) == 0 {
		return nil
	}
	rows, _ := pool.Query(ctx, decidedSQL, s.args()...)
	found, err := collectOutcomes(rows)
	if err != nil {
		return fmt.Errorf("look up dead letters: %w", err)
	}
	for _, o := range found {
		o.Before = true
		each(o)
	}
	return nil
}

const discardSQL = `
update dead_letters d
set state = 'discarded',
    decided_at = now(),
    decided_by = $5,
    why = $6
where d.state = 'open'
  and ` + selectedSQL + `
returning d.stream_epoch, d.stream_seq, d.state, d.reason, d.detail`

// Discard decides that open letters shall never count, and keeps why and by
// whom. Letters that are not open are told and left alone.
func Discard(ctx context.Context, pool *pgxpool.Pool, s Selection, who, why string, each func(Outcome)) error {
	if err := s.mustExist(ctx, pool); err != nil {
		return err
	}
	if err := s.tellDecided(ctx, pool, each); err != nil {
		return err
	}
	rows, _ := pool.Query(ctx, discardSQL, s.args(who, why)...)
	done, err := collectOutcomes(rows)
	if err != nil {
		return fmt.Errorf("discard dead letters: %w", err)
	}
	for _, o := range done {
		each(o)
	}
	return nil
}

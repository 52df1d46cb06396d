package deadletter

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer"
)

// ID is how people name a dead letter: `<epoch>-<seq>`.
func ID(at odometer.Position) string { return fmt.Sprintf("%d-%d", at.Epoch, at.Seq) }

// ParseID reads what ID writes.
func ParseID(id string) (at odometer.Position, ok bool) {
	first, second, _ := strings.Cut(id, "-")
	epoch, err := strconv.ParseInt(first, 10, 32)
	if err != nil || epoch < 1 {
		return at, false
	}
	at.Epoch = int32(epoch)
	at.Seq, err = strconv.ParseInt(second, 10, 64)
	return at, err == nil && at.Seq > 0 && ID(at) == id
}

// ErrNotFound says that there is no dead letter with an id.
var ErrNotFound = errors.New("no such dead letter")

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

const namedSQL = `
select
    d.stream_epoch, d.stream_seq, d.state, d.reason, d.detail,
    ($1 = '' or d.reason = $1) and ($2::uuid is null or d.tenant_id = $2) as selected
from dead_letters d
where (d.stream_epoch, d.stream_seq) in (select * from unnest($3::integer[], $4::bigint[]))
order by d.stream_epoch, d.stream_seq`

// checkNamed reports the dead letters selected by id that are not open any more.
// It returns ErrNotFound when an id is of no dead letter.
func (s *Selection) checkNamed(ctx context.Context, pool *pgxpool.Pool, each func(Outcome)) error {
	found := map[odometer.Position]bool{}
	var decided []Outcome
	rows, _ := pool.Query(ctx, namedSQL, s.args()...)
	o, selected := Outcome{Before: true}, false
	_, err := pgx.ForEachRow(rows, []any{&o.ID.Epoch, &o.ID.Seq, &o.State, &o.Reason, &o.Detail, &selected}, func() error {
		found[o.ID] = true
		if selected && o.State != "open" {
			decided = append(decided, o)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("look up dead letters: %w", err)
	}
	for _, id := range s.IDs {
		if !found[id] {
			return fmt.Errorf("%w: %s: see them with: odometer deadletters list", ErrNotFound, ID(id))
		}
	}
	for _, o := range decided {
		each(o)
	}
	return nil
}

// Outcome is what became of a dead letter, or what it is.
type Outcome struct {
	ID     odometer.Position
	State  string // "open" is still dead
	Reason odometer.Reason
	Detail string
	Before bool // it was decided before: nothing was done
}

func collectOutcomes(rows pgx.Rows) ([]Outcome, error) {
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (o Outcome, err error) {
		err = row.Scan(&o.ID.Epoch, &o.ID.Seq, &o.State, &o.Reason, &o.Detail)
		return o, err
	})
}

// Group counts dead letters of one reason, tenant and state.
type Group struct {
	Reason odometer.Reason `json:"reason"`
	Tenant *uuid.UUID      `json:"tenant_id"` // nil where the subject names none
	State  string          `json:"state"`
	Count  int64           `json:"count"`
	Oldest time.Time       `json:"oldest_stored_at"` // in UTC, like Newest
	Newest time.Time       `json:"newest_stored_at"`
}

const groupsSQL = `
select d.reason, d.tenant_id, d.state, count(*), min(d.received_at), max(d.received_at)
from dead_letters d
where ` + selectedSQL + `
  and ($5 = '' or d.state = $5)
group by d.reason, d.tenant_id, d.state
order by count(*) desc, d.reason, d.tenant_id, d.state`

// Groups counts a selection's dead letters of a state, "" for any.
func Groups(ctx context.Context, pool *pgxpool.Pool, s Selection, state string) ([]Group, error) {
	rows, _ := pool.Query(ctx, groupsSQL, s.args(state)...)
	groups, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Group])
	if err != nil {
		return nil, fmt.Errorf("count dead letters: %w", err)
	}
	for i := range groups {
		groups[i].Oldest, groups[i].Newest = groups[i].Oldest.UTC(), groups[i].Newest.UTC()
	}
	return groups, nil
}

// DeadLetter is a dead letter with all that is known of it.
type DeadLetter struct {
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

const listSQL = `
select
    d.stream_epoch, d.stream_seq, d.state, d.reason, d.detail, d.subject, d.tenant_id, d.agent,
    d.payload, d.headers, d.received_at, d.decided_at, d.decided_by, d.why
from dead_letters d
where ` + selectedSQL + `
  and ($5 = '' or d.state = $5)
order by d.stream_epoch desc, d.stream_seq desc
limit $6`

// List reads a selection's newest dead letters of a state, "" for any.
func List(ctx context.Context, pool *pgxpool.Pool, s Selection, state string, limit int) ([]DeadLetter, error) {
	if err := s.checkNamed(ctx, pool, func(Outcome) {}); err != nil {
		return nil, err
	}
	rows, _ := pool.Query(ctx, listSQL, s.args(state, limit)...)
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (d DeadLetter, err error) {
		err = row.Scan(&d.ID.Epoch, &d.ID.Seq, &d.State, &d.Reason, &d.Detail, &d.Subject, &d.Tenant, &d.Agent,
			&d.Payload, &d.Headers, &d.Received, &d.DecidedAt, &d.DecidedBy, &d.Why)
		return d, err
	})
	if err != nil {
		return nil, fmt.Errorf("read dead letters: %w", err)
	}
	return found, nil
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

// Discard decides that open dead letters shall never count, and keeps why and by
// whom. Those that are not open are reported and left alone.
func Discard(ctx context.Context, pool *pgxpool.Pool, s Selection, who, why string, each func(Outcome)) error {
	if err := s.checkNamed(ctx, pool, each); err != nil {
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

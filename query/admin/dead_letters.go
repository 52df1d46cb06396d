package admin

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer"
	"odometer/api"
)

// deadLetterFilter selects dead letters.
type deadLetterFilter struct {
	ID       string `query:"id" maxLength:"40" doc:"Only this one, whatever its state, with all of its payload and headers." example:"1-4711"`
	State    string `query:"state" enum:"open,retried,duplicate,discarded,all" default:"open" doc:"Only of this state."`
	Reason   string `query:"reason" enum:"malformed,invalid_field,subject_mismatch,unknown_agent,unknown_action,too_old,in_future,idempotency_conflict,no_billing_period,negative_balance" doc:"Only of this reason."`
	TenantID string `query:"tenant_id" format:"uuid" doc:"Only of this tenant."`
	Limit    int    `query:"limit" minimum:"1" maximum:"200" default:"50" doc:"How many dead letters a page has at most, the newest first. All that are found are counted in the groups."`
	Cursor   string `query:"cursor" maxLength:"200" doc:"The next_cursor of the page before, with the same filter."`
}

// name identifies the list.
func (f *deadLetterFilter) name() []string {
	return []string{"listed dead letters", f.State, f.Reason, strings.ToLower(f.TenantID)}
}

// DeadLetterList is a page of dead letters, and counts of all that were found.
type DeadLetterList struct {
	Total      int64             `json:"total" doc:"How many dead letters the filter finds, on all pages."`
	Groups     []DeadLetterGroup `json:"groups" doc:"All that are found by reason, tenant and state: the 200 largest groups."`
	Letters    []DeadLetter      `json:"letters"`
	NextCursor *string           `json:"next_cursor" doc:"Asks for the next page; null on the last."`
}

// DeadLetterGroup counts dead letters of one reason, tenant and state.
type DeadLetterGroup struct {
	Reason   odometer.Reason `json:"reason"`
	TenantID *uuid.UUID      `json:"tenant_id" nullable:"true" doc:"Null where the subject names none."`
	State    string          `json:"state" enum:"open,retried,duplicate,discarded"`
	Count    int64           `json:"count"`
	Oldest   time.Time       `json:"oldest" doc:"When the stream stored it."`
	Newest   time.Time       `json:"newest"`
}

// DeadLetter is a message that could not be an event, as the stream stored it.
type DeadLetter struct {
	ID            string              `json:"id" example:"1-4711"`
	Subject       string              `json:"subject"`
	TenantID      *uuid.UUID          `json:"tenant_id" nullable:"true" doc:"Null where the subject names none."`
	Agent         *string             `json:"agent"`
	Reason        odometer.Reason     `json:"reason"`
	Detail        string              `json:"detail" doc:"Which field, which value, what was allowed."`
	State         string              `json:"state" enum:"open,retried,duplicate,discarded"`
	ReceivedAt    time.Time           `json:"received_at" doc:"When the stream stored it."`
	Payload       *string             `json:"payload" doc:"Null where it is not harmless text: UTF-8 without control characters other than white space, and without characters that change the direction of text."`
	PayloadBase64 []byte              `json:"payload_base64" doc:"The payload's bytes."`
	PayloadBytes  int                 `json:"payload_bytes" doc:"How long the payload is."`
	Headers       map[string][]string `json:"headers"`
	Truncated     bool                `json:"truncated" doc:"The payload goes on after its first 4,096 bytes, or there are more headers than that, which are left out. Ask by id for all of it."`
	DecidedAt     *time.Time          `json:"decided_at"`
	DecidedBy     *string             `json:"decided_by"`
	Why           *string             `json:"why" doc:"Why it was discarded."`
}

// maxShownBytes is how much of a payload a list shows, and how much of headers.
const maxShownBytes = 4096

const maxGroups = 200

// deadLetterSQL is the condition for `d`: the state or "all", the reason or "", the
// tenant or null.
const deadLetterSQL = `
      ($2 = 'all' or d.state = $2)
  and ($3 = '' or d.reason = $3)
  and ($4::uuid is null or d.tenant_id = $4)`

const deadLetterGroupsSQL = `
select reason, tenant_id, state, count, oldest, newest, sum(count) over ()::bigint as total
from (
    select d.reason, d.tenant_id, d.state, count(*) as count, min(d.received_at) as oldest, max(d.received_at) as newest
    from dead_letters d
    where ` + deadLetterSQL + `
    group by d.reason, d.tenant_id, d.state
) g
order by count desc, reason, tenant_id, state
limit $1`

// deadLetterColumns show $1 bytes of what may be long, null: all.
const deadLetterColumns = `
    d.stream_epoch, d.stream_seq, d.subject, d.tenant_id, d.agent, d.reason, d.detail, d.state, d.received_at,
    case when $1::integer is null then d.payload else substring(d.payload from 1 for $1) end,
    octet_length(d.payload),
    case when $1::integer is null or octet_length(d.headers::text) <= $1 then d.headers end,
    d.decided_at, d.decided_by, d.why`

const newestDeadLettersSQL = `
select` + deadLetterColumns + `
from dead_letters d
where ` + deadLetterSQL + `
  and ($5::integer is null or (d.stream_epoch, d.stream_seq) < ($5, $6))
order by d.stream_epoch desc, d.stream_seq desc
limit $7`

// listDeadLetters counts and lists what the filter finds.
func listDeadLetters(ctx context.Context, pool *pgxpool.Pool, f deadLetterFilter) (*DeadLetterList, error) {
	if f.ID != "" {
		return oneDeadLetter(ctx, pool, f.ID)
	}
	tenant, err := onlyTenant(f.TenantID)
	if err != nil {
		return nil, err
	}
	after, err := readCursor[deadLetterCursor](f.Cursor, f.name()...)
	if err != nil {
		return nil, err
	}
	l := &DeadLetterList{Groups: []DeadLetterGroup{}}
	if err := l.count(ctx, pool, f, tenant); err != nil {
		return nil, err
	}
	return l, l.page(ctx, pool, f, tenant, after)
}

// count adds up all that the filter finds.
func (l *DeadLetterList) count(ctx context.Context, pool *pgxpool.Pool, f deadLetterFilter, tenant *uuid.UUID) error {
	var g DeadLetterGroup
	rows, _ := pool.Query(ctx, deadLetterGroupsSQL, planned, maxGroups, f.State, f.Reason, tenant)
	_, err := pgx.ForEachRow(rows, []any{&g.Reason, &g.TenantID, &g.State, &g.Count, &g.Oldest, &g.Newest, &l.Total}, func() error {
		inUTC(&g.Oldest, &g.Newest)
		l.Groups = append(l.Groups, g)
		return nil
	})
	if err != nil {
		return fmt.Errorf("count dead letters: %w", err)
	}
	return nil
}

// page lists the dead letters after a position, and one more to know whether
// there is a next page.
func (l *DeadLetterList) page(ctx context.Context, pool *pgxpool.Pool, f deadLetterFilter, tenant *uuid.UUID, after *deadLetterCursor) (err error) {
	var epoch *int32
	var seq *int64
	if after != nil {
		epoch, seq = &after.Epoch, &after.Seq
	}
	rows, _ := pool.Query(ctx, newestDeadLettersSQL, planned, maxShownBytes, f.State, f.Reason, tenant, epoch, seq, f.Limit+1)
	if l.Letters, err = collectDeadLetters(rows); err != nil {
		return fmt.Errorf("list dead letters: %w", err)
	}
	if len(l.Letters) <= f.Limit {
		return nil
	}
	l.Letters = l.Letters[:f.Limit]
	last, err := parseDeadLetterID(l.Letters[f.Limit-1].ID)
	l.NextCursor = api.WriteCursor(deadLetterCursor(last), f.name()...)
	return err
}

const oneDeadLetterSQL = `
select` + deadLetterColumns + `
from dead_letters d
where (d.stream_epoch, d.stream_seq) = ($2, $3)`

// oneDeadLetter is the complete dead letter with an id.
func oneDeadLetter(ctx context.Context, pool *pgxpool.Pool, id string) (*DeadLetterList, error) {
	at, err := parseDeadLetterID(id)
	if err != nil {
		return nil, err
	}
	rows, _ := pool.Query(ctx, oneDeadLetterSQL, nil, at.Epoch, at.Seq)
	letters, err := collectDeadLetters(rows)
	switch {
	case err != nil:
		return nil, fmt.Errorf("read dead letter %s: %w", id, err)
	case len(letters) == 0:
		return nil, noDeadLetters(id)
	}
	d := &letters[0]
	return &DeadLetterList{
		Total:   1,
		Groups:  []DeadLetterGroup{{d.Reason, d.TenantID, d.State, 1, d.ReceivedAt, d.ReceivedAt}},
		Letters: letters,
	}, nil
}

// noDeadLetters is the problem of unknown ids. It names the first of them.
func noDeadLetters(ids ...string) *api.Problem {
	const shown = 10
	if len(ids) > shown {
		ids = append(ids[:shown:shown], fmt.Sprintf("and %d more", len(ids)-shown))
	}
	return api.NewProblem(api.NotFound, "There is no dead letter %s. GET /api/v1/admin/dead-letters lists them.", strings.Join(ids, ", "))
}

func collectDeadLetters(rows pgx.Rows) ([]DeadLetter, error) {
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (d DeadLetter, err error) {
		var at odometer.Position
		err = row.Scan(&at.Epoch, &at.Seq, &d.Subject, &d.TenantID, &d.Agent, &d.Reason, &d.Detail, &d.State, &d.ReceivedAt,
			&d.PayloadBase64, &d.PayloadBytes, &d.Headers, &d.DecidedAt, &d.DecidedBy, &d.Why)
		if err != nil {
			return d, err
		}
		d.ID = deadLetterID(at)
		inUTC(&d.ReceivedAt, d.DecidedAt)
		cut := len(d.PayloadBase64) < d.PayloadBytes
		d.Payload = harmlessText(d.PayloadBase64, cut)
		d.Truncated = cut || d.Headers == nil
		if d.Headers == nil {
			d.Headers = map[string][]string{}
		}
		return d, nil
	})
}

// harmlessText is a payload that a page may show as text; nil for any other. A
// payload that was cut may end within a character.
func harmlessText(payload []byte, cut bool) *string {
	for trimmed := 0; cut && trimmed < utf8.UTFMax-1 && !endsInWholeCharacter(payload); trimmed++ {
		payload = payload[:len(payload)-1]
	}
	text := string(payload)
	if !utf8.ValidString(text) {
		return nil
	}
	for _, r := range text {
		white := r == '\n' || r == '\r' || r == '\t'
		if unicode.IsControl(r) && !white || unicode.Is(unicode.Bidi_Control, r) {
			return nil
		}
	}
	return &text
}

func endsInWholeCharacter(text []byte) bool {
	r, size := utf8.DecodeLastRune(text)
	return r != utf8.RuneError || size != 1
}

// deadLetterID is the id of a dead letter for people: <epoch>-<seq>.
func deadLetterID(at odometer.Position) string { return fmt.Sprintf("%d-%d", at.Epoch, at.Seq) }

// parseDeadLetterID parses a deadLetterID.
func parseDeadLetterID(id string) (at odometer.Position, err error) {
	first, second, _ := strings.Cut(id, "-")
	epoch, errEpoch := strconv.ParseInt(first, 10, 32)
	seq, errSeq := strconv.ParseInt(second, 10, 64)
	at = odometer.Position{Epoch: int32(epoch), Seq: seq}
	if errEpoch != nil || errSeq != nil || epoch < 1 || seq < 1 || deadLetterID(at) != id {
		return at, api.NewProblem(api.InvalidRequest, "id is %q: a dead letter's id is <epoch>-<seq>, as 1-4711.", id)
	}
	return at, nil
}

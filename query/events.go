package query

import (
	"context"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer"
	"odometer/api"
)

// Bounds of a list of events.
const (
	DefaultEvents = 100
	MaxEvents     = 1000
	MaxEventsSpan = 31 * 24 * time.Hour
)

// EventsRequest asks for the events that occurred in a span of time. Zero
// values mean what is said.
type EventsRequest struct {
	Reader
	From       time.Time // zero: 31 days before To
	To         time.Time // exclusive; zero: the latest that an event can have occurred by now
	Agent      string    // "": all
	ActionType string    // "": all
	Limit      int       // 0: DefaultEvents; of an export: all
	Cursor     string    // an earlier answer's, to go on; it knows From and To
}

// Events are what the counters are made of, newest first. It encodes to the
// JSON of GET /api/v1/usage/events.
type Events struct {
	TenantID     uuid.UUID  `json:"tenant_id"`
	From         time.Time  `json:"from"`
	To           time.Time  `json:"to" doc:"Exclusive."`
	AsOf         Instant    `json:"as_of"`
	CompleteFrom *time.Time `json:"complete_from" doc:"What occurred before may have been removed by retention. null: nothing was removed."`
	Events       []Event    `json:"events" doc:"By occurred_at, the newest first; at the same time by event_id, the highest first."`
	NextCursor   *string    `json:"next_cursor" doc:"Give it as cursor to go on. null: that was all."`
}

// Event is one event as it was counted.
type Event struct {
	EventID        uuid.UUID     `json:"event_id"`
	Agent          string        `json:"agent"`
	Kind           odometer.Kind `json:"kind" enum:"usage,adjustment"`
	ActionType     string        `json:"action_type" doc:"adjustment for corrections."`
	ResourceID     *string       `json:"resource_id"`
	Quantity       int64         `json:"quantity" doc:"Units; negative in corrections only."`
	IdempotencyKey string        `json:"idempotency_key"`
	Metadata       Metadata      `json:"metadata"`
	OccurredAt     time.Time     `json:"occurred_at"`
	RecordedAt     time.Time     `json:"recorded_at" doc:"When the stream stored it."`
	PeriodStart    time.Time     `json:"period_start" doc:"The billing period that it is counted in."`
	Late           bool          `json:"late" doc:"It occurred in an earlier period, which was closed."`
}

// Metadata is a JSON object as the database writes it, "" for none.
type Metadata string

// MarshalJSON writes the object, or null.
func (m Metadata) MarshalJSON() ([]byte, error) {
	if m == "" {
		return []byte("null"), nil
	}
	return []byte(m), nil
}

// ReadEvents reads a page of events. Pages that follow one another by cursors
// show each event once, however many arrive meanwhile. The error is a *Refusal
// where there is no answer, anything else is the database's.
func ReadEvents(ctx context.Context, pool *pgxpool.Pool, r EventsRequest) (*Events, error) {
	if r.Limit == 0 {
		r.Limit = DefaultEvents
	}
	if err := r.check(); err != nil {
		return nil, err
	}
	var page *Events
	err := inSnapshot(ctx, pool, func(ctx context.Context, tx pgx.Tx) error {
		rows, err := load(ctx, tx, r.Reader)
		if err != nil {
			return err
		}
		list, err := r.list(rows[0].Now)
		if err != nil {
			return err
		}
		page = &Events{TenantID: r.Tenant, From: list.from.UTC(), To: list.to.UTC(), AsOf: Instant{*rows[0].CompleteUntil}}
		if page.CompleteFrom, err = completeFrom(ctx, tx, r.Tenant); err != nil {
			return err
		}
		return page.fill(ctx, tx, list, r.Limit)
	})
	if err != nil {
		return nil, tooMuch(err)
	}
	return page, nil
}

// check refuses what no list can be made of.
func (r *EventsRequest) check() error {
	if r.Limit < 0 || r.Limit > MaxEvents {
		return refuse(ErrInvalid, "limit is %d: it must be from 1 to %d.", r.Limit, MaxEvents)
	}
	if r.Agent != "" && !odometer.ValidAgent(r.Agent) {
		return refuse(ErrInvalid, "agent is %q: an agent's id is a small letter and up to 31 small letters, digits, _ and -.", api.Excerpt(r.Agent))
	}
	if !utf8.ValidString(r.ActionType) || strings.ContainsRune(r.ActionType, 0) || utf8.RuneCountInString(r.ActionType) > 255 {
		return refuse(ErrInvalid, "action_type is %q: it must be at most 255 characters of text.", api.Excerpt(r.ActionType))
	}
	return nil
}

// list is what a page is a part of, and where the page begins.
type list struct {
	tenant        uuid.UUID
	agent, action string
	from, to      time.Time
	after         *mark // the last event of the page before; nil at the beginning
}

// mark is an event's place in the order of a list.
type mark struct {
	at time.Time
	id uuid.UUID
}

// list finds out which list is asked for. A list that a cursor goes on with is
// the one that it was begun as.
func (r *EventsRequest) list(now time.Time) (*list, error) {
	l := &list{tenant: r.Tenant, agent: r.Agent, action: r.ActionType, from: ceil(r.From), to: ceil(r.To)}
	if r.Cursor != "" {
		if err := l.resume(r.Cursor); err != nil {
			return nil, err
		}
		if !r.From.IsZero() && !l.from.Equal(ceil(r.From)) || !r.To.IsZero() && !l.to.Equal(ceil(r.To)) {
			return nil, refuse(ErrInvalid, "cursor goes on with a list from %s to %s: leave from and to out, or give these.", l.from.Format(time.RFC3339Nano), l.to.Format(time.RFC3339Nano))
		}
	}
	if l.to.IsZero() {
		// Whole seconds read better; the next one keeps the last events in.
		l.to = now.UTC().Truncate(time.Second).Add(time.Second + odometer.MaxAhead)
	}
	if l.from.IsZero() {
		l.from = l.to.Add(-MaxEventsSpan)
	}
	from, to := l.from.UTC().Format(time.RFC3339Nano), l.to.UTC().Format(time.RFC3339Nano)
	switch {
	case !l.from.Before(l.to):
		return nil, refuse(ErrInvalid, "from is %s and to is %s: from must be before to.", from, to)
	case l.to.Sub(l.from) > MaxEventsSpan:
		return nil, refuse(ErrInvalid, "from is %s and to is %s: at most 31 days are listed at once.", from, to)
	}
	return l, nil
}

// ceil rounds up to what the database tells apart: an event is at or after t
// just when it is at or after ceil(t).
func ceil(t time.Time) time.Time {
	if down := t.Truncate(time.Microsecond); down.Before(t) {
		return down.Add(time.Microsecond)
	}
	return t
}

// resumption is where a list goes on, and which list it is.
type resumption struct {
	From  time.Time `json:"f"`
	To    time.Time `json:"t"`
	After time.Time `json:"a"`
	ID    uuid.UUID `json:"i"`
}

// cursor is where the list goes on after an event.
func (l *list) cursor(last *Event) *string {
	return api.WriteCursor(resumption{l.from.UTC(), l.to.UTC(), last.OccurredAt, last.EventID}, l.name()...)
}

// resume takes the list up where the cursor says.
func (l *list) resume(cursor string) error {
	r, ok := api.ReadCursor[resumption](cursor, l.name()...)
	if !ok || !plausible(r.From) || !plausible(r.To) || !plausible(r.After) {
		return noCursor(cursor)
	}
	l.from, l.to, l.after = r.From, r.To, &mark{r.After, r.ID}
	return nil
}

// name tells the list from others, whatever its span.
func (l *list) name() []string { return []string{"events", l.tenant.String(), l.agent, l.action} }

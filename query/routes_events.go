package query

import (
	"context"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/google/uuid"

	"odometer"
	"odometer/api"
)

const eventsRoute = "/api/v1/usage/events"

const (
	jsonType = "application/json"
	csvType  = "text/csv"
)

func (s *server) registerEvents(a *api.API) {
	api.Register(a, api.Route{
		ID: "usage-events", Method: http.MethodGet, Path: eventsRoute, Tag: "usage", Scope: api.ReadScope, PerMinute: readsPerMinute,
		Summary: "The events that usage is made of",
		Description: "Those that occurred in a span of at most 31 days, the newest first. Pages that follow one another by `next_cursor` show each event once, however many arrive meanwhile. " +
			"With `Accept: text/csv` the whole span is one file, or its first `limit` events; text that a spreadsheet would take for a formula (= + - @ tab CR first) has a ' in front. " +
			"A file that ends with an error is cut off: check that the transfer was complete.",
		Problems: readProblems,
		Example:  exampleEvents(),
		Document: documentEvents,
	}, s.events)
}

type eventsAsked struct {
	From       moment `query:"from" doc:"Default: 31 days before to."`
	To         moment `query:"to" doc:"Exclusive. Default: 5 minutes from now, the latest that an event can have occurred."`
	Agent      string `query:"agent" pattern:"^[a-z][a-z0-9_-]{0,31}$" patternDescription:"a small letter and up to 31 small letters, digits, _ and -" example:"inbox" doc:"Only this agent's."`
	ActionType string `query:"action_type" maxLength:"255" example:"email_processed" doc:"Only these; adjustment for corrections."`
	Limit      int    `query:"limit" minimum:"1" maximum:"1000" doc:"Events of a page. Default: 100; of a CSV file: all."`
	Cursor     string `query:"cursor" maxLength:"300" doc:"The next_cursor of an earlier answer to the same question, to go on there."`
}

func (q *eventsAsked) request(who api.Caller) EventsRequest {
	return EventsRequest{
		Reader: reader(who), From: q.From.Time, To: q.To.Time,
		Agent: q.Agent, ActionType: q.ActionType, Limit: q.Limit, Cursor: q.Cursor,
	}
}

// eventsTold is a page or a file.
type eventsTold struct {
	Type        string   `header:"Content-Type" hidden:"true"`
	Disposition string   `header:"Content-Disposition" doc:"Of a CSV file: attachment, with a name."`
	AsOf        string   `header:"Odometer-As-Of" doc:"as_of, also of a file."`
	From        string   `header:"Odometer-Complete-From" doc:"Of a file: complete_from, where it is not null."`
	Vary        []string `header:"Vary" hidden:"true"`
	Body        func(huma.Context)
}

// events answers GET /api/v1/usage/events.
func (s *server) events(ctx context.Context, who api.Caller, asked *eventsAsked) (*eventsTold, error) {
	if preferred(api.HeaderLines(ctx, "Accept"), jsonType, csvType) == csvType {
		return s.eventsFile(ctx, asked.request(who))
	}
	if !s.wide.Enter(ctx, who.Tenant) {
		return nil, crowded(ctx, "reads of events", wideEach, maxWide)
	}
	defer s.wide.Leave(who.Tenant)
	page, err := ReadEvents(ctx, s.pool, asked.request(who))
	if err != nil {
		return nil, refused(err)
	}
	text, err := api.JSON(page)
	if err != nil {
		return nil, wrap(err, "write events of tenant %s", who.Tenant)
	}
	return &eventsTold{Type: jsonType, AsOf: page.AsOf.String(), Vary: []string{"Accept"}, Body: func(ctx huma.Context) {
		_, _ = ctx.BodyWriter().Write(text) // whoever hung up does not miss it
	}}, nil
}

// eventsFile answers with a CSV file.
func (s *server) eventsFile(ctx context.Context, r EventsRequest) (*eventsTold, error) {
	if api.IsHead(ctx) {
		return s.eventsHead(ctx, r)
	}
	if !s.exports.Enter(ctx, r.Tenant) {
		return nil, crowded(ctx, "files", exportsEach, maxExports)
	}
	e, err := OpenExport(ctx, s.pool, r)
	if err != nil {
		s.exports.Leave(r.Tenant)
		return nil, refused(err)
	}
	told := toldOf(e)
	told.Body = func(ctx huma.Context) {
		defer s.exports.Leave(r.Tenant)
		defer e.Close()
		s.send(ctx, e)
	}
	return told, nil
}

// eventsHead answers with a file's headers, for which nothing need be written:
// it takes no place from a file. How long the file would be is not known.
func (s *server) eventsHead(ctx context.Context, r EventsRequest) (*eventsTold, error) {
	e, err := LookAtExport(ctx, s.pool, r)
	if err != nil {
		return nil, refused(err)
	}
	told := toldOf(e)
	told.Body = func(huma.Context) {}
	return told, nil
}

// toldOf is what an answer says of a file before its first line.
func toldOf(e *Export) *eventsTold {
	from := ""
	if e.CompleteFrom != nil {
		from = e.CompleteFrom.Format(time.RFC3339Nano)
	}
	name := "usage-events-" + e.AsOf.UTC().Format("20060102T150405Z") + ".csv"
	return &eventsTold{
		Type: csvType + "; charset=utf-8; header=present", Disposition: `attachment; filename="` + name + `"`,
		AsOf: e.AsOf.String(), From: from, Vary: []string{"Accept"},
	}
}

// send writes the file. What cannot be finished is cut off, so that nobody
// takes it for whole.
func (s *server) send(ctx huma.Context, e *Export) {
	request, w := humago.Unwrap(ctx)
	to := &patient{to: w, control: http.NewResponseController(w)}
	err := e.Write(to)
	if err == nil {
		return
	}
	if !to.failed && request.Context().Err() == nil {
		s.log.ErrorContext(request.Context(), "a file of events was cut off", "err", err)
	}
	panic(http.ErrAbortHandler)
}

// sendTimeout is how long a client may take for one step of a file.
const sendTimeout = 30 * time.Second

// patient sends what is written to it at once, and waits for the client so
// long but no longer: it holds a connection of the database meanwhile.
type patient struct {
	to      http.ResponseWriter
	control *http.ResponseController
	failed  bool
}

func (p *patient) Write(part []byte) (int, error) {
	_ = p.control.SetWriteDeadline(time.Now().Add(sendTimeout)) // not known to test recorders
	n, err := p.to.Write(part)
	if err == nil {
		err = p.control.Flush()
	}
	p.failed = err != nil
	return n, err
}

// documentEvents adds what huma cannot read from a body that is a function.
func documentEvents(op *huma.Operation) {
	answer := op.Responses["200"]
	answer.Content[jsonType].Schema = eventsSchema()
	answer.Content[csvType] = &huma.MediaType{
		Schema:  &huma.Schema{Type: huma.TypeString},
		Example: string(exampleEvents().Events[0].appendCSV([]byte(csvHeader))),
	}
}

// eventsSchema describes a page with its events in it, not by reference: the
// document knows by name only what huma has found.
func eventsSchema() *huma.Schema {
	registry := huma.NewMapRegistry("#/", huma.DefaultSchemaNamer)
	page := huma.SchemaFromType(registry, reflect.TypeFor[Events]())
	page.Properties["events"].Items = huma.SchemaFromType(registry, reflect.TypeFor[Event]())
	return page
}

// Schema describes metadata.
func (Metadata) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeObject, Nullable: true, AdditionalProperties: true}
}

func exampleEvents() *Events {
	resource, at := "msg-4711", time.Date(2026, 11, 23, 7, 15, 30, 251_000_000, time.UTC)
	l := list{tenant: exampleTenant, from: exampleStart.AddDate(0, 0, -8), to: exampleStart.AddDate(0, 0, 23)}
	events := []Event{{
		EventID: uuid.MustParse("234bc095-7256-f1c7-9fc4-3b4aca9c1841"), Agent: "inbox", Kind: odometer.Usage, ActionType: "email_processed",
		ResourceID: &resource, Quantity: 1, IdempotencyKey: "run-42/msg-4711", Metadata: `{"model": "small", "tokens": 812}`,
		OccurredAt: at, RecordedAt: at.Add(37 * time.Millisecond), PeriodStart: exampleStart,
	}}
	return &Events{
		TenantID: exampleTenant, From: l.from, To: l.to, AsOf: exampleAsOf,
		Events: events, NextCursor: l.cursor(&events[0]),
	}
}

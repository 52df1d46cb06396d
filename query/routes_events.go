package query

import (
	"context"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

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

type eventsInput struct {
	From       timeParameter `query:"from" doc:"Default: 31 days before to."`
	To         timeParameter `query:"to" doc:"Exclusive. Default: 5 minutes from now, the latest that an event can have occurred."`
	Agent      string        `query:"agent" pattern:"^[a-z][a-z0-9_-]{0,31}$" patternDescription:"a small letter and up to 31 small letters, digits, _ and -" example:"inbox" doc:"Only this agent's."`
	ActionType string        `query:"action_type" maxLength:"255" example:"email_processed" doc:"Only these; adjustment for corrections."`
	Limit      int           `query:"limit" minimum:"1" maximum:"1000" doc:"Events of a page. Default: 100; of a CSV file: all."`
	Cursor     string        `query:"cursor" maxLength:"300" doc:"The next_cursor of an earlier answer to the same question, to go on there."`
}

func (q *eventsInput) request(who api.Caller) EventsRequest {
	return EventsRequest{
		Reader: reader(who), From: q.From.Time, To: q.To.Time,
		Agent: q.Agent, ActionType: q.ActionType, Limit: q.Limit, Cursor: q.Cursor,
	}
}

// eventsOutput is a page or a file.
type eventsOutput struct {
	Type        string   `header:"Content-Type" hidden:"true"`
	Disposition string   `header:"Content-Disposition" doc:"Of a CSV file: attachment, with a name."`
	AsOf        string   `header:"Odometer-As-Of" doc:"as_of, also of a file."`
	From        string   `header:"Odometer-Complete-From" doc:"Of a file: complete_from, where it is not null."`
	Vary        []string `header:"Vary" hidden:"true"`
	Body        func(huma.Context)
}

// events answers GET /api/v1/usage/events.
func (s *server) events(ctx context.Context, who api.Caller, in *eventsInput) (*eventsOutput, error) {
	if preferred(api.HeaderLines(ctx, "Accept"), jsonType, csvType) == csvType {
		return s.eventsFile(ctx, in.request(who))
	}
	if !s.scans.Enter(ctx, who.Tenant) {
		return nil, tooManyReads(ctx, "reads of events", scansEach, maxScans)
	}
	defer s.scans.Leave(who.Tenant)
	page, err := ReadEvents(ctx, s.pool, in.request(who))
	if err != nil {
		return nil, problemFor(err)
	}
	text, err := api.JSON(page)
	if err != nil {
		return nil, wrap(err, "write events of tenant %s", who.Tenant)
	}
	return &eventsOutput{Type: jsonType, AsOf: page.AsOf.String(), Vary: []string{"Accept"}, Body: func(ctx huma.Context) {
		_, _ = ctx.BodyWriter().Write(text) // a client that hung up needs no error
	}}, nil
}

// eventsFile answers with a CSV file.
func (s *server) eventsFile(ctx context.Context, r EventsRequest) (*eventsOutput, error) {
	if api.IsHead(ctx) {
		return s.eventsHead(ctx, r)
	}
	if !s.exports.Enter(ctx, r.Tenant) {
		return nil, tooManyReads(ctx, "files", exportsEach, maxExports)
	}
	e, err := OpenExport(ctx, s.pool, r)
	if err != nil {
		s.exports.Leave(r.Tenant)
		return nil, problemFor(err)
	}
	output := exportHeaders(e)
	output.Body = func(ctx huma.Context) {
		defer s.exports.Leave(r.Tenant)
		defer e.Close()
		s.send(ctx, e)
	}
	return output, nil
}

// eventsHead answers HEAD with a file's headers. It takes no slot, because no
// file is written. The length of the file is not known.
func (s *server) eventsHead(ctx context.Context, r EventsRequest) (*eventsOutput, error) {
	e, err := ExportHeaders(ctx, s.pool, r)
	if err != nil {
		return nil, problemFor(err)
	}
	output := exportHeaders(e)
	output.Body = func(huma.Context) {}
	return output, nil
}

// exportHeaders is the answer of a file, without its body.
func exportHeaders(e *Export) *eventsOutput {
	from := ""
	if e.CompleteFrom != nil {
		from = e.CompleteFrom.Format(time.RFC3339Nano)
	}
	name := "usage-events-" + e.AsOf.UTC().Format("20060102T150405Z") + ".csv"
	return &eventsOutput{
		Type: csvType + "; charset=utf-8; header=present", Disposition: `attachment; filename="` + name + `"`,
		AsOf: e.AsOf.String(), From: from, Vary: []string{"Accept"},
	}
}

// send writes the file. On an error it aborts the connection, so that the client
// sees that the file is incomplete.
func (s *server) send(ctx huma.Context, e *Export) {
	request, w := humago.Unwrap(ctx)
	to := &flushWriter{to: w, control: http.NewResponseController(w)}
	err := e.Write(to)
	if err == nil {
		return
	}
	if !to.failed && request.Context().Err() == nil {
		s.log.ErrorContext(request.Context(), "export of events aborted", "reason", err)
	}
	panic(http.ErrAbortHandler)
}

// sendTimeout is how long a client may take for one step of a file.
const sendTimeout = 30 * time.Second

// flushWriter sends each write at once and waits at most sendTimeout for the
// client: the export holds a connection of the database meanwhile.
type flushWriter struct {
	to      http.ResponseWriter
	control *http.ResponseController
	failed  bool
}

func (p *flushWriter) Write(part []byte) (int, error) {
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

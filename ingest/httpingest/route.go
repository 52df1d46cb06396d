// Package httpingest takes events over HTTP, for agents that speak no NATS:
// POST /api/v1/events. It validates each event as package ingest does, publishes
// the valid ones in their order, and answers what became of each.
//
// What it guarantees:
//
//   - Accepted means stored: 202 is answered only after the stream holds every
//     valid event of the request. Otherwise the answer is 503, and the client
//     repeats the whole request; what was stored already is counted once.
//   - What is sent are the event's own bytes, for the token's tenant only.
//   - One event that is invalid keeps no other from being stored. A body that
//     is not what its Content-Type says is refused as a whole, and nothing of
//     it is stored.
//   - No client does harm by what it sends, or by not sending: a body is read in
//     a bounded time and up to a bounded size, its memory grows with what has
//     arrived, the bodies held at once are bounded in all and for each tenant,
//     and nothing recurses deeper than 10,000 levels into what was sent.
//
// In the order in which a request passes them:
//
//	route.go   the operation and its handler
//	body.go    the Content-Type, and the body read within its bounds
//	events.go  where each event begins and ends, and what becomes of it
//	answer.go  the answer's JSON
//	openapi.go the operation in the OpenAPI document
package httpingest

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json"

	"odometer/api"
	"odometer/ingest/publisher"
)

// Options are what the route needs.
type Options struct {
	Publisher *publisher.Publisher
	Log       *slog.Logger

	BodyTimeout    time.Duration // how long a body may take to arrive; 0: 10 s
	PublishTimeout time.Duration // how long the stream may take to store it; 0: 10 s
	Bodies         int           // that are held at once; 0: 64
	RoomTimeout    time.Duration // how long a request waits to be one of them; 0: 5 s
}

// Path is where events are posted to.
const Path = "/api/v1/events"

// Register adds POST /api/v1/events to the API.
func Register(a *api.API, o Options) { newHandler(o).register(a) }

// shares is how many tenants it takes to fill the gate: one whose bodies come
// slowly keeps no other out.
const shares = 4

// handler takes the requests.
type handler struct {
	Options
	gate *api.Gate // the bodies that are held
}

func newHandler(o Options) *handler {
	if o.BodyTimeout == 0 {
		o.BodyTimeout = 10 * time.Second
	}
	if o.PublishTimeout == 0 {
		o.PublishTimeout = 10 * time.Second
	}
	if o.Bodies == 0 {
		o.Bodies = 64
	}
	if o.RoomTimeout == 0 {
		o.RoomTimeout = 5 * time.Second
	}
	gate := api.NewGate(o.Bodies, max(1, o.Bodies/shares), o.RoomTimeout)
	return &handler{Options: o, gate: gate}
}

func (h *handler) register(a *api.API) {
	api.RegisterPlain(a, api.Route{
		ID: "post-events", Method: http.MethodPost, Path: Path, Tag: "events",
		Summary: "Record usage",
		Description: "One event, an array of events, or one on each line (NDJSON): at most 1,000, and at most 1 MiB. " +
			"Each names its agent; a CloudEvent does so in its type, `<agent>.<action_type>`. The tenant is the token's.\n\n" +
			"202 is answered after the stream has stored every valid event. `accepted` means stored, not yet counted: an agent or action that the catalogue does not have becomes a dead letter, which operators see and can retry. On 503 or without an answer send the same bytes again: " +
			"an event is counted once by its `idempotency_key`. Make the key, and store it, before the act that it records.",
		Scope: api.WriteScope, Status: http.StatusAccepted,
		Problems: []api.Kind{api.TooSlow, api.TooLarge, api.UnsupportedMediaType},
		Example:  exampleAnswer(),
		Refusals: []*api.Problem{notJSON([]byte(`[{"agent":"inbox"},]`)), tooSlow(h.BodyTimeout), tooLarge(), unknownMedia("text/plain"), uncertain()},
		Document: func(op *huma.Operation) { describe(a.Schemas(), op) },
	}, h.serve)
}

// serve answers a request whose sender has the scope to write.
func (h *handler) serve(w http.ResponseWriter, r *http.Request, who api.Caller) error {
	m, err := mediaOf(r.Header)
	if err != nil {
		return err
	}
	if !h.gate.Enter(r.Context(), who.Tenant) {
		if r.Context().Err() != nil {
			return r.Context().Err() // the client has gone
		}
		p := api.NewProblem(api.Unavailable, "Too many requests are being read: there was no room for this one within %s. Send the same again in a second.", h.RoomTimeout)
		p.RetryAfter(time.Second)
		return p
	}
	defer h.gate.Leave(who.Tenant)
	body, err := readBody(w, r, h.BodyTimeout)
	if err != nil {
		return err
	}
	parts, err := split(body, m)
	if err != nil {
		return err
	}
	results, valid, err := validate(body, parts, who.Tenant, m)
	if err != nil {
		return err
	}
	if err := h.publish(r.Context(), valid, results); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	_ = json.MarshalWrite(w, newAnswer(results)) // a client that hung up sends the events again
	return nil
}

// awayTimeout is how long a request waits for a stream that cannot be reached
// when it arrives: long enough for a reconnect, shorter than clients wait.
const awayTimeout = 2 * time.Second

// publish waits for the stream as long as that makes sense.
func (h *handler) publish(asked context.Context, valid []publisher.Raw, results []Result) error {
	timeout := h.PublishTimeout
	if !h.Publisher.Connected() {
		timeout = min(timeout, awayTimeout)
	}
	ctx, cancel := context.WithTimeout(asked, timeout)
	defer cancel()
	err := publish(ctx, h.Publisher, valid, results)
	switch {
	case err == nil:
		return nil
	case asked.Err() != nil:
		return err // the client has gone
	case errors.Is(err, publisher.ErrStreamFull):
		h.Log.ErrorContext(ctx, "events are refused", "reason", err)
		return api.NewProblem(api.Unavailable, "Events cannot be stored: there is no room for more. Keep them, and send the same again later.")
	default:
		h.Log.WarnContext(ctx, "events may not be stored", "reason", err)
		return uncertain()
	}
}

func uncertain() *api.Problem {
	return api.NewProblem(api.Unavailable, "It is not certain that every event was stored. Send the same again: each is counted once.")
}

package query

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer/api"
)

// databaseTimeout is how long an answer may take the database.
const databaseTimeout = 5 * time.Second

// usageRoute is where a tenant's current usage is read.
const usageRoute = "/api/v1/usage"

// Options configure the reads.
type Options struct {
	Pool              *pgxpool.Pool
	RequestsPerMinute int // of one tenant, for GET /api/v1/usage; 0: no limit
}

// server answers the reads.
type server struct {
	pool    *pgxpool.Pool
	log     *slog.Logger
	exports *api.Gate // bounds files that are being written
	scans   *api.Gate // bounds reads of many events
}

// Bounds of reads that hold a connection of the database, and a processor, for
// long. The dashboard reads a history or two and a page of events at once.
const (
	maxExports, exportsEach = 4, 1
	maxScans, scansEach     = 8, 3
	slotTimeout             = 2 * time.Second // that a read waits for a slot
)

// Register adds the reads to the API.
func Register(a *api.API, o Options) {
	s := &server{pool: o.Pool, log: a.Log, exports: api.NewGate(maxExports, exportsEach, slotTimeout), scans: api.NewGate(maxScans, scansEach, slotTimeout)}
	api.Register(a, api.Route{
		ID: "usage", Method: http.MethodGet, Path: usageRoute, Tag: "usage", Scope: api.ReadScope, PerMinute: o.RequestsPerMinute,
		Summary: "The usage of the current billing period",
		Description: "By agent: how much is used, of what limit, and what lies beyond it costs. `as_of` says up to when every valid event is counted. " +
			"The ETag covers everything but `as_of`: a poll that finds nothing new is answered with 304 and the new `as_of` in the header Odometer-As-Of.",
		Statuses: []int{http.StatusNotModified},
		Problems: []api.Kind{api.NoSubscription, api.SubscriptionInactive, api.NoPlan},
		Example:  exampleAnswer(),
	}, s.usage)
	s.registerHistory(a)
	s.registerEvents(a)
	s.registerPeriods(a)
}

// refusals is the kind of problem of each cause of a Refusal.
var refusals = []struct {
	cause error
	kind  api.Kind
}{
	{ErrNoSubscription, api.NoSubscription},
	{ErrInactive, api.SubscriptionInactive},
	{ErrNotBegun, api.NoSubscription},
	{ErrNoPlan, api.NoPlan},
	{ErrNotRead, api.Unavailable},
	{ErrInvalid, api.InvalidRequest},
	{ErrTooMuch, api.Unavailable},
}

// problemFor turns a Refusal into its problem and returns other errors unchanged.
func problemFor(err error) error {
	var refusal *Refusal
	if !errors.As(err, &refusal) {
		return err
	}
	for _, known := range refusals {
		if errors.Is(refusal, known.cause) {
			return api.NewProblem(known.kind, "%s", refusal.Error())
		}
	}
	return api.NewProblem(api.Internal, "%s", refusal.Error())
}

// tooManyReads is the problem of a read that got no slot in time.
func tooManyReads(ctx context.Context, sort string, each, all int) error {
	if ctx.Err() != nil {
		return ctx.Err() // the client does not wait any more
	}
	p := api.NewProblem(api.Unavailable, "As many %s as can be are under way: %d of a tenant, %d in all. Ask again in a second.", sort, each, all)
	p.RetryAfter(time.Second)
	return p
}

// usageInput documents If-None-Match, which is read from the header's lines: there
// may be several.
type usageInput struct {
	IfNoneMatch string `header:"If-None-Match" doc:"The ETag of an earlier answer."`
}

type usageOutput struct {
	Status int
	ETag   string `header:"ETag" doc:"Names everything but as_of."`
	AsOf   string `header:"Odometer-As-Of" doc:"as_of, also where there is no body."`
	Body   *Answer
}

// usage answers GET /api/v1/usage.
func (s *server) usage(ctx context.Context, who api.Caller, _ *usageInput) (*usageOutput, error) {
	ctx, cancel := context.WithTimeout(ctx, databaseTimeout)
	defer cancel()
	a, err := Usage(ctx, s.pool, who.Tenant)
	if err != nil {
		return nil, problemFor(err)
	}
	tag, err := etag(a)
	if err != nil {
		return nil, err
	}
	output := &usageOutput{Status: http.StatusOK, ETag: tag, AsOf: a.AsOf.String(), Body: a}
	if matches(api.HeaderLines(ctx, "If-None-Match"), tag) {
		output.Status, output.Body = http.StatusNotModified, nil
	}
	return output, nil
}

// timeParameter is a time in a query.
type timeParameter struct{ time.Time }

// plausible reports whether an event can have occurred then. The database and
// RFC 3339 can represent what lies a window beyond it.
func plausible(t time.Time) bool { return t.Year() >= 1970 && t.Year() <= 2999 }

// UnmarshalText reads a time of RFC 3339.
func (m *timeParameter) UnmarshalText(text []byte) error {
	t, err := time.Parse(time.RFC3339, string(text))
	switch {
	case err != nil && strings.Contains(string(text), " "):
		return errors.New("a + in a query is a space: write %2B, or the time in UTC with Z")
	case err != nil:
		return errors.New("it must be a time of RFC 3339, as 2026-11-01T00:00:00Z")
	case !plausible(t):
		return errors.New("it must be in the years 1970 to 2999")
	}
	m.Time = t
	return nil
}

// Schema describes it.
func (timeParameter) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Format: "date-time", Examples: []any{"2026-11-01T00:00:00Z"}}
}

func invalidCursor(cursor string) error {
	return refuse(ErrInvalid, "cursor is %q: it must be the next_cursor of an answer to the same request. Leave it out to start at the beginning.", api.Excerpt(cursor))
}

const historyRoute = "/api/v1/usage/history"

// readsPerMinute is the rate limit of a tenant for each read but current usage.
const readsPerMinute = 60

// readProblems are the problems that any read of a tenant can answer with.
var readProblems = []api.Kind{api.NoSubscription, api.SubscriptionInactive, api.NoPlan}

// reader is the Reader of a caller.
func reader(who api.Caller) Reader {
	return Reader{Tenant: who.Tenant, Operator: who.Role == api.Admin}
}

func (s *server) registerHistory(a *api.API) {
	registerRead(a, api.Route{
		ID: "usage-history", Path: historyRoute, Example: exampleHistory(),
		Summary: "Usage by hour, day or month",
		Description: "By the time at which it occurred, whichever period it was counted in. The range is widened to whole windows of the time zone; " +
			"a day of a time zone may have 23 or 25 hours. At most 31 days by hour, 366 days by day, 60 months by month. " +
			"What is not known is left out: windows that begin before `complete_from`, and those that begin at or after `as_of`; the window that holds `as_of` is known up to then.",
	}, s.history)
}

type historyInput struct {
	From     timeParameter `query:"from" doc:"Default: the start of the current billing period, or as far back as the window allows."`
	To       timeParameter `query:"to" doc:"Exclusive. Default: now."`
	Window   Window        `query:"window" enum:"hour,day,month" default:"day" doc:"The length of a bucket."`
	GroupBy  []string      `query:"group_by" enum:"agent,action_type" maxItems:"2" uniqueItems:"true" doc:"What each bucket is divided by. Default: agent. Empty (group_by=): by nothing, groups are then empty."`
	Timezone string        `query:"timezone" default:"UTC" maxLength:"64" example:"Europe/Berlin" doc:"Whose hours, days and months: a name of the IANA list."`
}

// Resolve distinguishes an empty group_by from none.
func (h *historyInput) Resolve(ctx huma.Context) []error {
	u := ctx.URL()
	if u.Query().Has("group_by") && h.GroupBy == nil {
		h.GroupBy = []string{}
	}
	return nil
}

func (s *server) history(ctx context.Context, who Reader, in *historyInput) (*History, error) {
	if !s.scans.Enter(ctx, who.Tenant) {
		return nil, tooManyReads(ctx, "reads of events", scansEach, maxScans)
	}
	defer s.scans.Leave(who.Tenant)
	return ReadHistory(ctx, s.pool, HistoryRequest{
		Reader: who, From: in.From.Time, To: in.To.Time,
		Window: in.Window, GroupBy: in.GroupBy, Timezone: in.Timezone,
	})
}

const (
	forecastRoute = "/api/v1/usage/forecast"
	periodsRoute  = "/api/v1/periods"
	alertsRoute   = "/api/v1/alerts"
)

func (s *server) registerPeriods(a *api.API) {
	registerRead(a, api.Route{
		ID: "usage-forecast", Path: forecastRoute, Example: exampleForecast(),
		Summary: "A projection of the current period",
		Description: "If usage goes on at its present pace: the count so far, divided by the time from the period's start to `as_of`. " +
			"Projected counts are rounded down, costs once per agent, half up. " +
			"Until a thirtieth of the period has passed (of a month, about a day) it is too early to tell: then all that is projected is null.",
	}, func(ctx context.Context, who Reader, _ *noInput) (*Forecast, error) {
		ctx, cancel := context.WithTimeout(ctx, databaseTimeout)
		defer cancel()
		return ReadForecast(ctx, s.pool, who)
	})
	registerRead(a, api.Route{
		ID: "periods", Path: periodsRoute, Example: examplePeriods(),
		Summary: "The billing periods",
		Description: "The newest first. A closed period shows the counts, limits, prices and amounts that it was closed with, for ever; " +
			"one that has ended the limits and prices in force at its end; the running one those in force now.",
	}, func(ctx context.Context, who Reader, in *periodsInput) (*Periods, error) {
		return ReadPeriods(ctx, s.pool, PeriodsRequest{Reader: who, Limit: in.Limit, Cursor: in.Cursor})
	})
	registerRead(a, api.Route{
		ID: "alerts", Path: alertsRoute, Example: exampleAlerts(),
		Summary:     "Limits that are nearly used or exceeded",
		Description: "What holds now, computed from the counts, and what was raised and delivered to people.",
	}, func(ctx context.Context, who Reader, _ *noInput) (*Alerts, error) {
		return ReadAlerts(ctx, s.pool, who)
	})
}

type noInput struct{}

type periodsInput struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"100" default:"12" doc:"Periods of a page."`
	Cursor string `query:"cursor" maxLength:"200" doc:"The next_cursor of an earlier answer, to go on there."`
}

// answerBody is the JSON of a read.
type answerBody interface{ asOf() Instant }

func (h *History) asOf() Instant  { return h.AsOf }
func (f *Forecast) asOf() Instant { return f.AsOf }
func (p *Periods) asOf() Instant  { return p.AsOf }
func (a *Alerts) asOf() Instant   { return a.AsOf }

// output is an answer with its as_of as a header too.
type output[B answerBody] struct {
	AsOf string `header:"Odometer-As-Of" doc:"as_of."`
	Body B
}

// registerRead adds a read with the rate limit and problems that most have.
func registerRead[I any, B answerBody](a *api.API, r api.Route, read func(ctx context.Context, who Reader, in *I) (B, error)) {
	r.Method, r.Tag, r.Scope, r.PerMinute, r.Problems = http.MethodGet, "usage", api.ReadScope, readsPerMinute, readProblems
	api.Register(a, r, func(ctx context.Context, who api.Caller, in *I) (*output[B], error) {
		body, err := read(ctx, reader(who), in)
		if err != nil {
			return nil, problemFor(err)
		}
		return &output[B]{body.asOf().String(), body}, nil
	})
}

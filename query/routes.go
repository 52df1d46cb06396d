package query

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"odometer/api"
)

// databaseTimeout is how long an answer may take the database.
const databaseTimeout = 5 * time.Second

// usageRoute is where a tenant's current usage is read.
const usageRoute = "/api/v1/usage"

// Options are what the reads need.
type Options struct {
	Pool              *pgxpool.Pool
	RequestsPerMinute int // of one tenant, for GET /api/v1/usage; 0: no limit
}

// server answers the reads.
type server struct {
	pool    *pgxpool.Pool
	log     *slog.Logger
	exports *api.Gate // files that are being written
	wide    *api.Gate // reads of many events
}

// Bounds of what holds a connection of the database, and a processor, for long.
// A page of usage asks for a history or two and a page of events.
const (
	maxExports, exportsEach = 4, 1
	maxWide, wideEach       = 8, 3
	roomTimeout             = 2 * time.Second // for which a read waits to be one of them
)

// Register puts the reads behind the door.
func Register(a *api.API, o Options) {
	s := &server{pool: o.Pool, log: a.Log, exports: api.NewGate(maxExports, exportsEach, roomTimeout), wide: api.NewGate(maxWide, wideEach, roomTimeout)}
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

// refusals says what kind of problem each cause of a Refusal is.
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

// refused makes a Refusal the problem that it is; other errors are as they were.
func refused(err error) error {
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

// crowded is the refusal of a read for which there is no room.
func crowded(ctx context.Context, sort string, each, all int) error {
	if ctx.Err() != nil {
		return ctx.Err() // nobody waits for it any more
	}
	p := api.NewProblem(api.Unavailable, "As many %s as can be are under way: %d of a tenant, %d in all. Ask again in a second.", sort, each, all)
	p.RetryAfter(time.Second)
	return p
}

// usageAsked is a request for usage. Its tags are compared as the header's
// lines are, of which there may be several.
type usageAsked struct {
	IfNoneMatch string `header:"If-None-Match" doc:"The ETag of an earlier answer."`
}

type usageTold struct {
	Status int
	ETag   string `header:"ETag" doc:"Names everything but as_of."`
	AsOf   string `header:"Odometer-As-Of" doc:"as_of, also where there is no body."`
	Body   *Answer
}

// usage answers GET /api/v1/usage.
func (s *server) usage(ctx context.Context, who api.Caller, _ *usageAsked) (*usageTold, error) {
	ctx, cancel := context.WithTimeout(ctx, databaseTimeout)
	defer cancel()
	a, err := Usage(ctx, s.pool, who.Tenant)
	if err != nil {
		return nil, refused(err)
	}
	tag, err := etag(a)
	if err != nil {
		return nil, err
	}
	told := &usageTold{Status: http.StatusOK, ETag: tag, AsOf: a.AsOf.String(), Body: a}
	if matches(api.HeaderLines(ctx, "If-None-Match"), tag) {
		told.Status, told.Body = http.StatusNotModified, nil
	}
	return told, nil
}

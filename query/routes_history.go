package query

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"odometer/api"
)

const historyRoute = "/api/v1/usage/history"

// readsPerMinute is how often a tenant may ask each of the reads beside the
// current usage.
const readsPerMinute = 60

// readProblems are what any read of a tenant can be refused with.
var readProblems = []api.Kind{api.NoSubscription, api.SubscriptionInactive, api.NoPlan}

// reader is whose books a caller reads.
func reader(who api.Caller) Reader {
	return Reader{Tenant: who.Tenant, Operator: who.Role == api.Admin}
}

func (s *server) registerHistory(a *api.API) {
	api.Register(a, api.Route{
		ID: "usage-history", Method: http.MethodGet, Path: historyRoute, Tag: "usage", Scope: api.ReadScope, PerMinute: readsPerMinute,
		Summary: "Usage by hour, day or month",
		Description: "By the time at which it occurred, whichever period it was counted in. The range is widened to whole windows of the time zone; " +
			"a day of a time zone may have 23 or 25 hours. At most 31 days by hour, 366 days by day, 60 months by month. " +
			"What is not known is left out: windows that begin before `complete_from`, and those that begin at or after `as_of`; the window that holds `as_of` is known up to then.",
		Problems: readProblems,
		Example:  exampleHistory(),
	}, s.history)
}

type historyAsked struct {
	From     moment   `query:"from" doc:"Default: the start of the current billing period, or as far back as the window allows."`
	To       moment   `query:"to" doc:"Exclusive. Default: now."`
	Window   Window   `query:"window" enum:"hour,day,month" default:"day" doc:"The length of a bucket."`
	GroupBy  []string `query:"group_by" enum:"agent,action_type" maxItems:"2" uniqueItems:"true" doc:"What each bucket is divided by. Default: agent. Empty (group_by=): by nothing, groups are then empty."`
	Timezone string   `query:"timezone" default:"UTC" maxLength:"64" example:"Europe/Berlin" doc:"Whose hours, days and months: a name of the IANA list."`
}

// Resolve tells no group_by from an empty one.
func (h *historyAsked) Resolve(ctx huma.Context) []error {
	u := ctx.URL()
	if u.Query().Has("group_by") && h.GroupBy == nil {
		h.GroupBy = []string{}
	}
	return nil
}

type historyTold struct {
	AsOf string `header:"Odometer-As-Of" doc:"as_of."`
	Body *History
}

// history answers GET /api/v1/usage/history.
func (s *server) history(ctx context.Context, who api.Caller, asked *historyAsked) (*historyTold, error) {
	if !s.wide.Enter(ctx, who.Tenant) {
		return nil, crowded(ctx, "reads of events", wideEach, maxWide)
	}
	defer s.wide.Leave(who.Tenant)
	h, err := ReadHistory(ctx, s.pool, HistoryRequest{
		Reader: reader(who), From: asked.From.Time, To: asked.To.Time,
		Window: asked.Window, GroupBy: asked.GroupBy, Timezone: asked.Timezone,
	})
	if err != nil {
		return nil, refused(err)
	}
	return &historyTold{h.AsOf.String(), h}, nil
}

func exampleHistory() *History {
	day := func(n int) time.Time { return exampleStart.AddDate(0, 0, n) }
	return &History{
		TenantID: exampleTenant, From: day(0), To: day(2), Window: ByDay, Timezone: "UTC", GroupBy: []string{ByAgent, ByAction}, AsOf: exampleAsOf,
		Buckets: []Bucket{
			{Start: day(0), End: day(1), Quantity: 14, Events: 13, Groups: []Group{
				{Agent: "inbox", ActionType: "email_processed", Quantity: 12, Events: 12},
				{Agent: "invoice", ActionType: "invoice_created", Quantity: 2, Events: 1},
			}},
			{Start: day(1), End: day(2), Groups: []Group{}},
		},
	}
}

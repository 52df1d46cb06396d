package admin

import (
	"context"
	"net/http"
	"time"

	"odometer/api"
)

// perMinute is how often an operator may ask each route in any minute: a
// dashboard that asks every second, twice over.
const perMinute = 120

// How long an answer may take. A retry of many letters waits for the locks of
// their partitions.
const (
	readTimeout = 5 * time.Second
	actTimeout  = 30 * time.Second
)

const base = "/api/v1/admin/"

// Register puts the operators' routes behind the door.
func Register(a *api.API, o Options) {
	s := newServer(o)
	registerBooks(a, s)
	registerLetters(a, s)
	registerJobs(a, s)
	registerFindings(a, s)
}

type nothing struct{}

type alertsAsked struct {
	Limit int `query:"limit" minimum:"1" maximum:"500" default:"100" doc:"How many to list at most, the newest first."`
}

type tenantAsked struct {
	TenantID string `path:"tenant_id" format:"uuid" doc:"The tenant's UUID."`
}

// registerBooks registers what is read from the books alone.
func registerBooks(a *api.API, s *server) {
	reads(a, api.Route{
		ID: "admin-overview", Path: base + "overview", Summary: "Everything at a glance",
		Description: "How far the stream is read, what became of its messages, what waits for somebody, and what the overage costs. " +
			"It is cheap enough to be asked every two seconds.",
		Example: exampleOverview(),
	}, func(ctx context.Context, _ *nothing) (*Overview, error) { return s.overview(ctx) })
	reads(a, api.Route{
		ID: "admin-tenants", Path: base + "tenants", Summary: "Tenants by usage and overage",
		Description: "Each tenant that has, or had, a subscription, with its usage in the newest period that has begun. " +
			"The order by overage or usage adds up every tenant, which takes a fraction of a second for ten thousand.",
		Example: exampleTenants(),
	}, func(ctx context.Context, in *tenantFilter) (*TenantList, error) { return listTenants(ctx, s.Pool, *in) })
	reads(a, api.Route{
		ID: "admin-tenant", Path: base + "tenants/{tenant_id}", Summary: "One tenant",
		Description: "Its subscription and its usage, whatever its status. Its history, events, periods and alerts are at the routes of " +
			"usage, with tenant_id in the query.",
		Problems: []api.Kind{api.NoSubscription}, Example: exampleTenantDetail(),
		Refusals: []*api.Problem{noSubscription(exampleTenant)},
	}, func(ctx context.Context, in *tenantAsked) (*TenantDetail, error) {
		id, err := namedTenant(in.TenantID)
		if err != nil {
			return nil, err
		}
		return tenantDetail(ctx, s.Pool, id)
	})
	reads(a, api.Route{
		ID: "admin-alerts", Path: base + "alerts", Summary: "What customers were told about their limits",
		Description: "The newest alerts of all tenants: each threshold of a limit that was reached in a period, once.",
		Example:     exampleAlerts(),
	}, func(ctx context.Context, in *alertsAsked) (*TenantAlertList, error) {
		return listAlerts(ctx, s.Pool, in.Limit)
	})
	reads(a, api.Route{
		ID: "admin-audit", Path: base + "audits/latest", Summary: "The last audit",
		Description: "The newest report of the job reconcile, which compares stream, events, counters, ledger and Stripe every night. " +
			"Audits by hand (odometer audit) change nothing, so they are not kept.",
		Example: exampleAudit(),
	}, func(ctx context.Context, _ *nothing) (*LastAudit, error) { return loadLastAudit(ctx, s.Pool) })
	reads(a, api.Route{
		ID: "admin-ledger", Path: base + "ledger", Summary: "What Stripe was told",
		Description: "The links of the ledger, the newest first: each raises, or lowers, the total that Stripe knows of a tenant's overage in a period.",
		Example:     exampleLedger(),
	}, func(ctx context.Context, in *ledgerFilter) (*Ledger, error) { return loadLedger(ctx, s.Pool, *in) })
}

func registerLetters(a *api.API, s *server) {
	reads(a, api.Route{
		ID: "admin-dead-letters", Path: base + "dead-letters", Summary: "Dead letters",
		Description: "Messages that could not be events, counted by reason and tenant, and listed, the newest first. " +
			"A list shows the first 4,096 bytes of a payload; with id it is one letter, whole.",
		Problems: []api.Kind{api.NotFound}, Example: exampleLetters(), Refusals: []*api.Problem{noLetters("1-4711")},
	}, func(ctx context.Context, in *letterFilter) (*DeadLetterList, error) {
		return listLetters(ctx, s.Pool, *in)
	})
	acts(a, api.Route{
		ID: "admin-dead-letters-retry", Path: base + "dead-letters/retry", Summary: "Judge dead letters anew",
		Description: "By the catalogue and the billing periods of today. A letter counts once, however often it is retried; one that still " +
			"cannot be an event stays open, with its reason of today. At most 1,000 letters a call, in the order of the stream: " +
			"while next_cursor is not null, call again with it as cursor. Repeating a call that failed is safe.",
		Problems: []api.Kind{api.NotFound}, Example: exampleRetry(), Refusals: []*api.Problem{noLetters("1-4711")},
	}, func(ctx context.Context, who string, in *struct{ Body LetterSelection }) (*RetryResult, error) {
		return s.retry(ctx, in.Body, who)
	})
}

type jobAsked struct {
	Job string `path:"job" maxLength:"64" doc:"The job's name." example:"report"`
}

func registerJobs(a *api.API, s *server) {
	reads(a, api.Route{
		ID: "admin-jobs", Path: base + "jobs", Summary: "The scheduled jobs",
		Description: "When each is due, how it went, whether it is paused, and what somebody did to it last.",
		Example:     exampleJobs(),
	}, func(ctx context.Context, _ *nothing) (*JobList, error) { return s.jobs(ctx) })
	acts(a, api.Route{
		ID: "admin-job-pause", Path: base + "jobs/{job}/pause", Summary: "Pause a job",
		Description: "The services run it no more until it is resumed. What runs just now goes on to its end.",
		Problems:    []api.Kind{api.NotFound}, Example: JobState{"report", true}, Refusals: []*api.Problem{noJob("bill")},
	}, func(ctx context.Context, who string, in *jobAsked) (*JobState, error) {
		return s.pause(ctx, in.Job, true, who)
	})
	acts(a, api.Route{
		ID: "admin-job-resume", Path: base + "jobs/{job}/resume", Summary: "Let a paused job be run again",
		Description: "It runs when it is next due; a daily run that was missed is made up for.",
		Problems:    []api.Kind{api.NotFound}, Example: JobState{"report", false}, Refusals: []*api.Problem{noJob("bill")},
	}, func(ctx context.Context, who string, in *jobAsked) (*JobState, error) {
		return s.pause(ctx, in.Job, false, who)
	})
}

type findingsAsked struct {
	Limit int    `query:"limit" minimum:"1" maximum:"500" default:"100" doc:"How many to list at most, the newest first."`
	State string `query:"state" enum:"open,resolved,all" default:"open" doc:"Only of this state."`
}

type resolutionAsked struct {
	FindingID int64 `path:"finding_id" minimum:"1"`
	Body      struct {
		Resolution string `json:"resolution" minLength:"1" maxLength:"1000" doc:"How it was resolved, for whoever asks later." example:"The sender was mended and the letters retried."`
	}
}

func registerFindings(a *api.API, s *server) {
	reads(a, api.Route{
		ID: "admin-findings", Path: base + "findings", Summary: "What was found wrong",
		Description: "By jobs and audits, the newest first. A finding is never deleted.",
		Example:     exampleFindings(),
	}, func(ctx context.Context, in *findingsAsked) (*FindingList, error) {
		return listFindings(ctx, s.Pool, in.State, in.Limit)
	})
	acts(a, api.Route{
		ID: "admin-finding-resolve", Path: base + "findings/{finding_id}/resolve", Summary: "Resolve a finding",
		Description: "Writes down who resolved it and how. It repairs nothing: what is still wrong is found again, as a new finding. " +
			"A finding that is resolved already is answered as it is.",
		Problems: []api.Kind{api.NotFound}, Example: exampleFinding(true), Refusals: []*api.Problem{noFinding(99)},
	}, func(ctx context.Context, who string, in *resolutionAsked) (*Finding, error) {
		return resolveFinding(ctx, s.Pool, in.FindingID, who, in.Body.Resolution)
	})
}

// told is an answer.
type told[B any] struct{ Body *B }

// reads registers an operation that changes nothing.
func reads[I, B any](a *api.API, r api.Route, do func(ctx context.Context, in *I) (*B, error)) {
	r.Method, r.Scope = http.MethodGet, api.ReadScope
	register(a, r, readTimeout, func(ctx context.Context, _ api.Caller, in *I) (*B, error) { return do(ctx, in) })
}

// acts registers an operation that does something, in the caller's name.
func acts[I, B any](a *api.API, r api.Route, do func(ctx context.Context, who string, in *I) (*B, error)) {
	r.Method, r.Scope = http.MethodPost, api.WriteScope
	register(a, r, actTimeout, func(ctx context.Context, c api.Caller, in *I) (*B, error) { return do(ctx, c.Who(), in) })
}

func register[I, B any](a *api.API, r api.Route, timeout time.Duration, do func(context.Context, api.Caller, *I) (*B, error)) {
	r.Tag, r.AdminOnly, r.PerMinute = "operators", true, perMinute
	api.Register(a, r, func(ctx context.Context, c api.Caller, in *I) (*told[B], error) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		answer, err := do(ctx, c, in)
		if err != nil {
			return nil, err
		}
		return &told[B]{answer}, nil
	})
}

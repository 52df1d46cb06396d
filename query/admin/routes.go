package admin

import (
	"context"
	"net/http"
	"time"

	"odometer/api"
)

// perMinute is an operator's rate limit for each route: twice what a dashboard
// needs that asks every second.
const perMinute = 120

// How long an answer may take. A retry of many dead letters waits for the locks
// of their partitions.
const (
	readTimeout   = 5 * time.Second
	actionTimeout = 30 * time.Second
)

const base = "/api/v1/admin/"

// Register adds the operators' routes to the API.
func Register(a *api.API, o Options) {
	s := newServer(o)
	registerReads(a, s)
	registerDeadLetters(a, s)
	registerJobs(a, s)
	registerFindings(a, s)
}

type nothing struct{}

type alertsInput struct {
	Limit int `query:"limit" minimum:"1" maximum:"500" default:"100" doc:"How many to list at most, the newest first."`
}

type tenantInput struct {
	TenantID string `path:"tenant_id" format:"uuid" doc:"The tenant's UUID."`
}

// registerReads registers what is read from the tables alone.
func registerReads(a *api.API, s *server) {
	registerRead(a, api.Route{
		ID: "admin-overview", Path: base + "overview", Summary: "The state of the installation",
		Description: "How far the stream is read, the outcome of its messages, what waits for a decision, and what the overage costs. " +
			"It is cheap enough to be requested every two seconds.",
		Example: exampleOverview(),
	}, func(ctx context.Context, _ *nothing) (*Overview, error) { return s.overview(ctx) })
	registerRead(a, api.Route{
		ID: "admin-tenants", Path: base + "tenants", Summary: "Tenants by usage and overage",
		Description: "Each tenant that has, or had, a subscription, with its usage in the newest period that has begun. " +
			"The order by overage or usage adds up every tenant, which takes a fraction of a second for ten thousand.",
		Example: exampleTenants(),
	}, func(ctx context.Context, in *tenantFilter) (*TenantList, error) { return listTenants(ctx, s.Pool, *in) })
	registerRead(a, api.Route{
		ID: "admin-tenant", Path: base + "tenants/{tenant_id}", Summary: "One tenant",
		Description: "Its subscription and its usage, whatever its status. Its history, events, periods and alerts are at the routes of " +
			"usage, with tenant_id in the query.",
		Problems: []api.Kind{api.NoSubscription}, Example: exampleTenantDetail(),
		Refusals: []*api.Problem{noSubscription(exampleTenant)},
	}, func(ctx context.Context, in *tenantInput) (*TenantDetail, error) {
		id, err := namedTenant(in.TenantID)
		if err != nil {
			return nil, err
		}
		return tenantDetail(ctx, s.Pool, id)
	})
	registerRead(a, api.Route{
		ID: "admin-alerts", Path: base + "alerts", Summary: "Alerts of customers' limits",
		Description: "The newest alerts of all tenants: each threshold of a limit that was reached in a period, once.",
		Example:     exampleAlerts(),
	}, func(ctx context.Context, in *alertsInput) (*TenantAlertList, error) {
		return listAlerts(ctx, s.Pool, in.Limit)
	})
	registerRead(a, api.Route{
		ID: "admin-audit", Path: base + "audits/latest", Summary: "The last audit",
		Description: "The newest report of the job reconcile, which compares stream, events, counters, ledger and Stripe every night. " +
			"Audits by hand (odometer audit) change nothing, so they are not kept.",
		Example: exampleAudit(),
	}, func(ctx context.Context, _ *nothing) (*LastAudit, error) { return loadLastAudit(ctx, s.Pool) })
	registerRead(a, api.Route{
		ID: "admin-ledger", Path: base + "ledger", Summary: "The overage ledger: what was reported to Stripe",
		Description: "Its entries, the newest first: each raises, or lowers, the total that Stripe knows of a tenant's overage in a period.",
		Example:     exampleLedger(),
	}, func(ctx context.Context, in *ledgerFilter) (*Ledger, error) { return loadLedger(ctx, s.Pool, *in) })
}

func registerDeadLetters(a *api.API, s *server) {
	registerRead(a, api.Route{
		ID: "admin-dead-letters", Path: base + "dead-letters", Summary: "Dead letters",
		Description: "Messages that could not be events, counted by reason and tenant, and listed, the newest first. " +
			"A list shows the first 4,096 bytes of a payload; with id it is one dead letter, complete.",
		Problems: []api.Kind{api.NotFound}, Example: exampleDeadLetters(), Refusals: []*api.Problem{noDeadLetters("1-4711")},
	}, func(ctx context.Context, in *deadLetterFilter) (*DeadLetterList, error) {
		return listDeadLetters(ctx, s.Pool, *in)
	})
	registerAction(a, api.Route{
		ID: "admin-dead-letters-retry", Path: base + "dead-letters/retry", Summary: "Retry dead letters",
		Description: "By the current catalogue and billing periods. A dead letter counts once, however often it is retried; one that still " +
			"cannot be an event stays open, with its current reason. At most 1,000 dead letters a call, in the order of the stream: " +
			"while next_cursor is not null, call again with it as cursor. Repeating a call that failed is safe.",
		Problems: []api.Kind{api.NotFound}, Example: exampleRetry(), Refusals: []*api.Problem{noDeadLetters("1-4711")},
	}, func(ctx context.Context, who string, in *struct{ Body DeadLetterSelection }) (*RetryResult, error) {
		return s.retry(ctx, in.Body, who)
	})
}

type jobInput struct {
	Job string `path:"job" maxLength:"64" doc:"The job's name." example:"report"`
}

func registerJobs(a *api.API, s *server) {
	registerRead(a, api.Route{
		ID: "admin-jobs", Path: base + "jobs", Summary: "The scheduled jobs",
		Description: "When each is due, how it went, whether it is paused, and the last action of an operator on it.",
		Example:     exampleJobs(),
	}, func(ctx context.Context, _ *nothing) (*JobList, error) { return s.jobs(ctx) })
	registerAction(a, api.Route{
		ID: "admin-job-pause", Path: base + "jobs/{job}/pause", Summary: "Pause a job",
		Description: "The services do not run it until it is resumed. A run that has begun continues to its end.",
		Problems:    []api.Kind{api.NotFound}, Example: JobState{"report", true}, Refusals: []*api.Problem{noJob("bill")},
	}, func(ctx context.Context, who string, in *jobInput) (*JobState, error) {
		return s.pause(ctx, in.Job, true, who)
	})
	registerAction(a, api.Route{
		ID: "admin-job-resume", Path: base + "jobs/{job}/resume", Summary: "Resume a paused job",
		Description: "It runs when it is next due; a daily run that was missed is made up for.",
		Problems:    []api.Kind{api.NotFound}, Example: JobState{"report", false}, Refusals: []*api.Problem{noJob("bill")},
	}, func(ctx context.Context, who string, in *jobInput) (*JobState, error) {
		return s.pause(ctx, in.Job, false, who)
	})
}

type findingsInput struct {
	Limit int    `query:"limit" minimum:"1" maximum:"500" default:"100" doc:"How many to list at most, the newest first."`
	State string `query:"state" enum:"open,resolved,all" default:"open" doc:"Only of this state."`
}

type resolutionInput struct {
	FindingID int64 `path:"finding_id" minimum:"1"`
	Body      struct {
		Resolution string `json:"resolution" minLength:"1" maxLength:"1000" doc:"How it was resolved." example:"The sender was fixed and the dead letters retried."`
	}
}

func registerFindings(a *api.API, s *server) {
	registerRead(a, api.Route{
		ID: "admin-findings", Path: base + "findings", Summary: "Findings",
		Description: "By jobs and audits, the newest first. A finding is never deleted.",
		Example:     exampleFindings(),
	}, func(ctx context.Context, in *findingsInput) (*FindingList, error) {
		return listFindings(ctx, s.Pool, in.State, in.Limit)
	})
	registerAction(a, api.Route{
		ID: "admin-finding-resolve", Path: base + "findings/{finding_id}/resolve", Summary: "Resolve a finding",
		Description: "Records who resolved it and how. It repairs nothing: what is still wrong is found again, as a new finding. " +
			"A finding that is resolved already stays unchanged.",
		Problems: []api.Kind{api.NotFound}, Example: exampleFinding(true), Refusals: []*api.Problem{noFinding(99)},
	}, func(ctx context.Context, who string, in *resolutionInput) (*Finding, error) {
		return resolveFinding(ctx, s.Pool, in.FindingID, who, in.Body.Resolution)
	})
}

// output is an answer.
type output[B any] struct{ Body *B }

// registerRead registers an operation that changes nothing.
func registerRead[I, B any](a *api.API, r api.Route, do func(ctx context.Context, in *I) (*B, error)) {
	r.Method, r.Scope = http.MethodGet, api.ReadScope
	register(a, r, readTimeout, func(ctx context.Context, _ api.Caller, in *I) (*B, error) { return do(ctx, in) })
}

// registerAction registers an operation that changes something, in the caller's
// name.
func registerAction[I, B any](a *api.API, r api.Route, do func(ctx context.Context, who string, in *I) (*B, error)) {
	r.Method, r.Scope = http.MethodPost, api.WriteScope
	register(a, r, actionTimeout, func(ctx context.Context, c api.Caller, in *I) (*B, error) { return do(ctx, c.Who(), in) })
}

func register[I, B any](a *api.API, r api.Route, timeout time.Duration, do func(context.Context, api.Caller, *I) (*B, error)) {
	r.Tag, r.AdminOnly, r.PerMinute = "operators", true, perMinute
	api.Register(a, r, func(ctx context.Context, c api.Caller, in *I) (*output[B], error) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		answer, err := do(ctx, c, in)
		if err != nil {
			return nil, err
		}
		return &output[B]{answer}, nil
	})
}

package admin

import (
	"time"

	"github.com/google/uuid"

	"odometer"
	"odometer/query"
)

// The documentation's examples: one moment of a small installation.

var (
	exampleTenant = uuid.MustParse("0b7e4d1c-6f0e-4a53-9d55-3c1c0a3f7e01")
	exampleStart  = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	exampleEnd    = time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	exampleNow    = time.Date(2026, 11, 23, 7, 15, 33, 520e6, time.UTC)
	exampleAsOf   = query.Instant{Time: exampleNow.Add(-400 * time.Millisecond)}
)

// a is a pointer to a value.
func a[T any](value T) *T { return &value }

func exampleOverview() Overview {
	return Overview{
		At: query.Instant{Time: exampleNow}, AsOf: &exampleAsOf, FreshnessSeconds: a(0.4), LagMessages: a(int64(12)), EventsPerSecond: 200.3,
		Partitions: []PartitionRead{{0, 48_211, &exampleAsOf, a(0.4)}, {1, 48_223, &exampleAsOf, a(0.4)}},
		Stream:     StreamRead{1, a(int64(48_223))},
		Totals:     &Totals{48_223, 46_017, 2_190, 16}, OpenDeadLetters: 3,
		Tenants: TenantCounts{Active: 4, Trial: 1, PastDue: 1}, OverageCostCents: 4_525, Currency: "usd",
	}
}

func exampleTenantDetail() TenantDetail {
	return TenantDetail{
		AsOf: &exampleAsOf,
		Tenant: Tenant{
			TenantID: exampleTenant, Status: odometer.Active, Plan: &PlanName{"price_bundle_monthly", "FounderPilot Bundle"},
			PeriodStart: &exampleStart, PeriodEnd: &exampleEnd,
			Usage: query.Ordered[query.AgentUsage]{
				{Name: "inbox", Value: query.AgentUsage{Count: 425, Limit: a(int64(500)), Percentage: 85}},
				{Name: "invoice", Value: query.AgentUsage{Count: 52, Limit: a(int64(50)), Percentage: 104, Overage: 2, OverageCostCents: 20}},
			},
			TotalCount: 477, TotalOverageCostCents: 20, StripeCustomer: a("cus_Q7wkP2"), OpenDeadLetters: 3,
		},
		Subscription: TenantSubscription{
			Status: odometer.Active, PlanID: a("price_bundle_monthly"), Interval: odometer.Monthly, Anchor: exampleStart,
			StripeCustomer: a("cus_Q7wkP2"), StripeSubscription: a("sub_1PqZx9"), CreatedAt: exampleStart, UpdatedAt: exampleStart,
		},
	}
}

func exampleTenants() TenantList {
	return TenantList{AsOf: &exampleAsOf, Tenants: []Tenant{exampleTenantDetail().Tenant}, Total: 1}
}

func exampleAlerts() TenantAlertList {
	return TenantAlertList{[]TenantAlert{{
		TenantID: exampleTenant, Agent: "inbox", PeriodStart: exampleStart, Threshold: 80, Limit: 500, Level: odometer.LevelWarning,
		Count: 401, RaisedAt: exampleNow.Add(-26 * time.Hour).Truncate(time.Second), DeliveredAt: a(exampleNow.Add(-26 * time.Hour).Truncate(time.Second)),
	}}}
}

func exampleDeadLetters() DeadLetterList {
	payload := `{"idempotency_key":"mail-77","action_type":"email_forwarded"}`
	return DeadLetterList{
		Total: 3,
		Groups: []DeadLetterGroup{{
			odometer.UnknownAction, &exampleTenant, "open", 3, exampleNow.Add(-time.Hour).Truncate(time.Second), exampleNow.Truncate(time.Second),
		}},
		Letters: []DeadLetter{{
			ID: "1-4711", Subject: "usage." + exampleTenant.String() + ".inbox", TenantID: &exampleTenant, Agent: a("inbox"),
			Reason: odometer.UnknownAction, Detail: `action_type "email_forwarded": agent inbox takes email_processed, email_sent`, State: "open",
			ReceivedAt: exampleNow.Truncate(time.Second), Payload: &payload, PayloadBase64: []byte(payload), PayloadBytes: len(payload),
			Headers: map[string][]string{},
		}},
	}
}

func exampleRetry() RetryResult {
	return RetryResult{
		Counts: DeadLetterCounts{Retried: 1},
		Letters: []DeadLetterOutcome{{
			ID: "1-4711", State: "retried", Reason: odometer.UnknownAction,
			Detail: `action_type "email_forwarded": agent inbox takes email_processed, email_sent`,
		}},
	}
}

func exampleJobs() JobList {
	started := exampleNow.Truncate(time.Minute)
	return JobList{[]Job{{
		Name: "report", DueAt: started.Add(time.Minute), LastStartedAt: &started, LastSuccessAt: a(started.Add(time.Second)),
		LastAct: &JobAction{"resume", "ops@example.com", exampleStart, a("done")},
	}}}
}

func exampleAudit() LastAudit {
	made := time.Date(2026, 11, 23, 3, 0, 1, 0, time.UTC)
	return LastAudit{&StoredAudit{At: made, By: "job reconcile", Report: AuditReport{
		At: made,
		Comparisons: []AuditComparison{
			{Name: "stream and events", Of: "messages", Compared: 41_004, Equal: 41_004},
			{Name: "events and counters", Of: "counters", Compared: 18, Equal: 18},
			{Name: "counters and ledger", Of: "totals and entries", Compared: 9, Equal: 9},
			{Name: "ledger and Stripe", Of: "customers' meters", Compared: 6, Equal: 5, Unsettled: 1},
		},
		Stream: AuditStream{FirstSeq: 1, ThroughSeq: 41_004, LastSeq: 41_010, Messages: 41_004, Events: 39_105, Duplicates: 1_886,
			DeadLetters: 13, Waiting: 6},
		OpenDeadLetters: 3, Differences: []AuditDifference{},
		Notes: []string{"ledger and Stripe: unsettled: reported less than an hour ago (1)"},
	}}}
}

func exampleFinding(resolved bool) Finding {
	f := Finding{
		FindingID: 12, Kind: "job_stale", Subject: "report", FoundAt: exampleNow.Add(-2 * time.Hour).Truncate(time.Second), FoundBy: "alerts",
		Detail: "job report has not succeeded for 25 hours (never succeeded); run: odometer jobs run report",
	}
	if resolved {
		f.ResolvedAt, f.ResolvedBy, f.Resolution = a(exampleNow.Truncate(time.Second)), a("ops@example.com"), a("The key of Stripe was renewed.")
	}
	return f
}

func exampleFindings() FindingList { return FindingList{[]Finding{exampleFinding(false)}} }

func exampleLedger() Ledger {
	reported := exampleNow.Add(-time.Hour).Truncate(time.Second)
	return Ledger{
		Totals: []LedgerTotal{{"accepted", 1, 2}},
		Links: []LedgerEntry{{
			TenantID: exampleTenant, Agent: "invoice", PeriodStart: exampleStart, BilledPeriodStart: exampleStart, Revision: 1,
			ToTotal: 2, Value: 2, Origin: "reported", Sink: "meter_events", StripeCustomer: "cus_Q7wkP2", Meter: "invoice_overage",
			ReportedAt: reported, Identifier: "odo_3q2-7wAAAAECAwQFBgcICQoLDA0ODxAREhMUFRY", State: "accepted", Attempts: 1,
			FirstAttemptAt: &reported, DecidedAt: a(reported.Add(time.Second)), CreatedAt: reported,
		}},
	}
}

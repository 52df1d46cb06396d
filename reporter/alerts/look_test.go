package alerts

import (
	"bytes"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"odometer/audit/findings"
)

func TestAThresholdIsRecordedOncePerLimit(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	tenant := h.tenant("pro")
	h.count(tenant, "inbox", 399)
	h.look()
	h.mustHave("below 80 %", tenant)
	h.count(tenant, "inbox", 400)
	h.look()
	h.count(tenant, "inbox", 450)
	h.look()
	h.mustHave("at 80 %", tenant, "inbox 80/500 warning 400")
	h.count(tenant, "inbox", 500)
	h.look()
	h.count(tenant, "inbox", 900)
	if got := h.look(); got != (Looked{}) {
		t.Errorf("looking again recorded %+v", got)
	}
	h.mustHave("at 100 %", tenant, "inbox 80/500 warning 400", "inbox 100/500 error 500")

	h.do(`update allowances set "limit" = 1000 where plan_id = 'pro' and agent = 'inbox'`)
	h.look()
	h.mustHave("with another limit", tenant, "inbox 80/500 warning 400", "inbox 100/500 error 500", "inbox 80/1000 warning 900")
}

func TestAJumpOverBothThresholdsRecordsBoth(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	tenant := h.tenant("pro")
	h.count(tenant, "invoice", 52)
	if got := h.look(); got.Alerts != 2 || got.Exceeded != 1 {
		t.Errorf("looked %+v", got)
	}
	h.mustHave("both", tenant, "invoice 80/50 warning 52", "invoice 100/50 error 52")
}

func TestWithoutALimitThereIsNoAlert(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	unlimited, without, trial, triesStill := h.tenant("max"), h.tenant(""), h.tenant("pro"), h.tenant("pro")
	h.do(`update billing_periods set trial = true where tenant_id = $1`, trial)
	h.do(`update subscriptions set status = 'trial' where tenant_id = $1`, triesStill)
	for _, tenant := range []uuid.UUID{unlimited, without, trial, triesStill} {
		h.count(tenant, "inbox", 1_000_000)
	}
	if got := h.look(); got.Alerts != 0 {
		t.Errorf("looked %+v", got)
	}
	h.do(`update subscriptions set trial_ends_at = $2 where tenant_id = $1`, triesStill, h.now)
	if got := h.look(); got.Alerts != 2 {
		t.Errorf("after the trial: %+v", got)
	}
}

func TestOfNothingIncludedTheFirstUnitIsAll(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	tenant := h.tenant("pro")
	h.count(tenant, "meeting", 0)
	h.look()
	h.mustHave("none used", tenant)
	h.count(tenant, "meeting", 1)
	h.look()
	h.mustHave("one used", tenant, "meeting 100/0 error 1")
}

func TestAnEndedPeriodKeepsItsLimitUntilItIsClosed(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	tenant := h.tenant("pro")
	h.count(tenant, "inbox", 90)
	h.do(`update billing_periods set frozen_at = now(), period_end = now() where tenant_id = $1`, tenant)
	h.do(`insert into period_allowances select tenant_id, period_start, 'inbox', 100, 0.02 from billing_periods`)
	h.look()
	h.mustHave("frozen", tenant, "inbox 80/100 warning 90")
	h.count(tenant, "inbox", 100)
	h.do(`update billing_periods set status = 'closed', closed_epoch = 1, closed_seq = 1, closed_at = now() where tenant_id = $1`, tenant)
	h.look()
	h.mustHave("closed", tenant, "inbox 80/100 warning 90")
}

func TestAnyLimitCanBeHeldAgainstAnyCount(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	tenant := h.tenant("pro")
	h.do(`update allowances set "limit" = $1 where agent = 'inbox'`, int64(math.MaxInt64))
	h.count(tenant, "inbox", math.MaxInt64)
	if got := h.look(); got.Alerts != 2 {
		t.Errorf("looked %+v", got)
	}
}

func TestAnExceededLimitIsLoggedWithItsOverage(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	var log bytes.Buffer
	h.Options.Log = slog.New(slog.NewTextHandler(&log, nil))
	tenant := h.tenant("pro")
	h.count(tenant, "inbox", 500)
	h.count(tenant, "invoice", 52)
	h.look()
	h.look()
	if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "WARN") ||
		!strings.Contains(got, tenant.String()) || !strings.Contains(got, "agent=invoice overage=2") {
		t.Errorf("logged:\n%s", got)
	}
}

const reportSQL = `
insert into overage_reports (tenant_id, agent, period_start, billed_period_start, revision, from_total, to_total, value,
    sink, account, livemode, stripe_customer, meter, reported_at, identifier, generation, state, last_attempt_at)
select gen_random_uuid(), 'inbox', now(), now(), 1, 0, 1, 1, 'meter_events', 'a', false, gen_random_uuid()::text, 'm', now(),
    gen_random_uuid()::text, 1, $1, $2
from generate_series(1, $3)`

func TestOperatorsHearOfReportsThatFail(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.mustBeOpen("without reports")
	h.do(reportSQL, "accepted", h.now, 95)
	h.do(reportSQL, "unknown", h.now, 3)
	h.do(reportSQL, "rejected", h.now, 2)
	h.mustBeOpen("at 5 %")
	h.do(reportSQL, "unknown", h.now, 1)
	h.mustBeOpen("above 5 %", "report_failures stripe")
	h.now = h.now.Add(failureWindow + time.Second)
	h.mustBeOpen("a quarter of an hour later")
}

// The breaker lets five calls fail and then none through.
func TestAStripeThatIsDownIsHeardOfThoughOnlyFiveCallsWereMade(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.do(reportSQL, "unknown", h.now, 5)
	h.mustBeOpen("five of five", "report_failures stripe")
}

func TestOperatorsHearOfAJobThatDoesNotSucceed(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.do(`insert into jobs (job, known_since, last_success_at, last_error) values
		('fresh', $2, $2, null), ('new', $2, null, 'x'), ('never', $1, null, 'Stripe is away'), ('late', $1, $1, null), ('paused', $1, $1, null)`,
		h.now.Add(-staleAfter-time.Second), h.now.Add(-staleAfter))
	h.do(`insert into river_queue (name, paused_at, updated_at) values ('paused', now(), now()), ('late', null, now())`)
	h.mustBeOpen("first", "job_stale late", "job_stale never")
	h.do(`update jobs set last_success_at = $1`, h.now)
	h.mustBeOpen("after they succeeded")
}

func TestOperatorsHearOfMoreThanTenReconcileErrorsInADay(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for i := range 11 {
		if i == 10 {
			h.look()
			if got := h.ask(`select count(*) from audit_findings where kind = 'reconcile_errors'`); got != 0 {
				t.Error("ten are found worth a word")
			}
		}
		if err := findings.Record(t.Context(), h.pool, findings.Finding{Kind: "reconcile_error", Subject: uuid.NewString(), FoundBy: "test"}); err != nil {
			t.Fatal(err)
		}
	}
	h.look()
	if got := h.ask(`select count(*) from audit_findings where kind = 'reconcile_errors' and resolved_at is null`); got != 1 {
		t.Error("eleven are not found")
	}
	h.do(`update audit_findings set resolved_at = now(), found_at = $1 where kind = 'reconcile_error'`, h.now.Add(-25*time.Hour))
	h.mustBeOpen("when they are over")
}

func TestAPartIsNamedByTheJobThatPeopleCanRun(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.Known = func(job string) string { return strings.TrimSuffix(job, "_delivery") }
	h.do(`insert into jobs (job, known_since) values ('alerts_delivery', $1), ('verify', $1)`, h.now.Add(-staleAfter-time.Second))
	h.mustBeOpen("both", "job_stale alerts_delivery", "job_stale verify")
	for detail, subject := range map[string]string{
		"job alerts_delivery, a part of alerts, has not succeeded for 25 hours (never succeeded); run: odometer jobs run alerts": "alerts_delivery",
		"job verify has not succeeded for 25 hours (never succeeded); run: odometer jobs run verify":                             "verify",
	} {
		if h.ask(`select count(*) from audit_findings where subject = $1 and detail = $2`, subject, detail) != 1 {
			t.Errorf("%s is not said to be: %s", subject, detail)
		}
	}
}

const eventsSQL = `
insert into usage_events (tenant_id, event_id, agent, kind, action_type, quantity, idempotency_key,
    occurred_at, recorded_at, period_start, stream_epoch, stream_seq)
select $1, gen_random_uuid(), 'inbox', 'usage', 'a', 1, n::text, p.period_start, p.period_start, p.period_start, 1, n
from generate_series(1, $2::int) n, billing_periods p
where p.tenant_id = $1`

// Units are not events: many units are only a reason to count.
func TestOperatorsHearOfATenantWithTooManyEvents(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	many, large := h.tenant("max"), h.tenant("max")
	h.count(large, "inbox", 5_000_000)
	h.do(eventsSQL, large, 5)
	h.count(many, "inbox", volumeEvents)
	h.do(eventsSQL, many, volumeEvents)
	h.mustBeOpen("at the bound")

	h.do(eventsSQL, many, 1)
	h.count(many, "inbox", volumeEvents+1)
	h.mustBeOpen("a minute later: it is not looked at yet")
	h.now = h.now.Add(volumeEvery)
	h.look()
	if got := h.ask(`select count(*) from audit_findings where kind = 'tenant_volume' and tenant_id = $1 and resolved_at is null`, many); got != 1 {
		t.Errorf("beyond the bound: %d findings", got)
	}
	if got := h.ask(`select count(*) from audit_findings`); got != 1 {
		t.Errorf("%d findings in all: units are taken for events", got)
	}
	h.do(`update billing_periods set status = 'closed', closed_epoch = 1, closed_seq = 1, closed_at = now()`)
	h.mustBeOpen("after the close")
}

// What retention removed was an event too.
func TestRemovedEventsCountForTheVolume(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	tenant := h.tenant("max")
	h.count(tenant, "inbox", volumeEvents+10)
	h.do(eventsSQL, tenant, 10)
	h.do(`insert into usage_removed select tenant_id, 'inbox', period_start, $1, $1 from billing_periods`, volumeEvents)
	h.look()
	if got := len(h.open()); got != 1 {
		t.Errorf("%d findings", got)
	}
}

func TestEventsAreCountedAgainOnlyWhenTheAnswerCanHaveChanged(t *testing.T) {
	t.Parallel()
	now := time.Now()
	last := counted{at: now, units: 200_000, events: 60_000}
	for _, c := range []struct {
		after time.Duration
		units int64
		due   bool
	}{
		{time.Hour, 200_000, false},
		{time.Hour, 240_000, false},
		{time.Hour, 240_001, true},
		{volumeAnyway, 200_000, true},
	} {
		if got := last.due(now.Add(c.after), c.units); got != c.due {
			t.Errorf("%s later at %d units: due %v", c.after, c.units, got)
		}
	}
}

package alerts

import (
	"bytes"
	"log/slog"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"odometer/audit/findings"
)

func TestThresholdIsRecordedOncePerLimit(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	tenant := e.tenant("pro")
	e.count(tenant, "inbox", 399)
	e.evaluate()
	e.mustHave("below 80 %", tenant)
	e.count(tenant, "inbox", 400)
	e.evaluate()
	e.count(tenant, "inbox", 450)
	e.evaluate()
	e.mustHave("at 80 %", tenant, "inbox 80/500 warning 400")
	e.count(tenant, "inbox", 500)
	e.evaluate()
	e.count(tenant, "inbox", 900)
	if got := e.evaluate(); got != (EvaluateResult{}) {
		t.Errorf("evaluating again recorded %+v", got)
	}
	e.mustHave("at 100 %", tenant, "inbox 80/500 warning 400", "inbox 100/500 error 500")

	e.do(`update allowances set "limit" = 1000 where plan_id = 'pro' and agent = 'inbox'`)
	e.evaluate()
	e.mustHave("with another limit", tenant, "inbox 80/500 warning 400", "inbox 100/500 error 500", "inbox 80/1000 warning 900")
}

func TestJumpOverBothThresholdsRecordsBoth(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	tenant := e.tenant("pro")
	e.count(tenant, "invoice", 52)
	if got := e.evaluate(); got.Alerts != 2 || got.Exceeded != 1 {
		t.Errorf("the result is %+v", got)
	}
	e.mustHave("both", tenant, "invoice 80/50 warning 52", "invoice 100/50 error 52")
}

func TestWithoutALimitThereIsNoAlert(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	unlimited, without, trial, triesStill := e.tenant("max"), e.tenant(""), e.tenant("pro"), e.tenant("pro")
	e.do(`update billing_periods set trial = true where tenant_id = $1`, trial)
	e.do(`update subscriptions set status = 'trial' where tenant_id = $1`, triesStill)
	for _, tenant := range []uuid.UUID{unlimited, without, trial, triesStill} {
		e.count(tenant, "inbox", 1_000_000)
	}
	if got := e.evaluate(); got.Alerts != 0 {
		t.Errorf("the result is %+v", got)
	}
	e.do(`update subscriptions set trial_ends_at = $2 where tenant_id = $1`, triesStill, e.now)
	if got := e.evaluate(); got.Alerts != 2 {
		t.Errorf("after the trial: %+v", got)
	}
}

func TestWithLimitZeroTheFirstUnitIsAnAlert(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	tenant := e.tenant("pro")
	e.count(tenant, "meeting", 0)
	e.evaluate()
	e.mustHave("none used", tenant)
	e.count(tenant, "meeting", 1)
	e.evaluate()
	e.mustHave("one used", tenant, "meeting 100/0 error 1")
}

func TestEndedPeriodKeepsItsLimitUntilClosed(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	tenant := e.tenant("pro")
	e.count(tenant, "inbox", 90)
	e.do(`update billing_periods set frozen_at = now(), period_end = now() where tenant_id = $1`, tenant)
	e.do(`insert into period_allowances select tenant_id, period_start, 'inbox', 100, 0.02 from billing_periods`)
	e.evaluate()
	e.mustHave("frozen", tenant, "inbox 80/100 warning 90")
	e.count(tenant, "inbox", 100)
	e.do(`update billing_periods set status = 'closed', closed_epoch = 1, closed_seq = 1, closed_at = now() where tenant_id = $1`, tenant)
	e.evaluate()
	e.mustHave("closed", tenant, "inbox 80/100 warning 90")
}

func TestLimitAndCountMayBeAnyBigint(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	tenant := e.tenant("pro")
	e.do(`update allowances set "limit" = $1 where agent = 'inbox'`, int64(math.MaxInt64))
	e.count(tenant, "inbox", math.MaxInt64)
	if got := e.evaluate(); got.Alerts != 2 {
		t.Errorf("the result is %+v", got)
	}
}

func TestExceededLimitIsLoggedWithItsOverage(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	var log bytes.Buffer
	e.Options.Log = slog.New(slog.NewTextHandler(&log, nil))
	tenant := e.tenant("pro")
	e.count(tenant, "inbox", 500)
	e.count(tenant, "invoice", 52)
	e.evaluate()
	e.evaluate()
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

func TestFailedReportsAreAFinding(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.mustBeOpen("without reports")
	e.do(reportSQL, "accepted", e.now, 95)
	e.do(reportSQL, "unknown", e.now, 3)
	e.do(reportSQL, "rejected", e.now, 2)
	e.mustBeOpen("at 5 %")
	e.do(reportSQL, "unknown", e.now, 1)
	e.mustBeOpen("above 5 %", "report_failures stripe")
	e.now = e.now.Add(failureWindow + time.Second)
	e.mustBeOpen("a quarter of an hour later")
}

// The breaker lets five calls fail and then none through.
func TestFiveFailedReportsAreAFinding(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.do(reportSQL, "unknown", e.now, 5)
	e.mustBeOpen("five of five", "report_failures stripe")
}

func TestStaleJobIsAFinding(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.do(`insert into jobs (job, known_since, last_success_at, last_error) values
		('fresh', $2, $2, null), ('new', $2, null, 'x'), ('never', $1, null, 'Stripe is away'), ('late', $1, $1, null), ('paused', $1, $1, null)`,
		e.now.Add(-staleAfter-time.Second), e.now.Add(-staleAfter))
	e.do(`insert into river_queue (name, paused_at, updated_at) values ('paused', now(), now()), ('late', null, now())`)
	e.mustBeOpen("first", "job_stale late", "job_stale never")
	e.do(`update jobs set last_success_at = $1`, e.now)
	e.mustBeOpen("after they succeeded")
}

func TestMoreThanTenReconcileErrorsInADayAreAFinding(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	for i := range 11 {
		if i == 10 {
			e.evaluate()
			if got := e.ask(`select count(*) from audit_findings where kind = 'reconcile_errors'`); got != 0 {
				t.Error("ten are a finding")
			}
		}
		if err := findings.Record(t.Context(), e.pool, findings.Finding{Kind: "reconcile_error", Subject: uuid.NewString(), FoundBy: "test"}); err != nil {
			t.Fatal(err)
		}
	}
	e.evaluate()
	if got := e.ask(`select count(*) from audit_findings where kind = 'reconcile_errors' and resolved_at is null`); got != 1 {
		t.Error("eleven are not found")
	}
	e.do(`update audit_findings set resolved_at = now(), found_at = $1 where kind = 'reconcile_error'`, e.now.Add(-25*time.Hour))
	e.mustBeOpen("when they are over")
}

func TestStaleJobNamesTheCommandToRun(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.do(`insert into jobs (job, known_since) values ('verify', $1)`, e.now.Add(-staleAfter-time.Second))
	e.mustBeOpen("stale", "job_stale verify")
	const detail = "job verify has not succeeded for 25 hours (never succeeded); run: odometer jobs run verify"
	if e.ask(`select count(*) from audit_findings where detail = $1`, detail) != 1 {
		t.Errorf("no finding says: %s", detail)
	}
}

func TestSlackThatAcceptsNothingForADayIsAFinding(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.count(e.tenant("pro"), "inbox", 400)
	e.slack.answers(status(http.StatusInternalServerError, "no"))
	e.evaluate()
	_ = e.failDelivery("down", 0, 1)
	e.now = e.now.Add(staleAfter)
	e.mustBeOpen("25 hours later")
	e.now = e.now.Add(time.Second)
	e.mustBeOpen("a second later", "job_stale alerts_delivery")
	e.slack.answers(nil)
	e.deliver("back", 2, 0)
	e.mustBeOpen("after the delivery")
}

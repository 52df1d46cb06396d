package alerts

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"

	"odometer/audit/findings"
)

const leftSQL = `
select (select count(*) from usage_alerts where delivered_at is null and raised_at > $1)
    + (select count(*) from audit_findings where` + unnotifiedSQL + `)`

// deliver delivers, and checks how many records were sent and how many are left.
func (e *testEnv) deliver(what string, sent, left int) {
	e.Helper()
	if err := e.tryDeliver(what, sent, left); err != nil {
		e.Errorf("%s: %v", what, err)
	}
}

// failDelivery is deliver for a delivery that must return an error.
func (e *testEnv) failDelivery(what string, sent, left int) error {
	e.Helper()
	err := e.tryDeliver(what, sent, left)
	if err == nil || strings.Contains(err.Error(), "verysecret") || strings.Contains(err.Error(), e.slack.URL) {
		e.Fatalf("%s: the error is missing or contains the webhook: %v", what, err)
	}
	return err
}

func (e *testEnv) tryDeliver(what string, sent, left int) error {
	e.Helper()
	gotSent, err := e.Deliver(e.Context())
	if gotLeft := int(e.ask(leftSQL, e.now.Add(-maxAge))); gotSent != sent || gotLeft != left {
		e.Errorf("%s: sent %d, left %d, %v; want %d and %d", what, gotSent, gotLeft, err, sent, left)
	}
	return err
}

func (e *testEnv) finding(kind, subject, detail string) {
	e.Helper()
	err := findings.Record(e.Context(), e.pool, findings.Finding{Kind: kind, Subject: subject, Detail: detail, FoundBy: "test"})
	if err != nil {
		e.Fatal(err)
	}
}

func status(code int, word string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, word, code) }
}

func TestSlackGetsEachRecordOnce(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	tenant := e.tenant("pro")
	e.count(tenant, "inbox", 425)
	e.count(tenant, "invoice", 52)
	e.evaluate()
	e.finding("counter_drift", "x", "the counter says 3 and its events 2 <& more>")
	e.deliver("first", 3, 0)
	e.deliver("again", 0, 0)
	sent := strings.Join(e.slack.received(), "\n")
	for _, want := range []string{
		"inbox of tenant " + tenant.String() + ": 85% used, 425 of 500",
		"invoice of tenant " + tenant.String() + ": 104% used, 52 of 50",
		"extra charges $0.20",
		"counter_drift: the counter says 3 and its events 2 &lt;&amp; more&gt; (found 0s ago)",
	} {
		if !strings.Contains(sent, want) {
			t.Errorf("Slack did not get %q but\n%s", want, sent)
		}
	}
	if strings.Count(sent, "invoice of tenant") != 1 {
		t.Errorf("80 %% was sent beside 100 %%:\n%s", sent)
	}
	if got := e.ask(`select count(*) from usage_alerts where delivered_at is null`); got != 0 {
		t.Errorf("%d alerts are not marked", got)
	}
}

func TestSlackDownLosesNothingAndDelaysNoEvaluation(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]http.HandlerFunc{
		"fails": status(http.StatusInternalServerError, "no"),
		"hangs": func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-r.Context().Done():
			case <-time.After(3 * time.Second):
			}
		},
		"cuts":                 func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"redirects":            func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) },
		"shows another's page": status(http.StatusNotFound, "not here: /services/T0/B0/verysecret"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			e.count(e.tenant("pro"), "inbox", 400)
			e.slack.answers(broken)
			e.evaluate()
			_ = e.failDelivery("down", 0, 1)
			e.count(e.tenant("pro"), "inbox", 400)
			if got := e.evaluate(); got.Alerts != 1 {
				t.Errorf("while Slack is down an evaluation found %+v", got)
			}
			e.slack.answers(nil)
			e.deliver("back", 2, 0)
			if got := e.ask(`select max(attempts) from usage_alerts`); got != 1 {
				t.Errorf("%d failed attempts are recorded", got)
			}
		})
	}
}

func TestThrottledDeliveryIsSnoozed(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.count(e.tenant("pro"), "inbox", 400)
	e.finding("a", "b", "c")
	e.evaluate()
	e.slack.answers(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "120")
		w.WriteHeader(http.StatusTooManyRequests)
	})
	w := worker{alerts: e.Alerts}
	var snooze *rivertype.JobSnoozeError
	if err := w.Work(t.Context(), nil); !errors.As(err, &snooze) || snooze.Duration != 2*time.Minute {
		t.Errorf("the delivery ended with %v, want a snooze of 2 minutes", err)
	}
	if got := len(e.slack.received()); got != 1 {
		t.Errorf("%d messages were sent to a Slack that asks for none", got)
	}
	e.slack.answers(nil)
	if err := w.Work(t.Context(), nil); err != nil {
		t.Error(err)
	}
	e.deliver("again", 0, 0)
}

// River delivers what an evaluation found, and retries while Slack is down.
func TestRiverDeliversAndRetries(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	workers := river.NewWorkers()
	e.AddWorker(workers)
	client, err := river.NewClient(riverpgxv5.New(e.pool), &river.Config{
		Logger: slog.New(slog.DiscardHandler), Workers: workers, Queues: map[string]river.QueueConfig{Queue: {MaxWorkers: 1}},
	})
	if err != nil {
		t.Fatal(err)
	}
	e.slack.answers(status(http.StatusInternalServerError, "no"))
	e.evaluate()
	if got := e.ask(`select count(*) from river_job`); got != 0 {
		t.Errorf("%d deliveries of nothing", got)
	}
	e.count(e.tenant("pro"), "inbox", 400)
	e.evaluate()
	e.finding("a", "b", "c")
	e.evaluate()
	if got := e.ask(`select count(*) from river_job`); got != 1 {
		t.Errorf("%d deliveries wait, want one for both", got)
	}
	if err := client.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { <-client.Stopped() })
	e.slack.await(t)
	e.slack.answers(nil)
	e.slack.await(t)
	if got := e.slack.received(); len(got) != 1 || !strings.Contains(got[0], "inbox of tenant") || !strings.Contains(got[0], "a: c") {
		t.Errorf("Slack got %q", got)
	}
}

func TestOneLineThatSlackRefusesStopsNoOther(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	for i := range 30 {
		e.finding("kind", fmt.Sprint(i), fmt.Sprintf("number %d.", i))
	}
	e.slack.answers(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.Header.Get("text"), "number 7.") {
			http.Error(w, "invalid_payload", http.StatusBadRequest)
		}
	})
	err := e.failDelivery("with one bad line", 29, 1)
	if !strings.Contains(err.Error(), "400 invalid_payload") {
		t.Errorf("the error is %v", err)
	}
	e.slack.answers(nil)
	e.deliver("later", 1, 0)
}

func TestThousandsOfAlertsAreOneMessage(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.do(`
with t as (
    insert into subscriptions (tenant_id, plan_id, status, period_interval, anchor)
    select gen_random_uuid(), 'pro', 'active', 'month', now() from generate_series(1, 3000) returning tenant_id
),
p as (
    insert into billing_periods (tenant_id, period_start, period_end, plan_id)
    select tenant_id, $1::timestamptz - interval '1 day', $1::timestamptz + interval '1 day', 'pro' from t
    returning tenant_id, period_start, period_end
)
insert into usage_counters (tenant_id, agent, period_start, period_end, count)
select tenant_id, 'inbox', period_start, period_end, 450 from p`, e.now)
	if got := e.evaluate(); got.Alerts != 3000 {
		t.Fatalf("the result is %+v", got)
	}
	e.deliver("all at once", 3000, 0)
	sent := e.slack.received()
	if len(sent) != 1 {
		t.Fatalf("%d messages", len(sent))
	}
	if lines := strings.Count(sent[0], "\n"); lines > maxLines+1 {
		t.Errorf("a message of %d lines", lines)
	}
	if want := fmt.Sprintf("%d more: inbox at 80%%", 3000-maxLines); !strings.Contains(sent[0], want) {
		t.Errorf("the message does not contain %q", want)
	}
}

func TestRecordsOlderThanAWeekAreNotDelivered(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	url := e.SlackURL
	e.SlackURL = ""
	e.count(e.tenant("pro"), "inbox", 400)
	e.evaluate()
	e.finding("a", "b", "c")
	e.deliver("without a webhook", 0, 2)
	e.SlackURL = url
	e.now = e.now.Add(maxAge + time.Minute)
	e.count(e.tenant("pro"), "inbox", 400)
	e.evaluate()
	e.deliver("a week later", 1, 0)
	if got := e.ask(`select count(*) from usage_alerts where delivered_at is null`); got != 1 {
		t.Errorf("%d alerts are not marked", got)
	}
}

func TestEveryKindOfFindingIsDelivered(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	kinds := []string{
		"late_usage", "not_invoiced", "unbillable", "report_parked", "report_unclear", "reporter_stopped",
		"stripe_total_differs", "invariant_broken", "counter_drift", "stripe_hook_stuck", "stripe_meter_error",
	}
	for _, kind := range kinds {
		e.finding(kind, "x", "what is wrong with "+kind)
	}
	e.deliver("all", len(kinds), 0)
	sent := strings.Join(e.slack.received(), "\n")
	for _, kind := range kinds {
		if !strings.Contains(sent, "• "+kind+": what is wrong with "+kind) {
			t.Errorf("Slack did not get %s but\n%s", kind, sent)
		}
	}
}

// A repaired counter is recorded and resolved at once, and still delivered.
func TestFindingsRecordedAsResolvedAreNotDelivered(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.do(`insert into audit_findings (kind, subject, detail, found_by, found_at, resolved_at, resolution) values
		('late_usage', 'at once', 'nobody is to hear this', 'test', $1, $1, 'r'),
		('late_usage', 'before', 'nobody is to hear this', 'test', $1, $1::timestamptz - interval '1 s', 'r'),
		('late_usage', 'since', 'it was', 'test', $1, $1::timestamptz + interval '1 s', 'r'),
		('counter_drift', 'repaired', 'it drifted', 'test', $1, $1, 'r')`, e.now.Add(-time.Minute))
	url := e.SlackURL
	e.SlackURL = ""
	e.deliver("without a webhook", 0, 2)
	e.SlackURL = url
	e.deliver("two", 2, 0)
	if sent := strings.Join(e.slack.received(), "\n"); strings.Contains(sent, "nobody") || !strings.Contains(sent, "it was") || !strings.Contains(sent, "it drifted") {
		t.Errorf("Slack got\n%s", sent)
	}
}

func TestWithoutSlackFindingsAreLoggedOnce(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	var log bytes.Buffer
	e.Options.Log = slog.New(slog.NewTextHandler(&log, nil))
	url, tenant := e.SlackURL, e.tenant("pro")
	e.SlackURL = ""
	err := findings.Record(t.Context(), e.pool, findings.Finding{Kind: "late_usage", Subject: "x", Tenant: tenant, Detail: "late", FoundBy: "test"})
	if err != nil {
		t.Fatal(err)
	}
	e.finding("reporter_stopped", "ledger", "stopped")
	for range 2 {
		e.evaluate()
	}
	e.deliver("without a webhook", 0, 2)
	e.finding("unbillable", "y", "newer")
	e.evaluate()
	e.deliver("another", 0, 3)
	for _, want := range []string{
		"level=ERROR msg=\"a finding for operators\" tenant=" + tenant.String() + " kind=late_usage detail=late\n",
		"level=ERROR msg=\"a finding for operators\" kind=reporter_stopped detail=stopped\n",
		"level=ERROR msg=\"a finding for operators\" kind=unbillable detail=newer\n",
	} {
		if strings.Count(log.String(), want) != 1 {
			t.Errorf("%q was not logged once:\n%s", want, log.String())
		}
	}
	e.SlackURL = url
	e.deliver("Slack gets them later", 3, 0)
	if n := strings.Count(log.String(), "\n"); n != 3 {
		t.Errorf("%d lines were logged", n)
	}
}

func TestErrorsDoNotContainTheWebhook(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.finding("a", "b", "c")
	e.SlackURL = "https://hooks.slack.com/\x7fverysecret"
	_ = e.failDelivery("an address that is none", 0, 1)
	e.SlackURL = "http://127.0.0.1:1/verysecret"
	e.now = e.now.Add(time.Hour)
	_ = e.failDelivery("nobody there", 0, 1)
}

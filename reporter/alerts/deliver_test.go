package alerts

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"odometer/audit/findings"
)

// deliver delivers and checks how many were told and are left.
func (h *house) deliver(what string, sent, left int) error {
	h.Helper()
	gotSent, gotLeft, err := h.Deliver(h.Context())
	if gotSent != sent || gotLeft != left {
		h.Errorf("%s: told %d, left %d, %v; want %d and %d", what, gotSent, gotLeft, err, sent, left)
	}
	if err != nil && (strings.Contains(err.Error(), "verysecret") || strings.Contains(err.Error(), h.slack.URL)) {
		h.Errorf("%s: the error gives the webhook away: %v", what, err)
	}
	return err
}

func (h *house) finding(kind, subject, detail string) {
	h.Helper()
	err := findings.Record(h.Context(), h.pool, findings.Finding{Kind: kind, Subject: subject, Detail: detail, FoundBy: "test"})
	if err != nil {
		h.Fatal(err)
	}
}

func status(code int, word string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, word, code) }
}

func TestSlackIsToldOnceWithWhatPeopleNeed(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	tenant := h.tenant("pro")
	h.count(tenant, "inbox", 425)
	h.count(tenant, "invoice", 52)
	h.look()
	h.finding("counter_drift", "x", "the counter says 3 and its events 2 <& more>")
	if err := h.deliver("first", 3, 0); err != nil {
		t.Error(err)
	}
	h.deliver("again", 0, 0)
	said := strings.Join(h.slack.told(), "\n")
	for _, want := range []string{
		"inbox of tenant " + tenant.String() + ": 85% used, 425 of 500",
		"invoice of tenant " + tenant.String() + ": 104% used, 52 of 50",
		"extra charges $0.20",
		"counter_drift: the counter says 3 and its events 2 &lt;&amp; more&gt; (found 0s ago)",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("Slack was not told %q but\n%s", want, said)
		}
	}
	if strings.Count(said, "invoice of tenant") != 1 {
		t.Errorf("80 %% was told beside 100 %%:\n%s", said)
	}
	if got := h.ask(`select count(*) from usage_alerts where delivered_at is null`); got != 0 {
		t.Errorf("%d alerts are not marked", got)
	}
}

func TestASlackThatIsDownLosesNothingAndDelaysNoLook(t *testing.T) {
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
			h := newHouse(t)
			h.count(h.tenant("pro"), "inbox", 400)
			h.slack.answers(broken)
			h.look()
			if err := h.deliver("down", 0, 1); err == nil {
				t.Error("no error says so")
			}
			h.count(h.tenant("pro"), "inbox", 400)
			if got := h.look(); got.Alerts != 1 {
				t.Errorf("while Slack is down a look found %+v", got)
			}
			h.slack.answers(nil)
			h.deliver("back, the first still waits", 1, 1)
			h.now = h.now.Add(15 * time.Minute)
			h.deliver("later", 1, 0)
		})
	}
}

func TestASlackThatWantsToBeLeftAloneIsLeftAlone(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.count(h.tenant("pro"), "inbox", 400)
	h.finding("a", "b", "c")
	h.look()
	h.slack.answers(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "120")
		w.WriteHeader(http.StatusTooManyRequests)
	})
	h.deliver("throttled", 0, 2)
	if got := len(h.slack.told()); got != 1 {
		t.Errorf("%d messages were sent to a Slack that asks for none", got)
	}
	h.slack.answers(nil)
	h.now = h.now.Add(119 * time.Second)
	h.deliver("too early", 0, 2)
	if got := len(h.slack.told()); got != 0 {
		t.Errorf("%d messages were sent too early", got)
	}
	h.now = h.now.Add(time.Second)
	h.deliver("in time", 2, 0)
}

func TestOneMessageThatSlackRefusesStopsNoOther(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for i := range 30 {
		h.finding("kind", fmt.Sprint(i), fmt.Sprintf("number %d.", i))
	}
	h.slack.answers(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.Header.Get("text"), "number 7.") {
			http.Error(w, "invalid_payload", http.StatusBadRequest)
		}
	})
	err := h.deliver("with one bad line", 29, 1)
	if err == nil || !strings.Contains(err.Error(), "400 invalid_payload") {
		t.Errorf("it says %v", err)
	}
	h.deliver("before its time", 0, 1)
	h.slack.answers(nil)
	h.now = h.now.Add(2 * time.Minute)
	h.deliver("later", 1, 0)
}

func TestAMonthsStartDoesNotFlood(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.do(`
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
select tenant_id, 'inbox', period_start, period_end, 450 from p`, h.now)
	if got := h.look(); got.Alerts != 3000 {
		t.Fatalf("looked %+v", got)
	}
	h.deliver("all at once", 3000, 0)
	told := h.slack.told()
	if len(told) != messagesPerPass+1 {
		t.Errorf("%d messages", len(told))
	}
	for _, text := range told {
		if lines := strings.Count(text, "\n"); lines > linesPerMessage+1 {
			t.Errorf("a message of %d lines", lines)
		}
	}
	if last := told[len(told)-1]; !strings.Contains(last, "inbox at 80%: 2900") {
		t.Errorf("the last says %q", last)
	}
}

func TestWhatIsNoNewsAnyMoreIsNotTold(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	url := h.SlackURL
	h.SlackURL = ""
	h.count(h.tenant("pro"), "inbox", 400)
	h.look()
	h.finding("a", "b", "c")
	h.deliver("without a webhook", 0, 2)
	h.SlackURL = url
	h.now = h.now.Add(tooOld + time.Minute)
	h.count(h.tenant("pro"), "inbox", 400)
	h.look()
	h.deliver("a week later", 1, 0)
	if got := h.ask(`select count(*) from usage_alerts where delivered_at is null`); got != 1 {
		t.Errorf("%d alerts are not marked as told", got)
	}
}

func TestEveryKindOfFindingIsTold(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	kinds := []string{
		"late_usage", "not_invoiced", "unbillable", "report_parked", "report_unclear", "reporter_stopped",
		"stripe_total_differs", "invariant_broken", "counter_drift", "stripe_hook_stuck", "stripe_meter_error",
	}
	for _, kind := range kinds {
		h.finding(kind, "x", "what is wrong with "+kind)
	}
	h.deliver("all", len(kinds), 0)
	said := strings.Join(h.slack.told(), "\n")
	for _, kind := range kinds {
		if !strings.Contains(said, "• "+kind+": what is wrong with "+kind) {
			t.Errorf("Slack was not told of %s but\n%s", kind, said)
		}
	}
}

// A counter that is repaired is recorded and resolved at once, and told.
func TestWhatIsRecordedAsResolvedIsNotTold(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.do(`insert into audit_findings (kind, subject, detail, found_by, found_at, resolved_at, resolution) values
		('late_usage', 'at once', 'nobody is to hear this', 'test', $1, $1, 'r'),
		('late_usage', 'before', 'nobody is to hear this', 'test', $1, $1::timestamptz - interval '1 s', 'r'),
		('late_usage', 'since', 'it was', 'test', $1, $1::timestamptz + interval '1 s', 'r'),
		('counter_drift', 'repaired', 'it drifted', 'test', $1, $1, 'r')`, h.now.Add(-time.Minute))
	url := h.SlackURL
	h.SlackURL = ""
	h.deliver("without a webhook", 0, 2)
	h.SlackURL = url
	h.deliver("two", 2, 0)
	if said := strings.Join(h.slack.told(), "\n"); strings.Contains(said, "nobody") || !strings.Contains(said, "it was") || !strings.Contains(said, "it drifted") {
		t.Errorf("Slack was told\n%s", said)
	}
}

func TestWithoutSlackOperatorsHearByTheLogOnce(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	var log bytes.Buffer
	h.Options.Log = slog.New(slog.NewTextHandler(&log, nil))
	url, tenant := h.SlackURL, h.tenant("pro")
	h.SlackURL = ""
	err := findings.Record(t.Context(), h.pool, findings.Finding{Kind: "late_usage", Subject: "x", Tenant: tenant, Detail: "late", FoundBy: "test"})
	if err != nil {
		t.Fatal(err)
	}
	h.finding("reporter_stopped", "ledger", "stopped")
	for range 2 {
		h.deliver("without a webhook", 0, 2)
	}
	h.finding("unbillable", "y", "newer")
	h.deliver("another", 0, 3)
	for _, want := range []string{
		"level=ERROR msg=\"a finding for operators\" tenant=" + tenant.String() + " kind=late_usage detail=late\n",
		"level=ERROR msg=\"a finding for operators\" kind=reporter_stopped detail=stopped\n",
		"level=ERROR msg=\"a finding for operators\" kind=unbillable detail=newer\n",
	} {
		if strings.Count(log.String(), want) != 1 {
			t.Errorf("%q was not logged once:\n%s", want, log.String())
		}
	}
	h.SlackURL = url
	h.deliver("Slack is told all the same", 3, 0)
	if n := strings.Count(log.String(), "\n"); n != 3 {
		t.Errorf("%d lines were logged", n)
	}
}

func TestAWrongAddressIsNotRepeated(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.finding("a", "b", "c")
	h.SlackURL = "https://hooks.slack.com/\x7fverysecret"
	if err := h.deliver("an address that is none", 0, 1); err == nil {
		t.Error("no error")
	}
	h.SlackURL = "http://127.0.0.1:1/verysecret"
	h.now = h.now.Add(time.Hour)
	if err := h.deliver("nobody there", 0, 1); err == nil {
		t.Error("no error")
	}
}

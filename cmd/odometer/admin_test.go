package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"odometer"
	"odometer/api"
	"odometer/api/apitest"
	"odometer/billing"
	"odometer/cmd/internal/app"
	"odometer/cmd/internal/cli"
	"odometer/ingest"
	"odometer/query/admin"
)

// adminAPI is the operators' API over an operatorEnv.
type adminAPI struct {
	*operatorEnv
	http.Handler
	token string
}

func (o *operatorEnv) admin() *adminAPI {
	o.t.Helper()
	nc, err := nats.Connect(o.server)
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(nc.Close)
	keys, err := api.KeysFromSecret(apitest.Secret, api.Expect{})
	if err != nil {
		o.t.Fatal(err)
	}
	token, err := api.SignToken(apitest.Secret, api.Claims{Subject: "ops", Role: api.Admin, Scopes: []string{api.ReadScope, api.WriteScope}}, time.Hour)
	if err != nil {
		o.t.Fatal(err)
	}
	server := api.New(api.Options{Keys: keys, Log: apitest.Quiet})
	admin.Register(server, app.AdminOptions(openPool(o.t, o.database), nc))
	return &adminAPI{o, server.Handler(), token}
}

func (d *adminAPI) reads(path string) *http.Response {
	return apitest.Get(d, "/api/v1/admin/"+path, d.token)
}

func (d *adminAPI) acts(path, body string) *http.Response {
	return apitest.Do(d, http.MethodPost, "/api/v1/admin/"+path, d.token, body)
}

// An operator retries dead letters over HTTP: classified by today's catalogue, counted
// once, written down with who did it.
func TestOperatorRetriesDeadLettersOverHTTP(t *testing.T) {
	t.Parallel()
	d := newOperatorEnv(t).admin()
	d.publish("email_processed", "good", 3)
	d.publish("email_replied", "a", 10)
	d.publish("email_replied", "b", 10)
	d.read(3)
	retry := func(body string) admin.RetryResult {
		t.Helper()
		return apitest.Decode[admin.RetryResult](t, d.acts("dead-letters/retry", body))
	}
	if r := retry(`{"reason":"unknown_action"}`); r.Counts != (admin.DeadLetterCounts{Open: 2}) || r.Letters[0].ID != "1-2" || r.Letters[0].Reason != "unknown_action" {
		t.Errorf("by the old catalogue: %+v", r)
	}
	d.expect(cli.ExitDone, nil, "deadletters", "discard", "1-3", "--why", "a test")
	file := filepath.Join(t.TempDir(), "c.yaml")
	catalogue := strings.Replace(billing.SampleYAML, "email_processed", "email_processed, email_replied", 1)
	if err := os.WriteFile(file, []byte(catalogue), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, "catalogue", "apply", "-f", file, "--database-url", d.database)
	if r := retry(`{"ids":["1-3","1-2"]}`); r.Counts != (admin.DeadLetterCounts{Retried: 1, Discarded: 1}) || r.Letters[0].Already || !r.Letters[1].Already {
		t.Errorf("by the new catalogue: %+v", r)
	}
	if r := retry(`{"ids":["1-2"]}`); r.Counts != (admin.DeadLetterCounts{Retried: 1}) || !r.Letters[0].Already {
		t.Errorf("again: %+v", r)
	}
	list := apitest.Decode[admin.DeadLetterList](t, d.reads("dead-letters?state=retried"))
	if len(list.Letters) != 1 || *list.Letters[0].DecidedBy != "ops" || !strings.Contains(*list.Letters[0].Payload, "email_replied") {
		t.Errorf("retried: %+v", list)
	}
	if detail := apitest.Body(t, d.reads("tenants/"+d.tenant)); !strings.Contains(detail, `"inbox":{"count":13,`) {
		t.Errorf("the tenant: %s", detail)
	}
	o := apitest.Decode[admin.Overview](t, d.reads("overview"))
	if *o.Stream.LastSeq != 3 || *o.LagMessages != 0 || *o.Totals != (admin.Totals{Messages: 3, Events: 1, DeadLetters: 2}) || o.OpenDeadLetters != 0 {
		t.Errorf("the overview: %+v", o)
	}
}

// A partition whose position is behind the end lags by its own messages,
// and not by those of the others.
func TestLagIsWhatIsNotCounted(t *testing.T) {
	t.Parallel()
	o := newOperatorEnv(t)
	o.publish("email_processed", "a", 1)
	o.publish("email_processed", "b", 1)
	o.read(2)
	o.stop()
	lag := func() int64 {
		t.Helper()
		d := o.admin() // what another has read may be a second old
		return *apitest.Decode[admin.Overview](t, d.reads("overview")).LagMessages
	}
	own := odometer.PartitionOf(uuid.MustParse(o.tenant), ingest.DefaultPartitions)
	o.exec(fmt.Sprintf(`update stream_positions set seq = 0 where partition <> %d`, own))
	if n := lag(); n != 0 {
		t.Errorf("everything is counted, and the lag is %d", n)
	}
	o.exec(`update stream_positions set seq = 1`)
	if n := lag(); n != 1 {
		t.Errorf("one of two is counted, and the lag is %d", n)
	}
}

func TestOperatorPausesJobsOverHTTP(t *testing.T) {
	t.Parallel()
	d := newOperatorEnv(t).admin()
	job := func(name string) admin.Job {
		t.Helper()
		for _, j := range apitest.Decode[admin.JobList](t, d.reads("jobs")).Jobs {
			if j.Name == name {
				return j
			}
		}
		t.Fatalf("no job %s", name)
		return admin.Job{}
	}
	if j := job("alerts"); j.Paused || j.LastAct != nil || j.DueAt.IsZero() {
		t.Errorf("at first: %+v", j)
	}
	apitest.Decode[admin.JobState](t, d.acts("jobs/alerts/pause", ""))
	d.expect(cli.ExitDone, []string{"pause by ops"}, "jobs", "list")
	if j := job("alerts"); !j.Paused || j.LastAct.Who != "ops" || j.LastAct.Act != "pause" || *j.LastAct.Result != "done" {
		t.Errorf("after a pause: %+v", j)
	}
	apitest.Decode[admin.JobState](t, d.acts("jobs/alerts/resume", ""))
	if j := job("alerts"); j.Paused || j.LastAct.Act != "resume" {
		t.Errorf("after resuming: %+v", j)
	}
	for _, name := range []string{"frobnicate", "alerts_delivery"} {
		apitest.WantProblem(t, d.acts("jobs/"+name+"/pause", ""), "404 not-found")
	}
}

const damageSQL = `
update usage_counters set count = count + 40`

// What the job reconcile found is what operators see, in full.
func TestLastAuditIsShown(t *testing.T) {
	t.Parallel()
	d := newOperatorEnv(t).admin()
	d.publish("email_processed", "good", 3)
	d.read(1)
	d.exec(damageSQL)
	d.expect(cli.ExitFound, nil, "jobs", "run", "reconcile", "--nats-url", d.server)
	var kept []byte
	if err := openPool(t, d.database).QueryRow(t.Context(), `select report from audits`).Scan(&kept); err != nil {
		t.Fatal(err)
	}
	strict := json.NewDecoder(bytes.NewReader(kept))
	strict.DisallowUnknownFields()
	var report admin.AuditReport
	if err := strict.Decode(&report); err != nil {
		t.Errorf("the API does not know all of a report: %v", err)
	}
	last := apitest.Decode[admin.LastAudit](t, d.reads("audits/latest")).Audit
	if last == nil || last.By != cli.Operator() || last.Different != 1 || last.Report.Differences[0].Kind != "counter_differs" ||
		last.Report.Stream.Messages != 1 || len(last.Report.Comparisons) != 4 {
		t.Errorf("the last audit: %+v", last)
	}
	if again, err := json.Marshal(report); err != nil || !sameJSON(t, again, kept) {
		t.Errorf("the report was kept as %s and is answered as %s", kept, again)
	}
	open := apitest.Decode[admin.FindingList](t, d.reads("findings")).Findings
	if len(open) != 1 || open[0].Kind != "reconcile_error" || *open[0].Before != 43 || *open[0].After != 3 {
		t.Errorf("findings: %+v", open)
	}
}

func sameJSON(t *testing.T, one, two []byte) bool {
	t.Helper()
	var a, b map[string]any
	if err := json.Unmarshal(one, &a); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(two, &b); err != nil {
		t.Fatal(err)
	}
	first, _ := json.Marshal(a)
	second, _ := json.Marshal(b)
	return bytes.Equal(first, second)
}

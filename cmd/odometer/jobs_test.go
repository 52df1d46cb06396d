package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer/cmd/internal/cli"
	"odometer/cmd/internal/jobs"
	"odometer/migrations/pgtest"
	"odometer/query/admin"
)

// jobsDo runs a command of odometer jobs.
func jobsDo(t *testing.T, args ...string) answer {
	t.Helper()
	var parsed struct {
		Jobs jobsCmd `cmd:""`
	}
	parser, err := kong.New(&parsed, kong.Name("odometer"), kong.Writers(io.Discard, io.Discard), kong.Exit(func(int) {}))
	if err != nil {
		t.Fatal(err)
	}
	command, err := parser.Parse(append([]string{"jobs"}, args...))
	if err != nil {
		return answer{cli.ExitUsage, "", err.Error()}
	}
	var out, log bytes.Buffer
	command.BindTo(t.Context(), (*context.Context)(nil))
	if err := command.Run(cli.NewTerminal(&out, &log, "text", "info")); err != nil {
		return answer{cli.ExitCode(err), out.String(), cli.OneLine(err)}
	}
	return answer{cli.ExitDone, out.String(), ""}
}

func TestActsOnJobsAreRecorded(t *testing.T) {
	t.Parallel()
	database := pgtest.URL(t)
	do := func(args ...string) string {
		t.Helper()
		got := jobsDo(t, append(args, "--database-url", database)...)
		if got.code != cli.ExitDone {
			t.Fatalf("jobs %v: exit %d: %s", args, got.code, got.err)
		}
		return got.out
	}
	list := func() map[string]admin.Job {
		t.Helper()
		var rows []admin.Job
		if err := json.Unmarshal([]byte(do("list", "--json")), &rows); err != nil {
			t.Fatal(err)
		}
		byName := map[string]admin.Job{}
		for _, r := range rows {
			byName[r.Name] = r
		}
		return byName
	}
	if got := list(); len(got) != len(jobs.Table(nil)) || got["rollover"].LastSuccessAt != nil {
		t.Errorf("at first: %+v", got)
	}
	do("run", "rollover")
	do("run", "retention")
	do("pause", "alerts")
	do("pause", "alerts")
	got := list()
	if r := got["rollover"]; r.LastSuccessAt == nil || r.LastAct == nil || r.LastAct.Act != "run" || r.LastAct.Who != cli.Operator() || *r.LastAct.Result != "done" || r.Paused {
		t.Errorf("after a run: %+v", r)
	}
	if r := got["alerts"]; !r.Paused || r.LastAct.Act != "pause" {
		t.Errorf("after a pause: %+v", r)
	}
	if out := do("list"); !strings.Contains(out, "pause by "+cli.Operator()) {
		t.Errorf("the table:\n%s", out)
	}
	do("resume", "alerts")
	if r := list()["alerts"]; r.Paused || r.LastAct.Act != "resume" {
		t.Errorf("after resume: %+v", r)
	}
}

func TestUnknownJobIsAUsageErrorThatListsTheJobs(t *testing.T) {
	t.Parallel()
	for _, act := range []string{"run", "pause", "resume"} {
		for _, name := range []string{"frobnicate", "alerts_delivery"} {
			got := jobsDo(t, act, name, "--database-url", "postgres://127.0.0.1:1/none")
			if got.code != cli.ExitUsage || !strings.Contains(got.err, "rollover, report") || !strings.Contains(got.err, name) {
				t.Errorf("jobs %s %s: exit %d: %s", act, name, got.code, got.err)
			}
		}
	}
}

func TestRunByHandFailsWithItsJob(t *testing.T) {
	t.Parallel()
	database := pgtest.URL(t)
	slack := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
	}))
	t.Cleanup(slack.Close)
	if got := jobsDo(t, "run", "alerts", "--database-url", database, "--slack-webhook-url", slack.URL); got.code != cli.ExitDone {
		t.Errorf("with nothing to deliver: exit %d: %s", got.code, got.err)
	}
	pool, err := pgxpool.New(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	if _, err := pool.Exec(t.Context(), `insert into audit_findings (kind, subject, detail, found_by) values ('a', 'b', 'c', 'd')`); err != nil {
		t.Fatal(err)
	}
	if got := jobsDo(t, "run", "alerts", "--database-url", database, "--slack-webhook-url", slack.URL+"/verysecret"); got.code != cli.ExitFound ||
		!strings.Contains(got.err, "Slack answered 500") || strings.Contains(got.err, "verysecret") {
		t.Errorf("with a Slack that fails: exit %d: %s", got.code, got.err)
	}
	var result string
	if err := pool.QueryRow(t.Context(), `select result from job_acts order by act_id desc limit 1`).Scan(&result); err != nil || !strings.Contains(result, "500") {
		t.Errorf("the recorded result is %q, %v", result, err)
	}
	if got := jobsDo(t, "run", "retention", "--database-url", database, "--event-retention", "10d"); got.code != cli.ExitUsage || !strings.Contains(got.err, "90d") {
		t.Errorf("with too short a retention: exit %d: %s", got.code, got.err)
	}
}

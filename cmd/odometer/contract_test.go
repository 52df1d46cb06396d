package main

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"odometer/billing"
	"odometer/cmd/internal/app"
	"odometer/cmd/internal/cli"
	"odometer/ingest/natstest"
	"odometer/migrations/pgtest"
)

const someTenant = "0b7e4d1c-6f0e-4a53-9d55-3c1c0a3f7e01"

func TestUsageErrorsSayWhatToDo(t *testing.T) {
	t.Parallel()
	nowhere := "postgres://127.0.0.1:1/none?connect_timeout=1"
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"catalogue", "show"}, cli.ExitUsage, "ODOMETER_DATABASE_URL"},
		{[]string{"run"}, cli.ExitUsage, "--database-url"},
		{[]string{"run", "everything"}, cli.ExitUsage, "aggregator"},
		{[]string{"run", "query", "--database-url", nowhere}, cli.ExitUsage, "--jwt-secret"},
		{[]string{"run", "aggregator", "--database-url", nowhere}, cli.ExitUsage, "ODOMETER_NATS_URL"},
		{[]string{"migrate", "status", "--database-url", nowhere}, cli.ExitUnreachable, "check --database-url"},
		{[]string{"publish", "--nats-url", "nats://127.0.0.1:1", "--tenant", someTenant, "--agent", "inbox", "--action", "a"}, cli.ExitUnreachable, "check --nats-url"},
		{[]string{"publish", "--tenant", "ACME"}, cli.ExitUsage, "lower-case"},
		{[]string{"publish", "--tenant", someTenant, "--agent", "inbox", "--action", "a", "--quantity", "0"}, cli.ExitUsage, "--quantity 0"},
		{[]string{"token", "--tenant", someTenant}, cli.ExitUsage, "ODOMETER_JWT_SECRET"},
		{[]string{"token", "--jwt-secret", strings.Repeat("s", 32)}, cli.ExitUsage, "--tenant"},
		{[]string{"token", "--jwt-secret", strings.Repeat("s", 32), "--role", "admin", "--subject", " "}, cli.ExitUsage, "--subject"},
		{[]string{"subscription", "set", "--tenant", someTenant, "--plan", "p", "--period-start", "2026-11-01T00:00:00Z", "--period-end", "2026-12-01T00:00:00Z", "--status", "happy"}, cli.ExitUsage, "active"},
		{[]string{"run", "aggregator", "--database-url", nowhere, "--nats-url", "nats://127.0.0.1:1", "--stream-max-age", "89d"}, cli.ExitUsage, "7 days"},
		{[]string{"demo", "--rate", "0"}, cli.ExitUsage, "--rate 0"},
		{[]string{"demo", "--addr", "0.0.0.0:0"}, cli.ExitUsage, "--addr 0.0.0.0:0: other machines could reach it"},
		{[]string{"demo", "--addr", ":0"}, cli.ExitUsage, "--addr :0: other machines could reach it"},
		{[]string{"frobnicate"}, cli.ExitUsage, "frobnicate"},
	} {
		got := odometerDoes(t, c.args...)
		if got.code != c.code || !strings.Contains(got.err, c.says) {
			t.Errorf("odometer %s: exit %d, want %d; said %q, want a word of %q", strings.Join(c.args, " "), got.code, c.code, got.err, c.says)
		}
		if lines := strings.Count(strings.TrimSpace(got.err), "\n"); lines != 0 {
			t.Errorf("odometer %s: %d lines more than one on stderr:\n%s", strings.Join(c.args, " "), lines, got.err)
		}
	}
}

func TestHelpShowsAnExampleOfEveryCommand(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"demo", "run", "migrate up", "migrate down", "migrate status", "catalogue apply", "catalogue show",
		"subscription set", "subscription show", "token", "publish", "usage", "replay", "audit", "reconcile", "deadletters list", "deadletters show", "deadletters retry", "deadletters discard", "adjust", "report", "jobs list", "jobs run", "jobs pause", "jobs resume", "bench"} {
		got := odometerDoes(t, append(strings.Fields(command), "--help")...)
		if got.code != cli.ExitDone || !strings.Contains(strings.Join(strings.Fields(got.out), " "), "Example: odometer "+command) {
			t.Errorf("odometer %s --help: exit %d, without an example:\n%s", command, got.code, got.out)
		}
	}
}

func TestOutdatedSchemaErrorNamesMigrateUp(t *testing.T) {
	t.Parallel()
	database := pgtest.URL(t)
	must(t, "migrate", "down", "--database-url", database)
	got := odometerDoes(t, "catalogue", "show", "--database-url", database)
	if got.code != cli.ExitUsage || !strings.Contains(got.err, "odometer migrate up") {
		t.Errorf("exit %d: %s", got.code, got.err)
	}
	must(t, "migrate", "up", "--database-url", database)
	if out := must(t, "migrate", "status", "--database-url", database); strings.Contains(out, "not applied") {
		t.Errorf("after up:\n%s", out)
	}
}

func TestShownCatalogueCanBeApplied(t *testing.T) {
	t.Parallel()
	database := pgtest.URL(t)
	if got := odometerDoes(t, "catalogue", "show", "--database-url", database); got.code != cli.ExitUsage || !strings.Contains(got.err, "catalogue apply") {
		t.Errorf("without a catalogue: exit %d: %s", got.code, got.err)
	}
	must(t, "catalogue", "apply", "--database-url", database)
	shown := must(t, "catalogue", "show", "--database-url", database)
	file := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(file, []byte(shown), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, "catalogue", "apply", "-f", file, "--database-url", database)
	if again := must(t, "catalogue", "show", "--database-url", database); again != shown {
		t.Errorf("shown %q, applied and shown %q", shown, again)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(shown, "currency:", "curency:", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := odometerDoes(t, "catalogue", "apply", "-f", file, "--database-url", database); got.code != cli.ExitUsage || !strings.Contains(got.err, file+":1:1:") {
		t.Errorf("an unknown field: exit %d: %s", got.code, got.err)
	}
}

// From the first migration to the answer of the API, as an operator and a customer do it.
func TestFromPublishToUsage(t *testing.T) {
	t.Parallel()
	database, server := pgtest.URL(t), natstest.Run(t)
	key := strings.Repeat("k", 40)
	must(t, "catalogue", "apply", "--database-url", database)
	tenant := subscribeMany(t, database, 1)[0].String()

	http1, ops := app.FreeAddress("127.0.0.1:0"), app.FreeAddress("127.0.0.1:0")
	cmd := program(t, []string{"ODOMETER_DATABASE_URL=" + database, "ODOMETER_NATS_URL=" + server.URL(), "ODOMETER_JWT_SECRET=" + key},
		"run", "--http-addr", http1, "--ops-addr", ops)
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "ready", func() bool { return status("http://"+ops+"/readyz", "") == http.StatusOK })

	out := must(t, "publish", "--nats-url", server.URL(), "--tenant", tenant, "--agent", "invoice", "--action", "invoice_detected", "--quantity", "52", "--key", "one")
	if !strings.Contains(out, "one") || !strings.Contains(out, "1") {
		t.Errorf("publish said %q, want key and sequence", out)
	}
	token := strings.TrimSpace(must(t, "token", "--tenant", tenant, "--jwt-secret", key))
	url := "http://" + http1 + "/api/v1/usage"
	waitFor(t, "counted", func() bool {
		return strings.Contains(must(t, "usage", "--tenant", tenant, "--database-url", database), "52")
	})
	var usage struct {
		Usage map[string]struct{ Count, Overage, OverageCostCents int64 }
		Total int64 `json:"total_overage_cost_cents"`
	}
	if err := json.Unmarshal([]byte(must(t, "usage", "--json", "--tenant", tenant, "--database-url", database)), &usage); err != nil {
		t.Fatal(err)
	}
	if got := usage.Usage["invoice"]; got.Count != 52 || got.Overage != 2 || usage.Total != 20 {
		t.Errorf("usage %+v", usage)
	}
	if got := status(url, token); got != http.StatusOK {
		t.Errorf("GET usage: %d", got)
	}
	if got := status(url, ""); got != http.StatusUnauthorized {
		t.Errorf("GET usage without a token: %d", got)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v, want exit 0", err)
	}
}

func status(url, token string) int {
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return 0
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	client := http.Client{Timeout: 5 * time.Second}
	response, err := client.Do(request)
	if err != nil {
		return 0
	}
	response.Body.Close()
	return response.StatusCode
}

func TestFilePublishedTwiceIsStoredOnce(t *testing.T) {
	t.Parallel()
	database, server := pgtest.URL(t), natstest.Run(t)
	must(t, "catalogue", "apply", "--database-url", database)
	tenant := subscribeMany(t, database, 1)[0]
	lines := strings.Builder{}
	for i := range 2500 {
		line, _ := json.Marshal(map[string]any{"tenant_id": tenant, "agent": "inbox", "action_type": "email_processed", "idempotency_key": uuid.NewSHA1(tenant, []byte{byte(i), byte(i >> 8)})})
		lines.Write(append(line, '\n'))
	}
	lines.WriteString(`{"tenant_id":"` + tenant.String() + `","agent":"inbox","action_type":"email_processed"}` + "\n")
	file := filepath.Join(t.TempDir(), "events.ndjson")
	if err := os.WriteFile(file, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := program(t, nil, "run", "aggregator", "--database-url", database, "--nats-url", server.URL(), "--ops-addr", "127.0.0.1:0")
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for range 2 {
		got := odometerDoes(t, "publish", "--nats-url", server.URL(), "--file", file)
		if got.code != cli.ExitFound || !strings.Contains(got.out, "line 2501: invalid_field") {
			t.Fatalf("exit %d: %s%s", got.code, got.out, got.err)
		}
	}
	pool := openPool(t, database)
	waitFor(t, "counted", func() bool { return counted(t, pool, tenant) >= 2500 })
	waitFor(t, "read to the end", func() bool {
		var n int64
		_ = pool.QueryRow(t.Context(), `select coalesce(min(seq), 0) from stream_positions`).Scan(&n)
		return n >= 2500
	})
	if got := counted(t, pool, tenant); got != 2500 {
		t.Errorf("counted %d, want 2500", got)
	}
}

func TestReadmePrintsSampleCatalogue(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(readme), strings.TrimSpace(billing.SampleYAML)) {
		t.Error("the README does not print the sample catalogue as it ships")
	}
}

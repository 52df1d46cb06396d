package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"odometer/aggregator"
	"odometer/cmd/internal/app"
	"odometer/cmd/internal/cli"
	"odometer/ingest"
	"odometer/ingest/natstest"
	"odometer/migrations/pgtest"
)

// audits runs audit or reconcile with the flags as the command line would.
func audits(t *testing.T, args ...string) answer {
	t.Helper()
	var parsed struct {
		Audit     auditCmd     `cmd:""`
		Reconcile reconcileCmd `cmd:""`
	}
	parser, err := kong.New(&parsed)
	if err != nil {
		t.Fatal(err)
	}
	command, err := parser.Parse(args)
	if err != nil {
		return answer{code: cli.ExitUsage, err: err.Error()}
	}
	var out, said bytes.Buffer
	command.BindTo(t.Context(), (*context.Context)(nil))
	err = command.Run(cli.NewTerminal(&out, &said, "text", "warn"))
	if err != nil && !errors.Is(err, cli.ErrFindings) {
		fmt.Fprintf(&said, "odometer: %s\n", cli.OneLine(err))
	}
	code := cli.ExitDone
	if err != nil {
		code = cli.ExitCode(err)
	}
	return answer{code, out.String(), said.String()}
}

// audited is a billingEnv whose overage comes from events that the stream holds.
func audited(t *testing.T) *billingEnv {
	t.Helper()
	w := newBillingEnv(t)
	w.exec(`delete from usage_counters`)
	nc, err := (&cli.NATSSettings{NATSURL: w.flags[3]}).Connect("test", false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if _, err := ingest.EnsureStream(t.Context(), cli.JetStream(nc), ingest.StreamConfig{}); err != nil {
		t.Fatal(err)
	}
	must(t, "publish", "--nats-url", w.flags[3], "--tenant", w.tenant, "--agent", "inbox", "--action", "email_processed", "--quantity", "520", "--key", "one")
	pool := openPool(t, w.database)
	ctx, cancel := context.WithCancel(t.Context())
	a, err := aggregator.New(aggregator.Options{Pool: pool, NATS: nc, Log: cli.NewTerminal(t.Output(), t.Output(), "text", "warn").Log, Metrics: aggregator.NewMetrics(app.NewRegistry(), false)})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	waitFor(t, "counted", func() bool {
		var n int64
		_ = pool.QueryRow(t.Context(), `select coalesce(sum(count), 0)::bigint from usage_counters`).Scan(&n)
		return n == 520
	})
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return w
}

func TestAuditExitsByWhatItFinds(t *testing.T) {
	t.Parallel()
	w := audited(t)
	with := func(args ...string) []string { return append(args, w.flags...) }
	w.expect(audits(t, with("audit")...), cli.ExitDone, "no difference", "unsettled: overage that is not reported yet")
	w.expect(w.does("report"), cli.ExitDone, "reported 1 entries (20 units)")
	w.expect(audits(t, with("audit")...), cli.ExitDone, "no difference")
	w.exec(`update usage_counters set count = count + 1`)
	w.expect(audits(t, with("audit", "--tenant", w.tenant)...), cli.ExitFound, "counter_differs", w.tenant, "520, the sum", "found 521", "odometer reconcile --tenant "+w.tenant)
	w.expect(audits(t, with("reconcile")...), cli.ExitDone, "repaired 1 counters, left 0")
	w.expect(audits(t, with("audit")...), cli.ExitDone, "no difference")
	w.exec(`update usage_counters set count = count * 2`)
	w.expect(audits(t, with("reconcile")...), cli.ExitFound, "--force", "left 1")
	w.expect(audits(t, with("reconcile", "--force")...), cli.ExitDone, "repaired 1")
	w.exec(`delete from usage_events`)
	w.expect(audits(t, with("audit")...), cli.ExitFound, "event_missing", "odometer replay --tenant ")
	w.expect(audits(t, with("reconcile", "--force")...), cli.ExitFound, "odometer replay", "repaired 0")
}

func TestAuditPrintsJSON(t *testing.T) {
	t.Parallel()
	w := audited(t)
	w.exec(`update usage_counters set count = count + 1`)
	for _, command := range []string{"audit", "reconcile"} {
		got := audits(t, append([]string{command, "--json"}, w.flags...)...)
		var said map[string]any
		if err := json.Unmarshal([]byte(got.out), &said); err != nil {
			t.Errorf("%s: %v:\n%s", command, err, got.out)
		}
	}
}

func TestAuditExitCodes(t *testing.T) {
	t.Parallel()
	database := pgtest.URL(t)
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"audit", "--nats-url", "nats://127.0.0.1:1"}, cli.ExitUsage, "--database-url"},
		{[]string{"audit", "--database-url", database}, cli.ExitUsage, "--nats-url"},
		{[]string{"audit", "--database-url", database, "--nats-url", "nats://127.0.0.1:1"}, cli.ExitUnreachable, "check --nats-url"},
		{[]string{"reconcile", "--database-url", "postgres://127.0.0.1:1/none?connect_timeout=1", "--nats-url", "nats://127.0.0.1:1"}, cli.ExitUnreachable, "check --database-url"},
		{[]string{"audit", "--since", "yesterday"}, cli.ExitUsage, "yesterday"},
		{[]string{"audit", "--tenant", "ACME"}, cli.ExitUsage, "lower-case"},
	} {
		got := audits(t, c.args...)
		if got.code != c.code || !strings.Contains(got.err, c.says) {
			t.Errorf("%q: exit %d, want %d: %s", c.args, got.code, c.code, got.err)
		}
	}
	got := audits(t, "audit", "--database-url", database, "--nats-url", natstest.Run(t).URL())
	if got.code != cli.ExitDone || !strings.Contains(got.out, "never read") {
		t.Errorf("before anything ran: exit %d: %s%s", got.code, got.out, got.err)
	}
}

// Damage to a ledger that the real reporter wrote, beside a Stripe that keeps
// what was reported.
func TestDamageToTheLedgerIsFound(t *testing.T) {
	t.Parallel()
	w := audited(t)
	flags := w.flags
	w.expect(w.does("report"), cli.ExitDone, "(20 units)")
	w.exec(`update usage_counters set count = 530`)
	w.expect(w.does("report"), cli.ExitDone, "(10 units)")
	w.exec(`update usage_counters set count = 540`)
	w.expect(w.does("report"), cli.ExitDone, "(10 units)")
	w.exec(`update usage_counters set count = 520`) // the rest is for the next pass to take back
	w.expect(audits(t, append([]string{"audit"}, flags...)...), cli.ExitDone, "no difference", "the next pass takes it back")
	w.exec(`create table saved as table overage_reports`)
	for _, c := range []struct{ name, sql, says string }{
		{"the first row deleted", `delete from overage_reports where revision = 1`, "ledger_chain_broken"},
		{"the last row deleted", `delete from overage_reports where revision = 3`, "ledger_differs"},
		{"a row doubled", `insert into overage_reports select (jsonb_populate_record(r, '{"revision": 4, "identifier": "odo_again"}')).* from overage_reports r where revision = 3`, "ledger_link_changed"},
		{"a row changed", `update overage_reports set to_total = to_total + 1 where revision = 3`, "ledger_link_changed"},
		{"a customer changed", `update overage_reports set stripe_customer = 'cus_x' where revision = 2`, "ledger_chain_broken"},
		{"Stripe has more", `update overage_reports set decided_at = decided_at - interval '2 hours'; delete from overage_reports where revision = 3`, "stripe_total_differs"},
		{"Stripe has less", `update overage_reports set decided_at = decided_at - interval '2 hours', to_total = to_total + (revision = 3)::integer`, "found 40 in Stripe's summary"},
		{"an old copy restored", `update ledger set generation = generation - 1`, "an older copy of the database"},
	} {
		w.exec(c.sql)
		got := audits(t, append([]string{"audit"}, flags...)...)
		if got.code != cli.ExitFound || !strings.Contains(got.out, c.says) {
			t.Errorf("%s: exit %d, nothing says %q:\n%s%s", c.name, got.code, c.says, got.out, got.err)
		}
		w.exec(`truncate overage_reports`)
		w.exec(`insert into overage_reports table saved`)
	}
	w.exec(`update ledger set generation = generation + 1`)
	w.expect(audits(t, append([]string{"audit"}, flags...)...), cli.ExitDone, "no difference")
}

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"odometer/billing"
	"odometer/cmd/internal/cli"
	"odometer/ingest"
	"odometer/ingest/natstest"
	"odometer/migrations/pgtest"
	"odometer/reporter/stripetest"
)

// operatorEnv is a database and a stream with an aggregator, as an operator has them.
type operatorEnv struct {
	t                *testing.T
	database, server string
	tenant           string
	stop             func()
}

func newOperatorEnv(t *testing.T) *operatorEnv {
	t.Helper()
	o := &operatorEnv{t: t, database: pgtest.URL(t), server: natstest.Run(t).URL()}
	must(t, "catalogue", "apply", "--database-url", o.database)
	o.tenant = subscribeMany(t, o.database, 1)[0].String()
	o.aggregate()
	return o
}

// aggregate starts an aggregator until stop is called.
func (o *operatorEnv) aggregate() {
	o.t.Helper()
	cmd := program(o.t, nil, "run", "aggregator", "--database-url", o.database, "--nats-url", o.server, "--ops-addr", "127.0.0.1:0", "--log-level", "warn")
	cmd.Stderr = o.t.Output()
	if err := cmd.Start(); err != nil {
		o.t.Fatal(err)
	}
	stopped := false
	o.stop = func() {
		if !stopped {
			stopped = true
			_ = cmd.Process.Signal(syscall.SIGTERM)
			_ = cmd.Wait()
		}
	}
	o.t.Cleanup(o.stop)
}

// does runs a command on the operatorEnv's database and stream.
func (o *operatorEnv) does(args ...string) answer {
	o.t.Helper()
	args = append(args, "--database-url", o.database)
	if args[0] == "replay" || args[0] == "adjust" {
		args = append(args, "--nats-url", o.server)
	}
	return odometerDoes(o.t, args...)
}

func (o *operatorEnv) expect(code int, says []string, args ...string) answer {
	o.t.Helper()
	got := o.does(args...)
	if got.code != code {
		o.t.Errorf("odometer %s: exit %d, want %d:\n%s%s", strings.Join(args, " "), got.code, code, got.out, got.err)
	}
	for _, words := range says {
		if !strings.Contains(got.out+got.err, words) {
			o.t.Errorf("odometer %s: nothing says %q:\n%s%s", strings.Join(args, " "), words, got.out, got.err)
		}
	}
	if strings.Count(strings.TrimSpace(got.err), "\n") > 0 {
		o.t.Errorf("odometer %s: more than one line on stderr:\n%s", strings.Join(args, " "), got.err)
	}
	return got
}

func (o *operatorEnv) publish(action, key string, quantity int) {
	o.t.Helper()
	must(o.t, "publish", "--nats-url", o.server, "--tenant", o.tenant, "--agent", "inbox", "--action", action,
		"--key", key, "--quantity", fmt.Sprint(quantity))
}

// shortenDuplicateWindow lets the stream forget message IDs soon.
func (o *operatorEnv) shortenDuplicateWindow() jetstream.Stream {
	o.t.Helper()
	nc, err := nats.Connect(o.server)
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(nc.Close)
	js := cli.JetStream(nc)
	stream, err := js.Stream(o.t.Context(), ingest.StreamName)
	if err != nil {
		o.t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	config.Duplicates = 100 * time.Millisecond
	if stream, err = js.UpdateStream(o.t.Context(), config); err != nil {
		o.t.Fatal(err)
	}
	return stream
}

func lastSeq(t *testing.T, stream jetstream.Stream) uint64 {
	t.Helper()
	info, err := stream.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return info.State.LastSeq
}

// read waits until the aggregator has read the first n messages.
func (o *operatorEnv) read(n int64) {
	o.t.Helper()
	pool := openPool(o.t, o.database)
	waitFor(o.t, fmt.Sprintf("%d messages are read", n), func() bool {
		var least int64
		_ = pool.QueryRow(o.t.Context(), `select coalesce(min(seq), 0) from stream_positions`).Scan(&least)
		return least >= n
	})
}

func (o *operatorEnv) exec(sql string) {
	o.t.Helper()
	if _, err := openPool(o.t, o.database).Exec(o.t.Context(), sql); err != nil {
		o.t.Fatal(err)
	}
}

const emptyCountsSQL = `
delete from usage_events;
delete from usage_counters;
delete from dead_letters where state = 'open'`

func TestAdjustBelowZeroIsRefusedWithTheBalance(t *testing.T) {
	t.Parallel()
	o := newOperatorEnv(t)
	o.publish("email_processed", "use", 3)
	adjust := func(more ...string) []string {
		return append([]string{"adjust", "--tenant", o.tenant, "--agent", "inbox", "--reason", "a test's \"traffic\""}, more...)
	}
	o.expect(cli.ExitFound, []string{"negative_balance", "quantity -5 would bring the balance of 3"}, adjust("--quantity", "-5")...)
	o.expect(cli.ExitDone, []string{"was 3, is 1"}, adjust("--quantity", "-2", "--key", "k")...)
	o.expect(cli.ExitDone, []string{"counted before", "is 1 in"}, adjust("--quantity", "-2", "--key", "k")...)
	stream := o.shortenDuplicateWindow()
	before := lastSeq(t, stream)
	waitFor(t, "the stream has forgotten the message's ID and stores a repeat", func() bool {
		o.expect(cli.ExitDone, []string{"counted before", "is 1 in"}, adjust("--quantity", "-2", "--key", "k")...)
		return lastSeq(t, stream) > before
	})
	o.expect(cli.ExitFound, []string{"idempotency_conflict", "quantity -2 there, -1 here"}, adjust("--quantity", "-1", "--key", "k")...)
	o.expect(cli.ExitDone, []string{`"before": 1`, `"after": 6`, `"state": "counted"`}, adjust("--quantity", "+5", "--json")...)
	o.expect(cli.ExitFound, []string{"no_billing_period"}, adjust("--quantity", "1", "--occurred-at", time.Now().AddDate(0, 0, -60).Format(time.RFC3339))...)
	for _, c := range [][]string{{"--quantity", "0"}, {"--quantity", "1.5"}, {"--quantity", "1", "--reason", " "}, {"--quantity", "1", "--agent", "Inbox"}} {
		o.expect(cli.ExitUsage, nil, adjust(c...)...)
	}
	var reason string
	if err := openPool(t, o.database).QueryRow(t.Context(), `select metadata ->> 'reason' from usage_events where kind = 'adjustment' and quantity = -2`).Scan(&reason); err != nil || reason != "a test's \"traffic\"" {
		t.Errorf("the history says %q, %v", reason, err)
	}
	o.stop()
	got := o.expect(cli.ExitUnreachable, []string{"is stored at sequence", "odometer run aggregator", "--key late"}, adjust("--quantity", "1", "--key", "late", "--wait", "200ms")...)
	if got.out != "" {
		t.Errorf("it says %q on stdout", got.out)
	}
	o.aggregate()
	o.expect(cli.ExitDone, []string{"is 7 in"}, adjust("--quantity", "1", "--key", "late")...)
}

func TestDeadLettersAreShownRetriedAndDiscarded(t *testing.T) {
	t.Parallel()
	o := newOperatorEnv(t)
	o.expect(cli.ExitDone, []string{"no dead letters"}, "deadletters", "list")
	o.publish("email_processed", "good", 3)
	o.publish("email_replied", "a", 1)
	o.publish("email_replied", "b", 1)
	o.read(3)
	o.expect(cli.ExitDone, []string{"unknown_action", o.tenant, "1-2", "1-3", "total"}, "deadletters", "list")
	var list struct {
		Total  int
		Groups []struct {
			Reason string
			Count  int
		}
		Letters []struct{ ID, Field, Value, State string }
	}
	if err := json.Unmarshal([]byte(o.does("deadletters", "list", "--json").out), &list); err != nil {
		t.Fatal(err)
	}
	if list.Total != 2 || len(list.Groups) != 1 || list.Groups[0].Count != 2 || len(list.Letters) != 2 || list.Letters[0].ID != "1-3" {
		t.Errorf("list: %+v", list)
	}
	o.expect(cli.ExitDone, []string{`action_type: "email_replied"`, "usage." + o.tenant, `"idempotency_key": "a"`, "unknown_action"}, "deadletters", "show", "1-2")
	o.expect(cli.ExitFound, []string{"1-2 still dead: unknown_action", "2 still open"}, "deadletters", "retry", "--tenant", o.tenant)
	o.expect(cli.ExitDone, []string{"1-3 discarded"}, "deadletters", "discard", "1-3", "--why", "a test")
	o.expect(cli.ExitDone, []string{"1-3 discarded before"}, "deadletters", "retry", "1-3")
	o.expect(cli.ExitDone, []string{"a test"}, "deadletters", "show", "1-3")
	o.expect(cli.ExitUsage, []string{"1-99", "deadletters list"}, "deadletters", "retry", "1-99")
	file := filepath.Join(t.TempDir(), "c.yaml")
	catalogue := strings.Replace(billing.SampleYAML, "email_processed", "email_processed, email_replied", 1)
	if err := os.WriteFile(file, []byte(catalogue), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, "catalogue", "apply", "-f", file, "--database-url", o.database)
	o.expect(cli.ExitDone, []string{"1 retried"}, "deadletters", "retry", "--reason", "unknown_action")
	o.expect(cli.ExitDone, []string{"1-2 retried before"}, "deadletters", "retry", "1-2")
	o.expect(cli.ExitDone, []string{"retried", "discarded"}, "deadletters", "list", "--state", "all")
	if out := must(t, "usage", "--tenant", o.tenant, "--json", "--database-url", o.database); !strings.Contains(out, `"count": 4`) {
		t.Errorf("usage: %s", out)
	}
}

func TestDiscardNeedsAReason(t *testing.T) {
	t.Parallel()
	for _, c := range [][]string{
		{"deadletters", "discard", "1-1"},
		{"deadletters", "discard", "1-1", "--why", " "},
		{"deadletters", "discard", "--why", "because"},
		{"deadletters", "discard", "one", "--why", "because"},
		{"deadletters", "retry"},
		{"deadletters", "retry", "--reason", "bad_luck"},
	} {
		if got := odometerDoes(t, append(c, "--database-url", "postgres://127.0.0.1:1/none")...); got.code != cli.ExitUsage || strings.Count(got.err, "\n") != 1 {
			t.Errorf("odometer %s: exit %d: %s", strings.Join(c, " "), got.code, got.err)
		}
	}
}

// Emptied tables are rebuilt, and Stripe gets nothing twice.
func TestReplayRebuildsAndReportsNothingTwice(t *testing.T) {
	t.Parallel()
	w := newBillingEnv(t)
	w.exec(`delete from usage_counters`)
	o := &operatorEnv{t: t, database: w.database, tenant: w.tenant, server: w.flags[3]}
	o.aggregate()
	o.publish("email_processed", "one", 515)
	o.publish("email_processed", "two", 10)
	o.publish("email_replied", "dead", 1)
	w.expect(w.does("report"), cli.ExitDone, "(")
	o.read(3)
	w.expect(w.does("report"), cli.ExitDone)
	meter := billing.SampleCatalogue().Agents[0].Meter
	reported := func() int64 { return stripeTotal(w.stripe, meter) }
	if n := reported(); n != 25 {
		t.Fatalf("Stripe has %d, want 25", n)
	}
	o.exec(emptyCountsSQL)
	o.expect(cli.ExitFound, []string{"2 to be applied", "1 would become dead letters"}, "replay", "--dry-run")
	o.expect(cli.ExitFound, []string{"2 applied", "1 new dead letters", "unknown_action"}, "replay")
	w.expect(w.does("report"), cli.ExitDone, "reported 0 entries")
	if n := reported(); n != 25 {
		t.Errorf("Stripe has %d, want 25", n)
	}
	o.expect(cli.ExitDone, []string{"3 already there (2 events, 0 duplicates, 1 dead letters), 0 applied, 0 new dead letters"}, "replay")
	o.expect(cli.ExitDone, []string{"read 1 messages"}, "replay", "--from-seq", "3")
	o.expect(cli.ExitDone, []string{"read 0 messages"}, "replay", "--since", time.Now().Add(time.Hour).Format(time.RFC3339))
	o.expect(cli.ExitDone, []string{"read 0 messages"}, "replay", "--tenant", uuid.NewString())
	o.expect(cli.ExitDone, []string{`"read": 3`, `"already_there": 3`}, "replay", "--tenant", o.tenant, "--json")
	o.expect(cli.ExitUsage, nil, "replay", "--from-seq", "3", "--since", time.Now().Format(time.RFC3339))
}

func stripeTotal(s *stripetest.Server, meter string) int64 {
	return s.Total("cus_till", meter, time.Unix(0, 0), time.Now().AddDate(1, 0, 0))
}

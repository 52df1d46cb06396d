package main

import (
	"context"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"odometer/billing"
	"odometer/cmd/internal/cli"
	"odometer/ingest/natstest"
	"odometer/migrations/pgtest"
	"odometer/reporter/stripetest"
)

// billingEnv is a database with one tenant over its limit, a NATS server and a
// Stripe that knows the tenant.
type billingEnv struct {
	t        *testing.T
	database string
	stripe   *stripetest.Server
	tenant   string
	flags    []string
}

const billingKey = "sk_test_till"

func newBillingEnv(t *testing.T) *billingEnv {
	t.Helper()
	w := &billingEnv{t: t, database: pgtest.URL(t), stripe: stripetest.New(stripetest.Options{Key: billingKey})}
	server := httptest.NewServer(w.stripe)
	t.Cleanup(func() { w.stripe.Release(); server.Close() })
	for _, a := range billing.SampleCatalogue().Agents {
		w.stripe.CreateMeter(a.Meter)
	}
	must(t, "catalogue", "apply", "--database-url", w.database)
	w.tenant = subscribeMany(t, w.database, 1)[0].String()
	w.stripe.CreateCustomer("cus_till", nil)
	w.exec(`update subscriptions set stripe_customer = 'cus_till'`)
	w.flags = []string{"--database-url", w.database, "--nats-url", natstest.Run(t).URL(), "--stripe-api-key", billingKey, "--stripe-api-base", server.URL}
	w.use(520)
	return w
}

func (w *billingEnv) exec(sql string, args ...any) {
	w.t.Helper()
	conn, err := pgx.Connect(context.Background(), w.database)
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(context.Background(), sql, args...); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
}

// use makes the tenant's running period count so many mails.
func (w *billingEnv) use(count int64) {
	w.t.Helper()
	w.exec(`
insert into usage_counters (tenant_id, agent, period_start, period_end, count)
select tenant_id, 'inbox', period_start, period_end, $1
from billing_periods
where period_start <= now() and period_end > now()
on conflict (tenant_id, agent, period_start) do update set count = excluded.count`, count)
}

func (w *billingEnv) does(args ...string) answer {
	return odometerDoes(w.t, append(args, w.flags...)...)
}

func (w *billingEnv) expect(got answer, code int, says ...string) {
	w.t.Helper()
	for _, words := range says {
		if !strings.Contains(got.out+got.err, words) {
			w.t.Errorf("nothing says %q:\n%s%s", words, got.out, got.err)
		}
	}
	if got.code != code {
		w.t.Errorf("exit %d, want %d:\n%s%s", got.code, code, got.out, got.err)
	}
}

func TestReportSendsOverageOnceAndPrintsIt(t *testing.T) {
	t.Parallel()
	w := newBillingEnv(t)
	w.expect(w.does("report", "--dry-run"), cli.ExitDone, w.tenant, "520", "500", "to report", "$0.40")
	w.expect(w.does("report"), cli.ExitDone, w.tenant, "cus_till", "reported 1 entries (20 units), left 0")
	w.expect(w.does("report"), cli.ExitDone, "reported 0 entries")
	w.use(530)
	w.expect(w.does("jobs", "run", "report"), cli.ExitDone, "reported 1 entries (10 units)")
	w.expect(w.does("report", "--dry-run", "--json"), cli.ExitDone, `"told": 30`, `"to_tell": 0`)
	w.expect(w.does("jobs", "run", "verify"), cli.ExitDone, "equal 1, different 0")
}

func TestReportPrintsWhatIsLeftAndWhy(t *testing.T) {
	t.Parallel()
	w := newBillingEnv(t)
	w.stripe.DeleteCustomer("cus_till")
	w.expect(w.does("report"), cli.ExitFound, w.tenant, "cus_till", "parked", "No such customer")
	w.exec(`update subscriptions set stripe_customer = null`)
	w.expect(w.does("report"), cli.ExitFound, w.tenant, "--stripe-customer")
	w.stripe.CreateCustomer("cus_new", nil)
	w.exec(`update subscriptions set stripe_customer = 'cus_new'`)
	w.expect(w.does("report"), cli.ExitDone, "reported 1 entries (20 units)")
}

func TestReportExitCodes(t *testing.T) {
	t.Parallel()
	w := newBillingEnv(t)
	refused := append([]string{"report"}, w.flags...)
	refused[6] = "sk_test_other"
	w.expect(odometerDoes(t, refused...), cli.ExitUsage, "--stripe-api-key")
	silent := append([]string{"report"}, w.flags...)
	silent[8] = "http://127.0.0.1:1"
	w.expect(odometerDoes(t, silent...), cli.ExitUnreachable, "does not answer")
	w.expect(w.does("report"), cli.ExitDone, "reported 1 entries")
	w.expect(odometerDoes(t, silent...), cli.ExitDone, "reported 0 entries") // nobody needs to be asked
	w.expect(w.does("report", "--stripe-sink", "usage_records"), cli.ExitUsage, "meter_events")
	w.expect(odometerDoes(t, "report", "--database-url", w.database), cli.ExitDone, w.tenant)
	w.expect(odometerDoes(t, "report", "--database-url", w.database, "--stripe-sink", "meter_events"), cli.ExitUsage, "ODOMETER_STRIPE_API_KEY")
	w.expect(odometerDoes(t, "report", "--database-url", w.database, "--stripe-api-key", "k"), cli.ExitUsage, "ODOMETER_NATS_URL")
}

func TestRestoredBackupStopsTheReporterUntilItIsCompared(t *testing.T) {
	t.Parallel()
	w := newBillingEnv(t)
	w.expect(w.does("report"), cli.ExitDone, "reported 1 entries")
	w.exec(`create table backup_ledger as select * from ledger`)
	w.exec(`create table backup_reports as select * from overage_reports`)
	w.use(600)
	w.expect(w.does("report"), cli.ExitDone, "(80 units)")
	w.exec(`delete from overage_reports`)
	w.exec(`insert into overage_reports select * from backup_reports`)
	w.exec(`update ledger set generation = (select generation from backup_ledger)`)
	w.use(610)
	w.expect(w.does("report"), cli.ExitFound, "odometer jobs run verify")
	w.expect(w.does("jobs", "run", "verify"), cli.ExitDone, "may go on")
	w.expect(w.does("report"), cli.ExitDone, "reported 1 entries (10 units)")
}

// The tables are emptied and rebuilt from the stream: the counters are the same,
// and Stripe hears of nothing twice.
func TestRebuiltCountersReportNothingTwice(t *testing.T) {
	t.Parallel()
	w := newBillingEnv(t)
	w.exec(`delete from usage_counters`)
	pool := openPool(t, w.database)
	aggregating := program(t, nil, "run", "aggregator", "--database-url", w.database, "--nats-url", w.flags[3], "--ops-addr", "127.0.0.1:0")
	if err := aggregating.Start(); err != nil {
		t.Fatal(err)
	}
	counted := func() (n int64) {
		_ = pool.QueryRow(t.Context(), `select coalesce(sum(count), 0) from usage_counters`).Scan(&n)
		return n
	}
	waitFor(t, "the stream is made", func() bool {
		var n int
		_ = pool.QueryRow(t.Context(), `select count(*) from stream_positions`).Scan(&n)
		return n > 0
	})
	for _, key := range []string{"a", "b", "b", "c"} {
		must(t, "publish", "--nats-url", w.flags[3], "--tenant", w.tenant, "--agent", "inbox", "--action", "email_processed", "--quantity", "200", "--key", key)
	}
	waitFor(t, "three events are counted", func() bool { return counted() == 600 })
	w.expect(w.does("report"), cli.ExitDone, "(100 units)")
	for _, table := range []string{"usage_events", "usage_counters"} {
		w.exec(`truncate ` + table)
	}
	must(t, "replay", "--database-url", w.database, "--nats-url", w.flags[3])
	if n := counted(); n != 600 {
		t.Errorf("rebuilt to %d units, want 600", n)
	}
	w.expect(w.does("report"), cli.ExitDone, "reported 0 entries")
	w.expect(w.does("audit"), cli.ExitDone, "no difference")
	if err := aggregating.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := aggregating.Wait(); err != nil {
		t.Error(err)
	}
}

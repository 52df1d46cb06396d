package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jedib0t/go-pretty/v6/table"

	"odometer"
	"odometer/audit"
	"odometer/billing"
	"odometer/cmd/internal/app"
	"odometer/cmd/internal/cli"
	"odometer/ingest/publisher"
)

// damage is something that a failed disk or an attacker could do.
type damage struct {
	what string
	sql  string // inflicts it
	kind string // what the audit calls it
}

// drill damages the data on purpose, and shows that the audit finds and names
// each damage and that the commands it names repair it. The finding is nil
// when all of that came true.
func (d *demo) drill(ctx context.Context) (finding, err error) {
	fmt.Fprint(d.terminal.Out, "\nThe drill: the data is damaged on purpose, audited, and repaired by the commands that the audit names.\n\n")
	if err := d.pauseLedgerJobs(ctx); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.resumeLedgerJobs(ctx)) }()
	var rows []table.Row
	for _, damage := range damages {
		row, repaired, err := d.drillOne(ctx, damage)
		if err != nil {
			return nil, fmt.Errorf("drill, %s: %w", damage.what, err)
		}
		if !repaired {
			finding = cli.ErrFindings
		}
		rows = append(rows, row)
	}
	row, repaired, err := d.loseTail(ctx)
	if err != nil {
		return nil, fmt.Errorf("drill, a lost tail: %w", err)
	}
	if !repaired {
		finding = cli.ErrFindings
	}
	d.terminal.Table(table.Row{"damage", "found as", "repaired by", "afterwards"}, append(rows, row))
	return finding, nil
}

// ledgerJobs are the jobs that write to the ledger. Here they run each second:
// the one would report from damaged data, the other repair it before the audit
// has run.
var ledgerJobs = []string{"report", "verify"}

// pauseLedgerJobs pauses them. A run by hand waits for the one that is under way.
func (d *demo) pauseLedgerJobs(ctx context.Context) error {
	for _, job := range ledgerJobs {
		if _, err := d.command(ctx, "jobs", "pause", job); err != nil {
			return err
		}
		if _, err := d.command(ctx, "jobs", "run", job); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) resumeLedgerJobs(ctx context.Context) (err error) {
	for _, job := range ledgerJobs {
		_, resumed := d.command(ctx, "jobs", "resume", job)
		err = errors.Join(err, resumed)
	}
	return err
}

var damages = []damage{
	{"three events deleted", deleteEventsSQL, audit.EventMissing},
	{"a counter raised by 1", raiseCounterSQL, audit.CounterDiffers},
	{"a counter deleted", deleteCounterSQL, audit.CounterMissing},
	{"the last row of a chain dropped from the ledger", fmt.Sprintf(dropEntrySQL, "desc"), audit.LedgerDiffers},
	{"the first row of one", fmt.Sprintf(dropEntrySQL, "asc"), audit.LedgerChainBroken},
}

// drillOne does one damage and has it repaired.
func (d *demo) drillOne(ctx context.Context, what damage) (row table.Row, repaired bool, err error) {
	if err := d.expectClean(ctx); err != nil {
		return nil, false, err
	}
	if err := d.damage(ctx, what.sql); err != nil {
		return nil, false, err
	}
	report, err := d.audit(ctx)
	if err != nil {
		return nil, false, err
	}
	names := kindsIn(report)
	named := slices.Contains(names, what.kind)
	var done []string
	for range 3 {
		commands := repairCommands(report)
		for _, c := range commands {
			if _, err := d.command(ctx, c...); err != nil {
				return nil, false, err
			}
			done = append(done, "odometer "+shortened(c))
		}
		if report, err = d.audit(ctx); err != nil {
			return nil, false, err
		}
		if len(commands) == 0 || report.Different == 0 {
			break
		}
	}
	verdict := "equal"
	if report.Different > 0 {
		verdict = fmt.Sprintf("DIFFERENT: %d", report.Different)
	}
	if !named {
		verdict += ", NOT NAMED RIGHT"
	}
	row = table.Row{what.what, strings.Join(names, "\n"), strings.Join(slices.Compact(done), "\n"), verdict}
	return row, named && report.Different == 0, nil
}

func kindsIn(r *audit.Report) []string {
	var kinds []string
	for _, d := range r.Differences {
		if !slices.Contains(kinds, d.Kind) {
			kinds = append(kinds, d.Kind)
		}
	}
	return kinds
}

// repairCommands are the arguments of the commands that repair the differences, each once.
func repairCommands(r *audit.Report) (commands [][]string) {
	for _, d := range r.Differences {
		same := func(args []string) bool { return slices.Equal(args, d.Repair.Args) }
		if d.Repair.Args != nil && !slices.ContainsFunc(commands, same) {
			commands = append(commands, d.Repair.Args)
		}
	}
	return commands
}

// shortened is a command without most of a tenant's id.
func shortened(args []string) string {
	words := slices.Clone(args)
	for i, w := range words {
		if len(w) == 36 && strings.Count(w, "-") == 4 {
			words[i] = w[:4] + "…" + w[32:]
		}
	}
	return strings.Join(words, " ")
}

// expectClean is an error when the audit finds a difference before a damage.
func (d *demo) expectClean(ctx context.Context) error {
	report, err := d.audit(ctx)
	if err == nil && report.Different > 0 {
		err = fmt.Errorf("the audit finds a difference before it: %+v", report.Differences)
	}
	return err
}

// audit runs the command as an operator would, and reads what it found.
func (d *demo) audit(ctx context.Context) (*audit.Report, error) {
	out, err := d.command(ctx, "audit", "--json")
	if err != nil {
		return nil, err
	}
	report := &audit.Report{}
	if err := json.Unmarshal([]byte(out), report); err != nil {
		return nil, fmt.Errorf("read what the audit found: %w", err)
	}
	return report, nil
}

// command runs a command of this program on the demo's database and stream. That it found
// something is no error.
func (d *demo) command(ctx context.Context, args ...string) (out string, err error) {
	flags := []string{"--database-url", d.postgres.URL()}
	if args[0] != "jobs" || args[1] == "run" {
		flags = append(flags, "--nats-url", d.server.ClientURL())
	}
	if args[0] == "audit" || args[0] == "report" || args[0] == "jobs" && args[1] == "run" {
		flags = append(flags, "--stripe-api-key", stripeKey, "--stripe-api-base", d.stripeURL)
	}
	var stdout, stderr bytes.Buffer
	if code := d.options.Command(ctx, append(args, flags...), &stdout, &stderr); code != cli.ExitDone && code != cli.ExitFound {
		return "", fmt.Errorf("odometer %s: exit %d: %s", strings.Join(args, " "), code, stderr.String())
	}
	return stdout.String(), nil
}

const deleteEventsSQL = `
delete from usage_events
where ctid in (select ctid from usage_events where kind = 'usage' order by tenant_id, event_id limit 3)`

const raiseCounterSQL = `
update usage_counters
set count = count + 1
where ctid = (select ctid from usage_counters order by count desc limit 1)`

const deleteCounterSQL = `
delete from usage_counters
where ctid = (
    select c.ctid
    from usage_counters c
    join billing_periods p using (tenant_id, period_start)
    where p.status = 'open' and c.count > 0
    order by c.tenant_id desc, c.agent
    limit 1
)`

// Of a chain that has others: after the last one, nothing in the rows that
// remain shows it.
const dropEntrySQL = `
delete from overage_reports
where identifier = (
    select r.identifier
    from overage_reports r
    join billing_periods p using (tenant_id, period_start)
    where p.settled_at is null and r.state in ('accepted', 'verified')
      and (
          select count(*) > 1
          from overage_reports o
          where (o.tenant_id, o.agent, o.period_start) = (r.tenant_id, r.agent, r.period_start)
      )
    order by r.revision %s, r.tenant_id
    limit 1
)`

func (d *demo) damage(ctx context.Context, sql string) error {
	tag, err := d.pool.Exec(ctx, sql)
	if err == nil && tag.RowsAffected() == 0 {
		return fmt.Errorf("there was nothing to damage: let the demo run for longer")
	}
	return err
}

// lostMessages is how many events the drill has the stream lose.
const lostMessages = 5

// loseTail puts an older copy of the stream back, as after a disk that did not
// sync. What the stream lost stays counted; who still has it publishes it
// again, and it is evidence again without being counted twice.
func (d *demo) loseTail(ctx context.Context) (row table.Row, repaired bool, err error) {
	copyOf := filepath.Join(d.dir, "nats-before")
	defer os.RemoveAll(copyOf)
	if err := d.restart(ctx, func(store string) error { return os.CopyFS(copyOf, os.DirFS(store)) }); err != nil {
		return nil, false, err
	}
	events := newEvents(&Tenants[0], billing.SampleCatalogue().Agents[0], d.keys, lostMessages)
	if err := d.publish(ctx, events); err != nil {
		return nil, false, err
	}
	before, epoch, err := d.countOf(ctx, Tenants[0].ID)
	if err != nil {
		return nil, false, err
	}
	if err := d.restart(ctx, func(store string) error {
		return errors.Join(os.RemoveAll(store), os.CopyFS(store, os.DirFS(copyOf)))
	}); err != nil {
		return nil, false, err
	}
	if err := d.waitForEpoch(ctx, epoch); err != nil {
		return nil, false, err
	}
	if err := d.publish(ctx, events); err != nil {
		return nil, false, err
	}
	after, _, err := d.countOf(ctx, Tenants[0].ID)
	if err != nil {
		return nil, false, err
	}
	report, err := d.audit(ctx)
	if err != nil {
		return nil, false, err
	}
	found := fmt.Sprintf("epoch %d begun by the reader", epoch+1)
	repaired = report.Different == 0 && after == before
	verdict := "equal"
	if !repaired {
		verdict = fmt.Sprintf("DIFFERENT: %d, counted %d, then %d", report.Different, before, after)
	}
	return table.Row{fmt.Sprintf("the stream's last %d messages lost", lostMessages), found, "publishing them again", verdict}, repaired, nil
}

// restart stops the stream, lets something be done to its files, and starts it
// again at the same address.
func (d *demo) restart(ctx context.Context, meanwhile func(store string) error) error {
	address, ok := d.server.Addr().(*net.TCPAddr)
	if !ok {
		return fmt.Errorf("NATS listens at %v", d.server.Addr())
	}
	d.stopStream()
	store := filepath.Join(d.dir, "nats")
	failed := meanwhile(store)
	server, err := app.StartNATS(store, address.Port)
	if err != nil {
		return errors.Join(failed, err)
	}
	d.server = server
	for !d.nats.IsConnected() {
		if err := odometer.Sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return failed
}

// publish publishes events and waits until they are counted.
func (d *demo) publish(ctx context.Context, events []publisher.Event) error {
	pub, err := publisher.New(d.nats)
	if err != nil {
		return err
	}
	results, err := pub.PublishBatch(ctx, events)
	if err != nil {
		return err
	}
	var last uint64
	for _, r := range results {
		if r.Err != nil {
			return r.Err
		}
		last = max(last, r.Ack.Seq)
	}
	return d.waitUntilRead(ctx, int64(last))
}

const countOfSQL = `
select
    (select coalesce(sum(count), 0)::bigint from usage_counters where tenant_id = $1),
    (select max(epoch) from stream_epochs)`

func (d *demo) countOf(ctx context.Context, tenant uuid.UUID) (count int64, epoch int, err error) {
	if err := d.pool.QueryRow(ctx, countOfSQL, tenant).Scan(&count, &epoch); err != nil {
		return 0, 0, fmt.Errorf("read the counters: %w", err)
	}
	return count, epoch, nil
}

// waitForEpoch waits until the reader has noticed that the stream is another.
func (d *demo) waitForEpoch(ctx context.Context, after int) error {
	return d.waitFor(ctx, func() (bool, string, error) {
		_, epoch, err := d.countOf(ctx, Tenants[0].ID)
		return epoch > after, "the aggregator has not noticed the lost tail", err
	})
}

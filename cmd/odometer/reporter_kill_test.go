package main

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"odometer/cmd/internal/cli"
	"odometer/internal/soak"
)

const killTenants = 60

// The reporter is killed many times, at each step of a ledger entry, while the
// counters move. Stripe has each unit once.
func TestKilledReporterBillsEachUnitOnce(t *testing.T) {
	t.Parallel()
	killWorlds, killsOfEach := 2, soak.Rounds(t, 9, 40)
	var all tally
	t.Run("worlds", func(t *testing.T) {
		for n := range killWorlds {
			t.Run(fmt.Sprint(n), func(t *testing.T) {
				t.Parallel()
				now := time.Now().UTC().Truncate(time.Second)
				w := newBilled(t, killTenants, now.AddDate(0, 0, -5), now.AddDate(0, 0, 20))
				w.killOften(killsOfEach, n%2 == 1, &all)
			})
		}
	})
	for _, what := range slices.Sorted(maps.Keys(all.seen)) {
		t.Logf("%4d %s", all.seen[what], what)
	}
	for _, found := range []string{foundPlanned, foundUnsent, foundSent, foundAccepted} {
		if all.seen[found] == 0 && !t.Failed() {
			t.Errorf("no kill: %s", found)
		}
	}
	if got := all.seen[killed]; got != killWorlds*killsOfEach {
		t.Errorf("%d kills, want %d", got, killWorlds*killsOfEach)
	}
}

// Postgres may be ahead of the mirror by one generation, also when that happens
// to one process after the other.
func TestTwoKillsBeforeTheMirrorAreNoRestoredBackup(t *testing.T) {
	t.Parallel()
	now := time.Now().UTC().Truncate(time.Second)
	w := newBilled(t, 2, now.AddDate(0, 0, -5), now.AddDate(0, 0, 20))
	w.reportToTheEnd()
	for range 2 {
		w.use(t.Context(), len(w.keys), false)
		if !w.killAt(newKillPoint(unmirrored, 1), false) {
			t.Fatal("the pass was not killed")
		}
	}
	w.reportToTheEnd()
	w.expectExact()
}

// What is counted: kills, and what they left behind.
const (
	killed        = "kills"
	foundPlanned  = "found planned links"
	foundUnsent   = "found links being sent that Stripe does not have"
	foundSent     = "found links being sent that Stripe has"
	foundUnknown  = "found links without an answer"
	foundAccepted = "found links just accepted"
)

// tally counts what happened in all worlds.
type tally struct {
	mu   sync.Mutex
	seen map[string]int
}

func (a *tally) add(what string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.seen == nil {
		a.seen = map[string]int{}
	}
	a.seen[what]++
}

// killOften kills n processes, lets the last one finish and checks the totals.
func (w *billed) killOften(n int, corrections bool, all *tally) {
	stop := w.keepUsing(corrections)
	defer stop()
	w.failNowAndThen()
	for done, tries := 0, 0; done < n && tries < 3*n && !w.t.Failed(); tries++ {
		at, nth := moments[done%len(moments)], int64(1)
		if at == unmirrored {
			nth += rand.Int64N(2) // before the first call, after the last
		} else if at != planned {
			nth += rand.Int64N(25)
		}
		w.use(w.t.Context(), 20, corrections)
		before := w.number(acceptedSQL)
		if !w.killAt(newKillPoint(at, nth), rand.IntN(6) == 0) {
			continue // it came to its end first
		}
		done++
		all.add(killed)
		all.add("killed: " + string(at))
		w.expectLaws()
		w.count(all, before)
	}
	stop()
	w.stripe.SetFaults(nil)
	w.reportToTheEnd()
	w.expectExact()
}

// longestLife bounds the life of a process that is killed at random: about
// what a pass takes.
const longestLife = 400 * time.Millisecond

// killAt runs a pass and kills it when the kill point is reached, perhaps while another
// one waits its turn. It reports whether the pass was killed in time.
func (w *billed) killAt(tr *killPoint, inherited bool) bool {
	w.now.Store(tr)
	defer w.now.Store(nil)
	pass := w.begin("report")
	var moment <-chan time.Time
	if tr.at == atRandom {
		moment = time.After(rand.N(longestLife))
	}
	select {
	case <-tr.reached:
	case <-moment:
	case <-pass.ended:
		close(tr.dead)
		pass.expectCode(cli.ExitDone, cli.ExitFound)
		return false
	}
	var heir *process
	if inherited {
		heir = w.begin("report")
	}
	_ = pass.cmd.Process.Kill() // fails where it has just ended
	<-pass.ended
	close(tr.dead)
	if heir != nil {
		<-heir.ended
		heir.expectCode(cli.ExitDone, cli.ExitFound)
	}
	return !pass.cmd.ProcessState.Exited()
}

// process is odometer as a process of its own.
type process struct {
	w     *billed
	cmd   *exec.Cmd
	said  bytes.Buffer
	ended chan struct{}
}

func (w *billed) begin(args ...string) *process {
	w.t.Helper()
	p := &process{w: w, cmd: program(w.t, w.env, args...), ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.said, &p.said
	if err := p.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // says how it ended, as the state does
		close(p.ended)
	}()
	w.t.Cleanup(func() { _ = p.cmd.Process.Kill(); <-p.ended })
	return p
}

// expectCode checks how a process that came to its end has ended, and that it
// had nothing to complain of but Stripe.
func (p *process) expectCode(codes ...int) {
	p.w.t.Helper()
	code := p.cmd.ProcessState.ExitCode()
	if !slices.Contains(codes, code) || strings.Contains(p.said.String(), "odometer: ") {
		p.w.t.Errorf("%s: exit %d, want one of %v:\n%s", strings.Join(p.cmd.Args[1:], " "), code, codes, p.said.String())
	}
}

// reportToTheEnd reports by hand until nothing is left: two passes may find
// calls of the dead still under way at Stripe.
func (w *billed) reportToTheEnd() {
	w.t.Helper()
	for try := 1; ; try++ {
		p := w.begin("report")
		<-p.ended
		if try == 5 {
			p.expectCode(cli.ExitDone)
			return
		}
		p.expectCode(cli.ExitDone, cli.ExitFound)
		if p.cmd.ProcessState.ExitCode() == cli.ExitDone {
			return
		}
	}
}

const acceptedSQL = `select count(*) from overage_reports where state = 'accepted'`

const statesSQL = `
select
    count(*) filter (where state = 'planned'),
    count(*) filter (where state = 'unknown'),
    count(*) filter (where state = 'accepted')
from overage_reports`

const sendingSQL = `
select stripe_customer, meter, from_total, to_total
from overage_reports
where state = 'sending'`

// count looks at what a kill has left: one link may wait for each key, so
// Stripe's total says whether it has come.
func (w *billed) count(all *tally, before int64) {
	w.t.Helper()
	var planned, unknown, taken int64
	if err := w.pool.QueryRow(w.t.Context(), statesSQL).Scan(&planned, &unknown, &taken); err != nil {
		w.t.Fatal(err)
	}
	rows, err := w.pool.Query(w.t.Context(), sendingSQL)
	if err != nil {
		w.t.Fatal(err)
	}
	defer rows.Close()
	sent, unsent := false, false
	for rows.Next() {
		var customer, meter string
		var from, to int64
		if err := rows.Scan(&customer, &meter, &from, &to); err != nil {
			w.t.Fatal(err)
		}
		switch total := w.stripe.Total(customer, meter, time.Unix(0, 0), time.Now().AddDate(1, 0, 0)); total {
		case from:
			unsent = true
		case to:
			sent = true
		default:
			w.t.Errorf("%s: Stripe has %d units on %s, want %d or %d", customer, total, meter, from, to)
		}
	}
	for what, is := range map[string]bool{
		foundPlanned: planned > 0, foundUnknown: unknown > 0, foundAccepted: taken > before, foundSent: sent, foundUnsent: unsent,
	} {
		if is {
			all.add(what)
		}
	}
}

package main

import (
	"math/rand/v2"
	"testing"
	"time"
)

// What River does, an hour later, with a slot whose process has died.
const rescueSQL = `
with rescued as (
    update river_job
    set state = 'available'
    where state = 'running'
      and queue = 'report'
    returning id
)
select count(*)
from rescued`

const undecidedSQL = `
select count(*)
from overage_reports
where state in ('planned', 'sending', 'unknown')`

// The service is killed in the middle of its passes; another one goes on, for
// the locks have died with it. Stripe has each unit once.
func TestSecondServiceTakesOverFromKilledOne(t *testing.T) {
	t.Parallel()
	now := time.Now().UTC().Truncate(time.Second)
	w := newBilled(t, killTenants, now.AddDate(0, -1, 0), now) // it has just ended: a pass is due
	for range 2 {
		tr := newKillPoint(unanswered, 1+rand.Int64N(25))
		w.now.Store(tr)
		service := w.begin("run", "reporter", "--ops-addr", "127.0.0.1:0")
		await(t, tr.reached, "a pass under way")
		_ = service.cmd.Process.Kill() // a call holds it: it is there
		<-service.ended
		w.now.Store(nil)
		close(tr.dead)
		w.expectLaws()
		if w.number(rescueSQL) == 0 {
			t.Error("no slot was under way")
		}
	}
	w.begin("run", "reporter", "--ops-addr", "127.0.0.1:0")
	waitFor(t, "another one has reported the rest", func() bool { return w.number(undecidedSQL) == 0 && w.reported() })
	w.expectLaws()
	w.expectExact()
}

// reported is true when Stripe has all.
func (w *billed) reported() bool {
	for i := range w.keys {
		if k := &w.keys[i]; w.at(k) != k.overage() {
			return false
		}
	}
	return true
}

func await(t *testing.T, what <-chan struct{}, name string) {
	t.Helper()
	select {
	case <-what:
	case <-time.After(15 * time.Second):
		t.Fatalf("waited too long for %s", name)
	}
}

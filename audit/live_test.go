package audit

import (
	"fmt"
	"testing"
	"time"

	"odometer/internal/testenv"
)

func TestNoFalseAlarmWhileEventsAreCounted(t *testing.T) {
	t.Parallel()
	e := newTestEnv(t, 20)
	e.run()
	e.publishMix("first", 200)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
				e.publishMix(fmt.Sprint("live ", i), 50)
			}
		}
	}()
	deadline := time.Now().Add(8 * time.Second)
	runs := 0
	var last *Report
	for ; runs < 100 && time.Now().Before(deadline) || runs < 10; runs++ {
		scope := Scope{}
		if runs%5 == 4 {
			scope.Tenant = &e.tenants[runs%len(e.tenants)]
		}
		last = e.finds(scope)
		if t.Failed() {
			break
		}
	}
	close(stop)
	<-stopped
	t.Logf("%d runs, the last through %d", runs, last.Stream.Through)
	e.WaitUntilRead()
	e.finds(Scope{})
}

// A first start is no alarm: the job of the audit runs before the first event.
func TestStreamThatNeverHeldAMessageIsNoDifference(t *testing.T) {
	t.Parallel()
	e := newTestEnv(t, 1)
	e.run()
	testenv.Eventually(e.t, "read to its end", func() bool {
		return e.Number(`select count(*) from stream_positions where complete_until is not null`) > 0
	})
	e.finds(Scope{})
}

package audit

import (
	"fmt"
	"testing"
	"time"
)

// The audit looks while events are being counted, and raises no false alarm.
func TestNoFalseAlarmWhileEventsAreCounted(t *testing.T) {
	t.Parallel()
	h := newHouse(t, 20)
	h.run()
	h.life("first", 200)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
				h.life(fmt.Sprint("live ", i), 50)
			}
		}
	}()
	deadline := time.Now().Add(8 * time.Second)
	runs := 0
	var last *Report
	for ; runs < 100 && time.Now().Before(deadline) || runs < 10; runs++ {
		scope := Scope{}
		if runs%5 == 4 {
			scope.Tenant = &h.tenants[runs%len(h.tenants)]
		}
		last = h.finds(scope)
		if t.Failed() {
			break
		}
	}
	close(stop)
	<-stopped
	t.Logf("%d runs, the last through %d", runs, last.Stream.Through)
	h.settled()
	h.finds(Scope{})
}

// A first start is no alarm: the job of the audit runs before the first event.
func TestAStreamThatNeverHeldAMessageIsNoDifference(t *testing.T) {
	t.Parallel()
	h := newHouse(t, 1)
	h.run()
	h.eventually("read to its end", func() bool {
		return h.number(`select count(*) from stream_positions where complete_until is not null`) > 0
	})
	h.finds(Scope{})
}

package audit

import (
	"fmt"
	"testing"

	"odometer/internal/soak"
	"odometer/internal/testenv"
)

func TestNoFalseAlarmWhileEventsAreCounted(t *testing.T) {
	t.Parallel()
	e := newTestEnv(t, 20)
	e.run()
	e.publishMix("first", 200)
	for run := range soak.Rounds(t, 10, 30) {
		published := make(chan struct{})
		go func() {
			defer close(published)
			for i := range 3 {
				e.publishMix(fmt.Sprintf("live %d %d", run, i), 50)
			}
		}()
		scope := Scope{}
		if run%5 == 4 {
			scope.Tenant = &e.tenants[run%len(e.tenants)]
		}
		e.finds(scope)
		<-published
		if t.Failed() {
			break
		}
	}
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

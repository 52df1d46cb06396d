package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// What the services hold of events lives only as long as a batch or a request,
// so little head room is enough where much lives, and much of it costs little
// where little lives: then the garbage of a percentage would be collected many
// times a second.
const (
	leastRoom    = 64 << 20 // bytes of garbage before a collection, at least
	roomPercent  = 70       // of what lives; 100 is the usual
	mostPercent  = 1000
	paceInterval = 100 * time.Millisecond
)

// paceCollector keeps the garbage collector at that pace until ctx ends. GOGC
// says otherwise when it is set.
func paceCollector(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	set := 0
	tick := time.NewTicker(paceInterval)
	defer tick.Stop()
	for {
		metrics.Read(live)
		// Setting it stops the world for a moment: not for a trifle.
		if percent := gcPercent(live[0].Value.Uint64()); percent < set*9/10 || percent > set*11/10 {
			debug.SetGCPercent(percent)
			set = percent
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// gcPercent is how much garbage may come to what lives, in percent of it.
func gcPercent(live uint64) int {
	return int(min(max(roomPercent, 100*leastRoom/max(live, 1)), mostPercent))
}

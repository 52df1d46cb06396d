package aggregator

import (
	"context"
	"log/slog"
	"time"
)

// completeUntil is until when the partition is complete once the batch is
// committed: at least until its last message was stored.
func (m mark) completeUntil() time.Time {
	if m.complete.After(m.storedAt) {
		return m.complete
	}
	return m.storedAt
}

// tell brings a committed batch into metrics and log.
func (w *worker) tell(b *batch, t *tally, took time.Duration) {
	m, log := w.a.Metrics, w.a.Log
	now := time.Now()
	m.batchTime.Observe(took.Seconds())
	m.batchSize.Observe(float64(len(b.items)))
	m.duplicates.Add(float64(t.duplicates - t.reread))
	m.counted(t.counted)
	for _, i := range t.counted {
		m.freshness.Observe(now.Sub(i.storedAt).Seconds())
	}
	for _, d := range t.dead {
		m.deadLetters.WithLabelValues(string(d.Reason)).Inc()
	}
	for _, c := range t.crossed {
		log.Warn("a counter has crossed its limit", "tenant", c.tenant, "agent", c.agent, "overage", c.overage)
	}
	if log.Enabled(context.Background(), slog.LevelDebug) {
		w.tellEach(t)
	}
}

func (w *worker) tellEach(t *tally) {
	for _, i := range t.counted {
		e := &i.event
		w.a.Log.Debug("counted", "tenant", e.Tenant, "agent", e.Agent, "action", e.Action, "quantity", e.Quantity, "key", e.Key, "seq", e.Position.Seq)
	}
	for _, d := range t.dead {
		w.a.Log.Debug("dead letter", "reason", d.Reason, "detail", d.Detail, "seq", d.seq)
	}
}

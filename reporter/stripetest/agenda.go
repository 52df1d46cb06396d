package stripetest

import (
	"container/heap"
	"time"
)

// due is something that happens by itself at a time.
type due struct {
	at      time.Time
	number  uint64 // of two at one time the older goes first
	happens func(at time.Time)
}

// agenda is a heap of what will happen, the next on top. Looking at it costs
// nothing while nothing is due, whatever the number of subscriptions.
type agenda struct {
	entries []due
	number  uint64
}

func (a *agenda) Len() int { return len(a.entries) }
func (a *agenda) Less(i, j int) bool {
	x, y := a.entries[i], a.entries[j]
	return x.at.Before(y.at) || x.at.Equal(y.at) && x.number < y.number
}
func (a *agenda) Swap(i, j int) { a.entries[i], a.entries[j] = a.entries[j], a.entries[i] }
func (a *agenda) Push(v any)    { a.entries = append(a.entries, v.(due)) }
func (a *agenda) Pop() any {
	last := len(a.entries) - 1
	v := a.entries[last]
	a.entries[last] = due{}
	a.entries = a.entries[:last]
	return v
}

func (a *agenda) at(t time.Time, happens func(at time.Time)) {
	a.number++
	heap.Push(a, due{t, a.number, happens})
}

// advance lets everything happen that is due, each at its own time: a look that
// comes months later finds what it would have found by looking daily.
func (s *Server) advance(now time.Time) {
	for len(s.agenda.entries) > 0 && !s.agenda.entries[0].at.After(now) {
		next := heap.Pop(&s.agenda).(due)
		next.happens(next.at)
	}
}

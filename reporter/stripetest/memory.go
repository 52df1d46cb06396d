package stripetest

import "time"

// rememberedFor is how long Stripe knows identifiers and Idempotency-Keys. It
// promises at least 24 hours; what must hold after that is tested by forgetting
// at once.
const rememberedFor = 24 * time.Hour

// dayMemory remembers values for 24 hours and then drops them, so that it holds
// no more than a day of traffic.
type dayMemory[V any] struct {
	entries map[string]dated[V]
	order   []arrival // oldest first
}

type dated[V any] struct {
	at    time.Time
	value V
}

type arrival struct {
	key string
	at  time.Time
}

func newDayMemory[V any]() dayMemory[V] {
	return dayMemory[V]{entries: map[string]dated[V]{}}
}

func (m *dayMemory[V]) get(key string, now time.Time) (value V, known bool) {
	m.forget(now)
	e, known := m.entries[key]
	return e.value, known
}

func (m *dayMemory[V]) put(key string, value V, now time.Time) {
	m.entries[key] = dated[V]{now, value}
	m.order = append(m.order, arrival{key, now})
}

func (m *dayMemory[V]) drop(key string) { delete(m.entries, key) }

func (m *dayMemory[V]) forget(now time.Time) {
	for len(m.order) > 0 && now.Sub(m.order[0].at) >= rememberedFor {
		first := m.order[0]
		if e, ok := m.entries[first.key]; ok && e.at.Equal(first.at) {
			delete(m.entries, first.key)
		}
		m.order[0] = arrival{}
		m.order = m.order[1:]
	}
}

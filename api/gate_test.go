package api

import (
	"testing"

	"github.com/google/uuid"
)

func TestOneTenantKeepsNoOtherOut(t *testing.T) {
	t.Parallel()
	g := NewGate(4, 2)
	one, two, three := uuid.New(), uuid.New(), uuid.New()
	enters := func(who uuid.UUID, want bool) {
		t.Helper()
		if got := g.Enter(who); got != want {
			t.Errorf("entered %v, want %v", got, want)
		}
	}
	enters(one, true)
	enters(one, true)
	enters(one, false)
	enters(two, true)
	enters(three, true)
	enters(two, false) // it is full
	g.Leave(one)
	enters(two, true)
	g.Leave(one)
	g.Leave(two)
	g.Leave(two)
	g.Leave(three)
	if g.inside != 0 || len(g.of) != 0 {
		t.Errorf("%d inside, of %v, when all have left", g.inside, g.of)
	}
}

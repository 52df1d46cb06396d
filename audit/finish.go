package audit

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
)

// finish brings lists into an order that does not depend on who was first.
func (r *Report) finish() {
	for _, why := range slices.Sorted(maps.Keys(r.notes)) {
		line := why
		if n := r.notes[why]; n > 0 {
			line = fmt.Sprintf("%s (%d)", why, n)
		}
		r.Notes = append(r.Notes, line)
	}
	place := map[string]int{}
	for i, c := range r.Comparisons {
		place[c.Name] = i
	}
	slices.SortStableFunc(r.Differences, func(a, b Difference) int {
		return cmp.Or(
			cmp.Compare(place[a.Comparison], place[b.Comparison]),
			cmp.Compare(text(a.Tenant), text(b.Tenant)),
			cmp.Compare(a.Agent, b.Agent),
			stamp(a.Period).Compare(stamp(b.Period)),
			cmp.Compare(a.Where, b.Where),
		)
	})
}

func text(id *uuid.UUID) string {
	if id == nil {
		return ""
	}
	return id.String()
}

func stamp(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}

package api

import (
	"encoding/base64"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

type somePlace struct {
	At int64  `json:"a"`
	ID string `json:"i"`
}

func TestACursorIsOfItsListAlone(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		place := somePlace{rapid.Int64().Draw(t, "at"), rapid.StringMatching(`[ -~é]{0,20}`).Draw(t, "id")}
		words := rapid.SliceOfN(rapid.SampledFrom([]string{"", "a", "b", "events"}), 1, 3)
		list, other := words.Draw(t, "list"), words.Draw(t, "other")
		cursor := *WriteCursor(place, list...)
		if got, ok := ReadCursor[somePlace](cursor, list...); !ok || got != place {
			t.Fatalf("%s: %+v, %v; want %+v", cursor, got, ok, place)
		}
		if _, ok := ReadCursor[somePlace](cursor, other...); ok != slices.Equal(list, other) {
			t.Errorf("of %q, read as of %q: %v", list, other, ok)
		}
		raw, _ := base64.RawURLEncoding.DecodeString(cursor)
		raw[rapid.IntRange(0, len(raw)-1).Draw(t, "at byte")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		for _, wrong := range []string{base64.RawURLEncoding.EncodeToString(raw), cursor + "=", cursor[1:], cursor + "AA", "", "rubbish!"} {
			if got, ok := ReadCursor[somePlace](wrong, list...); ok {
				t.Errorf("%q: read %+v", wrong, got)
			}
		}
	})
	if got, ok := ReadCursor[somePlace](*WriteCursor(map[string]int{"a": 1, "x": 2})); ok {
		t.Errorf("of another form: read %+v", got)
	}
}

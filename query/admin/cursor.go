package admin

import (
	"bytes"
	"encoding/base64"
	"encoding/json"

	"odometer/api"
)

// A cursor is the place after the last row of a page, for the client opaque.
// It names a row, not a number of rows: what comes in before it moves nothing.

func writeCursor(place any) *string {
	text, err := json.Marshal(place)
	if err != nil {
		panic(err) // places are plain structs
	}
	cursor := base64.RawURLEncoding.EncodeToString(text)
	return &cursor
}

// readCursor reads what writeCursor wrote; nothing is the beginning.
func readCursor[P any](cursor string) (*P, error) {
	if cursor == "" {
		return nil, nil
	}
	text, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil {
		return nil, badCursor(cursor)
	}
	var place P
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&place); err != nil || decoder.More() {
		return nil, badCursor(cursor)
	}
	return &place, nil
}

func badCursor(cursor string) error {
	return api.Refuse(api.InvalidRequest, "cursor is %q: it must be the next_cursor of a page of this very list. Leave it out to begin at the start.", cursor)
}

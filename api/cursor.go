package api

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"hash/crc32"

	strict "github.com/go-json-experiment/json"
)

// A cursor says where a list goes on: the place after a page's last row, with a
// checksum over it and over what the list is of (its name, its tenant, its
// filters), so that one of another list is noticed. It is opaque to clients.
// It names a row, not a number of rows: what comes in before it moves nothing.
// It grants nothing either, for a checksum can be forged: whose rows are listed
// comes from the token alone.

// WriteCursor makes the cursor of a place in a list. A place is a plain value
// that encodes to JSON.
func WriteCursor(place any, list ...string) *string {
	text, err := json.Marshal(place)
	if err != nil {
		panic(err) // no place is such
	}
	cursor := base64.RawURLEncoding.EncodeToString(binary.BigEndian.AppendUint32(text, checksum(text, list)))
	return &cursor
}

// ReadCursor reads a cursor of the same list. It is not ok when WriteCursor
// did not write it so.
func ReadCursor[P any](cursor string, list ...string) (place P, ok bool) {
	text, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	end := len(text) - crc32.Size
	if err != nil || end < 0 || binary.BigEndian.Uint32(text[end:]) != checksum(text[:end], list) {
		return place, false
	}
	return place, strict.Unmarshal(text[:end], &place, strict.RejectUnknownMembers(true)) == nil
}

func checksum(text []byte, list []string) uint32 {
	sum := crc32.ChecksumIEEE(text)
	for _, s := range list {
		sum = crc32.Update(sum, crc32.IEEETable, append([]byte(s), 0))
	}
	return sum
}

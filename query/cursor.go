package query

import (
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"time"
)

// A cursor says where a list goes on. It is opaque to clients: a version, what
// the list needs, and a checksum over both and over what the cursor is bound
// to (the tenant, the filters), so that one of another list is noticed. It
// grants nothing: whose rows are listed comes from the token alone.
const cursorVersion = 1

// seal makes a cursor.
func seal(content []byte, bound ...string) string {
	text := append([]byte{cursorVersion}, content...)
	text = binary.BigEndian.AppendUint32(text, checksum(text, bound))
	return base64.RawURLEncoding.EncodeToString(text)
}

// unseal reads a cursor whose content has that size.
func unseal(cursor string, size int, bound ...string) ([]byte, error) {
	text, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil || len(text) != 1+size+4 || text[0] != cursorVersion ||
		binary.BigEndian.Uint32(text[1+size:]) != checksum(text[:1+size], bound) {
		return nil, noCursor(cursor)
	}
	return text[1 : 1+size], nil
}

func noCursor(cursor string) error {
	return refuse(ErrInvalid, "cursor is %q: it must be the next_cursor of an answer to the same question. Leave it out to begin anew.", shown(cursor))
}

// appendTime adds a time to a cursor's content.
func appendTime(content []byte, t time.Time) []byte {
	return binary.BigEndian.AppendUint64(content, uint64(t.UnixMicro()))
}

// times reads the times that a cursor's content begins with. A checksum can be
// forged: only times are taken that a request can name.
func times(cursor string, content []byte, n int) ([]time.Time, error) {
	found := make([]time.Time, n)
	for i := range found {
		found[i] = time.UnixMicro(int64(binary.BigEndian.Uint64(content[8*i:]))).UTC()
		if !plausible(found[i]) {
			return nil, noCursor(cursor)
		}
	}
	return found, nil
}

func checksum(text []byte, bound []string) uint32 {
	sum := crc32.ChecksumIEEE(text)
	for _, s := range bound {
		sum = crc32.Update(sum, crc32.IEEETable, append([]byte(s), 0))
	}
	return sum
}

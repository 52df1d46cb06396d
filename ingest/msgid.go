package ingest

import (
	"crypto/sha256"
	"encoding/base64"
)

// MessageID is the value of the header Nats-Msg-Id for a payload published to
// a subject: base64url, without padding, of SHA-256(subject ‖ payload), 43
// characters. It is made of the content and not of the idempotency key, so
// that the server's duplicate window can swallow nothing but the very same
// bytes on the very same subject: with a key as id, a second event under that
// key, which must become a visible conflict, would vanish inside the window.
func MessageID(subject string, payload []byte) string {
	var room [1 << 10]byte // for most events
	sum := sha256.Sum256(append(append(room[:0], subject...), payload...))
	var id [43]byte
	base64.RawURLEncoding.Encode(id[:], sum[:])
	return string(id[:])
}

package query

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
)

// etag names an answer's content, everything but as_of, as a weak entity tag:
// a poll that finds nothing new costs no body, and learns the new as_of from a
// header.
func etag(a *Answer) (string, error) {
	content := *a
	content.AsOf = Instant{}
	text, err := json.Marshal(&content)
	if err != nil {
		return "", fmt.Errorf("tag of the answer for tenant %s: %w", a.TenantID, err)
	}
	sum := sha256.Sum256(text)
	return `W/"` + base64.RawURLEncoding.EncodeToString(sum[:16]) + `"`, nil
}

// matches reports whether the lines of an If-None-Match header name the tag,
// by weak comparison (RFC 9110, 13.1.2). A list that is not well-formed counts
// as far as it is.
func matches(lines []string, tag string) bool {
	opaque := strings.TrimPrefix(tag, "W/")
	rest := strings.Join(lines, ",")
	for {
		rest = strings.TrimLeft(rest, " \t,")
		if strings.HasPrefix(rest, "*") {
			return true
		}
		rest = strings.TrimPrefix(rest, "W/")
		// A tag may hold commas: it ends with its quote.
		if !strings.HasPrefix(rest, `"`) {
			return false
		}
		end := strings.IndexByte(rest[1:], '"')
		if end < 0 {
			return false
		}
		if rest[:end+2] == opaque {
			return true
		}
		rest = rest[end+2:]
	}
}

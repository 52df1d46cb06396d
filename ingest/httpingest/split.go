package httpingest

import (
	"bytes"
	"errors"
)

// jsonSpace is the white space of JSON.
const jsonSpace = " \t\r\n"

// Why a body gives no events.
var (
	errTooMany = errors.New("too many events")
	errNotJSON = errors.New("not JSON")
)

// splitLines appends the lines of NDJSON, without the white space around them.
// Blank lines are passed over, and take no index. Whether a line is an object
// is not looked at.
func splitLines(parts [][]byte, body []byte) ([][]byte, error) {
	for len(body) > 0 {
		line, rest, _ := bytes.Cut(body, []byte{'\n'})
		body = rest
		if line = bytes.Trim(line, jsonSpace); len(line) == 0 {
			continue
		}
		if len(parts) == maxEvents {
			return parts, errTooMany
		}
		parts = append(parts, line)
	}
	return parts, nil
}

// splitArray appends the elements of a JSON array, whose bracket is the body's
// first byte. It finds where each ends and looks no further: the body is JSON
// if every element is.
func splitArray(parts [][]byte, body []byte) ([][]byte, error) {
	at := skipSpace(body, 1)
	if at < len(body) && body[at] == ']' {
		return parts, nothingBehind(body, at+1)
	}
	for {
		end := valueEnd(body, at)
		if end < 0 {
			return parts, errNotJSON
		}
		if len(parts) == maxEvents {
			return parts, errTooMany
		}
		parts = append(parts, body[at:end:end])
		at = skipSpace(body, end)
		switch {
		case at < len(body) && body[at] == ',':
			at = skipSpace(body, at+1)
		case at < len(body) && body[at] == ']':
			return parts, nothingBehind(body, at+1)
		default:
			return parts, errNotJSON
		}
	}
}

// splitOne appends the body as the one value that it is.
func splitOne(parts [][]byte, body []byte) ([][]byte, error) {
	end := valueEnd(body, 0)
	if end < 0 {
		return parts, errNotJSON
	}
	return append(parts, body[:end:end]), nothingBehind(body, end)
}

// nothingBehind refuses what follows the end.
func nothingBehind(body []byte, end int) error {
	if skipSpace(body, end) < len(body) {
		return errNotJSON
	}
	return nil
}

func skipSpace(body []byte, at int) int {
	for at < len(body) && (body[at] == ' ' || body[at] == '\n' || body[at] == '\r' || body[at] == '\t') {
		at++
	}
	return at
}

// valueEnd is where the value ends that begins at an index, or -1 when none
// begins there or it is cut off. Brackets are counted and not paired, so that
// depth costs nothing; what is between them may be anything.
func valueEnd(body []byte, at int) int {
	for depth := 0; at < len(body); {
		switch c := body[at]; {
		case c == '"':
			if at = stringEnd(body, at); at < 0 {
				return -1
			}
		case c == '{' || c == '[':
			depth++
			at++
		case c == '}' || c == ']':
			depth--
			at++
		case depth == 0:
			return scalarEnd(body, at)
		default:
			at++
			continue
		}
		if depth <= 0 {
			return at
		}
	}
	return -1
}

// stringEnd is the index behind the quote that ends the string which begins at
// an index, or -1.
func stringEnd(body []byte, at int) int {
	for {
		at++
		n := bytes.IndexByte(body[at:], '"')
		if n < 0 {
			return -1
		}
		at += n
		before := at
		for body[before-1] == '\\' {
			before--
		}
		if (at-before)%2 == 0 {
			return at + 1
		}
	}
}

// scalarEnd is where a number or a word ends, or -1 when none is there.
func scalarEnd(body []byte, at int) int {
	n := bytes.IndexAny(body[at:], " \t\r\n,]}\"[{:")
	switch n {
	case 0:
		return -1
	case -1:
		return len(body)
	}
	return at + n
}

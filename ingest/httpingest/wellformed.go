package httpingest

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"

	"odometer/api"
)

// wellFormed reports whether a text is one JSON value by the grammar of RFC
// 8259, whatever names and strings hold and however deep it is. It tells a
// value that cannot be an event from a body that is not JSON at all.
func wellFormed(text []byte) bool {
	g := grammar{rest: text}
	return g.whole()
}

// grammar is what of a text is not read yet, and the brackets that must close
// what is open. They are on no stack of calls.
type grammar struct {
	rest   []byte
	open   []byte
	values int    // of an array that is the whole text, before the one being read
	want   string // what should have come where the text is no JSON
}

// notJSON says where a body stops being JSON and what should be there.
func notJSON(body []byte) *api.Problem {
	g := grammar{rest: body}
	g.whole()
	found := "it ends"
	if len(g.rest) > 0 {
		_, size := utf8.DecodeRune(g.rest)
		found = fmt.Sprintf("there is %q", g.rest[:size])
	}
	return api.NewProblem(api.InvalidRequest, "The body is not JSON: at byte offset %d, in its value %d, %s where %s should be. Nothing of it was taken.",
		len(body)-len(g.rest), g.values+1, found, g.want)
}

// whole reads the text to its end.
func (g *grammar) whole() bool {
	for g.value() {
		for {
			g.space()
			switch {
			case len(g.open) == 0 && len(g.rest) == 0:
				return true
			case len(g.open) == 0:
				return g.lacks("the end")
			case g.take(g.open[len(g.open)-1]):
				g.open = g.open[:len(g.open)-1]
				continue
			case !g.take(','):
				return g.lacks("a comma or " + string(g.open[len(g.open)-1:]))
			case string(g.open) == "]":
				g.values++
			}
			break
		}
		if !g.name() {
			return false
		}
	}
	return false
}

// lacks notes what is not there.
func (g *grammar) lacks(want string) bool {
	g.want = want
	return false
}

// value reads a value, or its beginning up to the first value within.
func (g *grammar) value() bool {
	for {
		g.space()
		switch {
		case g.take('{'):
			g.space()
			if g.take('}') {
				return true
			}
			g.open = append(g.open, '}')
			if !g.name() {
				return false
			}
		case g.take('['):
			g.space()
			if g.take(']') {
				return true
			}
			g.open = append(g.open, ']')
		default:
			return g.scalar()
		}
	}
}

// name reads a member's name and the colon behind it, where an object is open.
func (g *grammar) name() bool {
	if g.open[len(g.open)-1] != '}' {
		return true
	}
	g.space()
	if !g.at(`"`) {
		return g.lacks("a name in quotes")
	}
	if !g.text() {
		return false
	}
	g.space()
	return g.take(':') || g.lacks("a colon")
}

func (g *grammar) scalar() bool {
	switch {
	case g.at(`"`):
		return g.text()
	case g.at("-0123456789"):
		return g.number()
	case g.at("t"):
		return g.word("true")
	case g.at("f"):
		return g.word("false")
	case g.at("n"):
		return g.word("null")
	}
	return g.lacks("a value")
}

func (g *grammar) text() bool {
	g.take('"')
	for len(g.rest) > 0 && g.rest[0] >= ' ' {
		switch {
		case g.take('"'):
			return true
		case g.take('\\'):
			if !g.escape() {
				return false
			}
		default:
			g.rest = g.rest[1:]
		}
	}
	if len(g.rest) > 0 {
		return g.lacks("its escape, as \\n,")
	}
	return g.lacks("a closing quote")
}

// escape reads what follows a backslash.
func (g *grammar) escape() bool {
	if !g.take('u') {
		return g.oneOf(`"\/bfnrt`) || g.lacks(`one of " \ / b f n r t u`)
	}
	for range 4 {
		if !g.oneOf("0123456789abcdefABCDEF") {
			return g.lacks("a hexadecimal digit")
		}
	}
	return true
}

func (g *grammar) number() bool {
	g.take('-')
	if !g.take('0') && !g.digits() {
		return false
	}
	if g.take('.') && !g.digits() {
		return false
	}
	if g.oneOf("eE") {
		g.oneOf("+-")
		return g.digits()
	}
	return true
}

func (g *grammar) digits() bool {
	behind := bytes.TrimLeft(g.rest, "0123456789")
	some := len(behind) < len(g.rest)
	g.rest = behind
	return some || g.lacks("a digit")
}

func (g *grammar) word(w string) bool {
	for _, c := range []byte(w) {
		if !g.take(c) {
			return g.lacks("the rest of " + w)
		}
	}
	return true
}

// at reports whether one of some bytes is next.
func (g *grammar) at(some string) bool {
	return len(g.rest) > 0 && strings.IndexByte(some, g.rest[0]) >= 0
}

func (g *grammar) take(c byte) bool {
	if len(g.rest) == 0 || g.rest[0] != c {
		return false
	}
	g.rest = g.rest[1:]
	return true
}

func (g *grammar) oneOf(bytes string) bool {
	if !g.at(bytes) {
		return false
	}
	g.rest = g.rest[1:]
	return true
}

func (g *grammar) space() { g.rest = g.rest[skipSpace(g.rest, 0):] }

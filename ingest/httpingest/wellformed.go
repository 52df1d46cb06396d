package httpingest

import "bytes"

// wellFormed reports whether a text is one JSON value by the grammar of RFC
// 8259, whatever names and strings hold and however deep it is. It tells a
// value that cannot be an event from a body that is not JSON at all.
func wellFormed(text []byte) bool {
	g := grammar{rest: text}
	for g.value() {
		for {
			g.space()
			switch {
			case len(g.open) == 0:
				return len(g.rest) == 0
			case g.take(g.open[len(g.open)-1]):
				g.open = g.open[:len(g.open)-1]
				continue
			case !g.take(',') || !g.name():
				return false
			}
			break
		}
	}
	return false
}

// grammar is what of a text is not read yet, and the brackets that must close
// what is open. They are on no stack of calls.
type grammar struct {
	rest []byte
	open []byte
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
			return g.text() || g.number() || g.word("true") || g.word("false") || g.word("null")
		}
	}
}

// name reads a member's name and the colon behind it, where an object is open.
func (g *grammar) name() bool {
	if g.open[len(g.open)-1] != '}' {
		return true
	}
	g.space()
	if !g.text() {
		return false
	}
	g.space()
	return g.take(':')
}

func (g *grammar) text() bool {
	if !g.take('"') {
		return false
	}
	for len(g.rest) > 0 {
		c := g.rest[0]
		g.rest = g.rest[1:]
		switch {
		case c == '"':
			return true
		case c < ' ', c == '\\' && !g.escape():
			return false
		}
	}
	return false
}

// escape reads what follows a backslash.
func (g *grammar) escape() bool {
	if !g.take('u') {
		return g.oneOf(`"\/bfnrt`)
	}
	for range 4 {
		if !g.oneOf("0123456789abcdefABCDEF") {
			return false
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
	return some
}

func (g *grammar) word(w string) bool {
	behind, found := bytes.CutPrefix(g.rest, []byte(w))
	g.rest = behind
	return found
}

func (g *grammar) take(c byte) bool {
	if len(g.rest) == 0 || g.rest[0] != c {
		return false
	}
	g.rest = g.rest[1:]
	return true
}

func (g *grammar) oneOf(bytes string) bool {
	for _, c := range []byte(bytes) {
		if g.take(c) {
			return true
		}
	}
	return false
}

func (g *grammar) space() { g.rest = g.rest[skipSpace(g.rest, 0):] }

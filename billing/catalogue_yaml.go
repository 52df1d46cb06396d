package billing

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// PositionError is what is wrong with the text of a catalogue, and where.
type PositionError struct {
	Line, Column int // both from 1; a column is a character
	Problem      string
}

// Error has the form "4:5: problem", so that a file's name and a colon before
// it make what editors understand: fmt.Errorf("%s:%w", file, err).
func (e *PositionError) Error() string {
	return fmt.Sprintf("%d:%d: %s", e.Line, e.Column, e.Problem)
}

// parseYAML is the syntax tree of the only document in the text.
func parseYAML(text []byte) (ast.Node, error) {
	text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	if problem := checkCharacters(text); problem != nil {
		return nil, problem
	}
	// Keys given twice are found by the reader, which names them as it names
	// everything else.
	file, err := parser.ParseBytes(text, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return nil, syntaxProblem(err)
	}
	if len(file.Docs) == 0 || len(file.Docs) == 1 && file.Docs[0].Body == nil {
		return nil, &PositionError{1, 1, "the file is empty: " + catalogueShape.list()}
	}
	// The parser takes a directive for a document of its own; the reader has a
	// better word for it.
	if _, ok := file.Docs[0].Body.(*ast.DirectiveNode); !ok && len(file.Docs) > 1 {
		p := &PositionError{1, 1, "several documents in one file: a catalogue is one document"}
		if start := file.Docs[1].Start; start != nil {
			p.Line, p.Column = start.Position.Line, start.Position.Column
		}
		return nil, p
	}
	return file.Docs[0].Body, nil
}

// checkCharacters finds what no YAML of ours holds and what the parser would
// take in silence or tell the wrong column for.
func checkCharacters(text []byte) *PositionError {
	line, column := 1, 1
	for len(text) > 0 {
		c, size := utf8.DecodeRune(text)
		switch {
		case c == utf8.RuneError && size == 1:
			return &PositionError{line, column, fmt.Sprintf("byte %#02x is not UTF-8: save the file as UTF-8", text[0])}
		case c == '\uFEFF':
			return &PositionError{line, column, "a byte order mark: save the file as UTF-8 without one"}
		case c == '\t':
			return &PositionError{line, column, "a tab: use spaces"}
		case c == '\n':
			line, column = line+1, 0
		case unicode.IsControl(c), c == '\u2028', c == '\u2029':
			return &PositionError{line, column, fmt.Sprintf("control character %U", c)}
		}
		text = text[size:]
		column++
	}
	return nil
}

func syntaxProblem(err error) *PositionError {
	var located yaml.Error
	if !errors.As(err, &located) || located.GetToken() == nil {
		return &PositionError{1, 1, err.Error()}
	}
	at := located.GetToken().Position
	return &PositionError{at.Line, at.Column, "not YAML: " + located.GetMessage()}
}

// yamlShape is which fields a mapping has, and how a message begins that lists
// them.
type yamlShape struct {
	takes              string
	required, optional []string
}

func (s *yamlShape) list() string {
	return s.takes + " " + strings.Join(slices.Concat(s.required, s.optional), ", ")
}

func (s *yamlShape) has(name string) bool {
	return slices.Contains(s.required, name) || slices.Contains(s.optional, name)
}

// yamlReader reads values out of a syntax tree and keeps the problem that
// comes first in the text. Its methods take a nil node, a field that is not
// there, for the zero value.
type yamlReader struct {
	problem *PositionError
}

func (r *yamlReader) refuse(at *token.Token, format string, args ...any) {
	line, column := at.Position.Line, at.Position.Column
	if p := r.problem; p != nil && (p.Line < line || p.Line == line && p.Column <= column) {
		return
	}
	r.problem = &PositionError{line, column, fmt.Sprintf(format, args...)}
}

// yamlEntry is one field of a mapping.
type yamlEntry struct {
	name  string
	key   *token.Token
	value ast.Node
}

// entries are a mapping's fields in order; want says what should have been
// there when it is something else.
func (r *yamlReader) entries(n ast.Node, want string) []yamlEntry {
	if n == nil {
		return nil
	}
	mapping, ok := n.(*ast.MappingNode)
	if !ok {
		r.mismatch(n, want)
		return nil
	}
	var entries []yamlEntry
	given := map[string]int{}
	for _, v := range mapping.Values {
		name, ok := r.text(v.Key, "a field's name")
		if !ok {
			continue
		}
		at := v.Key.GetToken()
		if first, ok := given[name]; ok {
			r.refuse(at, "field %q is given twice, first in line %d", name, first)
			continue
		}
		// The parser's column for a value that is not there is off by one or
		// more, depending on what follows.
		if null, ok := v.Value.(*ast.NullNode); ok && null.Token.Type == token.ImplicitNullType {
			null.Token.Position = at.Position
		}
		given[name] = at.Position.Line
		entries = append(entries, yamlEntry{name, at, v.Value})
	}
	return entries
}

// fields are the values of a mapping of a known shape, by name.
func (r *yamlReader) fields(n ast.Node, shape yamlShape) map[string]ast.Node {
	values := map[string]ast.Node{}
	strange := false
	for _, e := range r.entries(n, "fields are expected here: "+shape.list()) {
		if !shape.has(e.name) {
			r.refuse(e.key, "unknown field %q (%s)", e.name, shape.list())
			strange = true
			continue
		}
		values[e.name] = e.value
	}
	mapping, ok := n.(*ast.MappingNode)
	// A field that is missing beside an unknown one is most likely that one,
	// mistyped.
	if !ok || strange {
		return values
	}
	for _, name := range shape.required {
		if _, ok := values[name]; !ok {
			r.refuse(firstToken(mapping), "field %q is missing (%s)", name, shape.list())
		}
	}
	return values
}

// firstToken is where a mapping begins: the token of a block mapping itself is
// the colon behind its first key.
func firstToken(n *ast.MappingNode) *token.Token {
	if n.IsFlowStyle || len(n.Values) == 0 {
		return n.GetToken()
	}
	return n.Values[0].Key.GetToken()
}

func (r *yamlReader) list(n ast.Node, what string) []ast.Node {
	if n == nil {
		return nil
	}
	sequence, ok := n.(*ast.SequenceNode)
	if !ok {
		r.mismatch(n, what+" must be a list")
		return nil
	}
	return sequence.Values
}

// mismatch refuses a node of a kind that is not wanted there. What YAML has
// and a catalogue has not is named instead.
func (r *yamlReader) mismatch(n ast.Node, want string) {
	at := n.GetToken()
	switch n := n.(type) {
	case *ast.AnchorNode, *ast.AliasNode:
		want = "anchors and aliases are not supported: write the value out"
	case *ast.MergeKeyNode:
		want = "merge keys are not supported: write the fields out"
	case *ast.TagNode:
		want = "tags are not supported: write the value without " + at.Value
	case *ast.DirectiveNode:
		want = "directives are not supported: leave the line out"
	case *ast.LiteralNode:
		want += ", on one line"
	case *ast.MappingKeyNode:
		want = "complex keys are not supported: write name: value"
	case *ast.MappingNode:
		at = firstToken(n)
	}
	r.refuse(at, "%s", want)
}

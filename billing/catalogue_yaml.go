package billing

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
	"github.com/shopspring/decimal"

	"odometer"
)

// Bounds of a file, checked before it is parsed: the parser's memory and time
// grow with the square of the nesting and of a mapping's length.
const (
	MaxCatalogueBytes = 128 << 10 // some 1,000 agents
	maxBrackets       = 16        // nested [ and {
	maxIndent         = 100       // the column of a line's first token and of a list item's dash
)

// parseYAML parses the one document of a file.
func parseYAML(text []byte) (ast.Node, error) {
	if len(text) > MaxCatalogueBytes {
		return nil, fmt.Errorf("1:1: the file is too large: at most %d bytes are allowed", MaxCatalogueBytes)
	}
	text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	if err := checkCharacters(text); err != nil {
		return nil, err
	}
	tokens := lexer.Tokenize(string(text))
	if err := checkDepth(tokens); err != nil {
		return nil, err
	}
	file, err := parser.Parse(tokens, 0)
	if err != nil {
		return nil, inOneLine(err)
	}
	documents := slices.DeleteFunc(file.Docs, func(d *ast.DocumentNode) bool { return d.Body == nil })
	switch len(documents) {
	case 0:
		return nil, errors.New("1:1: the file is empty: " + schema)
	case 1:
		return documents[0].Body, checkNodes(documents[0].Body)
	}
	return nil, refuse(documents[1].Body.GetToken(), "several documents or directives in one file: a catalogue is one document")
}

func refuse(at *token.Token, format string, args ...any) error {
	return fmt.Errorf("%d:%d: "+format, append([]any{at.Position.Line, at.Position.Column}, args...)...)
}

// refuseNode names the field too: the parser's column is not exact everywhere.
func refuseNode(n ast.Node, format string, args ...any) error {
	path := strings.TrimPrefix(strings.TrimPrefix(n.GetPath(), "$"), ".")
	if path != "" {
		path += ": "
	}
	return refuse(n.GetToken(), "%s"+format, append([]any{path}, args...)...)
}

// inOneLine is the library's error without its excerpt of the text.
func inOneLine(err error) error {
	var located yaml.Error
	if !errors.As(err, &located) || located.GetToken() == nil {
		return err
	}
	switch located.(type) {
	case *yaml.SyntaxError:
		return refuse(located.GetToken(), "%s", located.GetMessage())
	default: // not of the schema
		return refuse(located.GetToken(), "%s: %s", located.GetMessage(), schema)
	}
}

// checkCharacters refuses what the parser would accept silently or report at
// the wrong column.
func checkCharacters(text []byte) error {
	if at := bytes.IndexFunc(text, func(c rune) bool {
		return c == utf8.RuneError || c == '\uFEFF' || c == '\u2028' || c == '\u2029' || unicode.IsControl(c) && c != '\n'
	}); at >= 0 {
		line := 1 + bytes.Count(text[:at], []byte("\n"))
		column := 1 + utf8.RuneCount(text[bytes.LastIndexByte(text[:at], '\n')+1:at])
		c, _ := utf8.DecodeRune(text[at:])
		return fmt.Errorf("%d:%d: character %U is not allowed: save the file as UTF-8 without a byte order mark, and use spaces for tabs",
			line, column, c)
	}
	return nil
}

func checkDepth(tokens token.Tokens) error {
	brackets, line := 0, 0
	for _, t := range tokens {
		switch t.Type {
		case token.CommentType:
			continue
		case token.SequenceStartType, token.MappingStartType:
			brackets++
		case token.SequenceEndType, token.MappingEndType:
			brackets--
		}
		indents := t.Position.Line != line || t.Type == token.SequenceEntryType
		if brackets > maxBrackets || indents && t.Position.Column > maxIndent {
			return refuse(t, "nested too deeply: a catalogue has 4 levels")
		}
		line = t.Position.Line
	}
	return nil
}

// checkNodes refuses what YAML allows and different readers understand
// differently, and what decoding would accept as an empty value.
func checkNodes(root ast.Node) error {
	c := &nodeChecker{}
	ast.Walk(c, root)
	return c.err
}

type nodeChecker struct{ err error }

// Visit keeps the first error.
func (c *nodeChecker) Visit(n ast.Node) ast.Visitor {
	if c.err == nil {
		c.err = checkNode(n)
	}
	return c
}

const maxTextBytes = 255

func checkNode(n ast.Node) error {
	switch n := n.(type) {
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode, *ast.TagNode, *ast.DirectiveNode, *ast.MappingKeyNode, *ast.LiteralNode:
		return refuseNode(n, "%s is not allowed: anchors, aliases, merge keys, tags, directives, complex keys and blocks of text are not supported; write the value out",
			n.Type())
	case *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return refuseNode(n, "%s is neither text nor a number: put text in quotes, as %q", n.GetToken().Value, n.GetToken().Value)
	case *ast.NullNode:
		if n.Token.Type == token.ImplicitNullType {
			return refuseNode(n, "the value is missing")
		}
		if n.Token.Value != "null" || !strings.Contains(n.GetPath(), ".allowances.") {
			return refuseNode(n, `%s is not allowed: only an allowance may be null, for unlimited; put text in quotes, as "null"`, n.Token.Value)
		}
	case *ast.StringNode:
		if len(n.Value) > maxTextBytes {
			return refuse(n.Token, "text of %d bytes; at most %d are allowed", len(n.Value), maxTextBytes)
		}
		if strings.Contains(strings.TrimSpace(n.Token.Origin), "\n") {
			return refuseNode(n, "text must be on one line")
		}
		if isPlain(n.Token) && isAmbiguous(n.Value) {
			return refuseNode(n, "%s is not clear: put text in quotes, as %q, and write a number in plain digits, as 29 or 0.02", n.Value, n.Value)
		}
	}
	return nil
}

func isPlain(t *token.Token) bool {
	return t.Type != token.SingleQuoteType && t.Type != token.DoubleQuoteType
}

// otherWords are booleans or null to readers of YAML 1.1 or 1.2.
var otherWords = []string{"y", "n", "yes", "no", "on", "off", "true", "false", "null"}

// numberLike matches numbers, dates and times of any YAML: 1e3, 1_000,
// 2026-01-01, 12:30.
var numberLike = regexp.MustCompile(`^[-+.]*[0-9][-+.,:_0-9a-fA-FxXoOtTzZ]*$`)

// isAmbiguous reports whether s without quotes is text to some readers and
// something else to others.
func isAmbiguous(s string) bool {
	return slices.Contains(otherWords, strings.ToLower(s)) || numberLike.MatchString(s)
}

// yamlText is a string that is only read from text, not from a number.
type yamlText string

// UnmarshalYAML accepts text alone.
func (s *yamlText) UnmarshalYAML(n ast.Node) error {
	switch n := n.(type) {
	case *ast.StringNode:
		*s = yamlText(n.Value)
		return nil
	case ast.ScalarNode:
		return refuseNode(n, "must be text: put a word or number in quotes, as %q", n.GetToken().Value)
	}
	return refuseNode(n, "must be text")
}

// plainForm matches text that every YAML reader reads as a string, in blocks
// and between brackets.
var plainForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_./-]*( [A-Za-z0-9_./-]+)*$`)

// MarshalYAML puts in quotes what could be read as something else.
func (s yamlText) MarshalYAML() ([]byte, error) {
	if plainForm.MatchString(string(s)) && !isAmbiguous(string(s)) {
		return []byte(s), nil
	}
	return []byte(strconv.Quote(string(s))), nil
}

// yamlPrice is a decimal that never passes through a float.
type yamlPrice struct{ amount *decimal.Decimal }

const maxPriceDigits = 12 // before the point, and after it

var priceForm = regexp.MustCompile(`^(?:0|[1-9][0-9]{0,11})(?:\.[0-9]{1,12})?$`)

// UnmarshalYAML reads the digits as they are written.
func (p *yamlPrice) UnmarshalYAML(n ast.Node) error {
	digits := n.GetToken().Value
	if !isNumber(n) || !priceForm.MatchString(digits) {
		return refuseNode(n, "%q is not a number from 0 in plain digits and without quotes, as 29 or 0.02, with at most %d digits before and after the point",
			digits, maxPriceDigits)
	}
	amount := decimal.RequireFromString(digits)
	p.amount = &amount
	return nil
}

// MarshalYAML writes the price's text.
func (p yamlPrice) MarshalYAML() ([]byte, error) { return []byte(odometer.PriceText(*p.amount)), nil }

// yamlUnits is the number of units of an allowance.
type yamlUnits int64

const maxLimit = 1 << 53 // beyond it, a reader of our JSON may round

var wholeForm = regexp.MustCompile(`^(0|[1-9][0-9]*)$`)

// UnmarshalYAML accepts plain digits.
func (u *yamlUnits) UnmarshalYAML(n ast.Node) error {
	digits := n.GetToken().Value
	limit, err := strconv.ParseInt(digits, 10, 64)
	if !isNumber(n) || !wholeForm.MatchString(digits) || err != nil || limit > maxLimit {
		return refuseNode(n, "%q is not a whole number from 0 to %d in plain digits and without quotes, as 500, or null for unlimited",
			digits, int64(maxLimit))
	}
	*u = yamlUnits(limit)
	return nil
}

func isNumber(n ast.Node) bool { return n.Type() == ast.IntegerType || n.Type() == ast.FloatType }

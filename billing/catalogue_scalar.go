package billing

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
	"github.com/shopspring/decimal"

	"odometer"
)

// Bounds of a catalogue's values.
const (
	maxTextBytes   = 255
	maxPriceDigits = 12      // before the point, and after it
	maxLimit       = 1 << 53 // beyond it, a reader of our JSON may round
)

// text reads a string that is printable, not empty and on one line. Only then
// ok is true.
func (r *yamlReader) text(n ast.Node, what string) (s string, ok bool) {
	if n == nil {
		return "", false
	}
	node, isText := n.(*ast.StringNode)
	if !isText {
		r.notText(n, what)
		return "", false
	}
	problem := textProblem(node)
	if problem != "" {
		r.refuse(node.GetToken(), "%s %s", what, problem)
	}
	return node.Value, problem == ""
}

func (r *yamlReader) notText(n ast.Node, what string) {
	want := what + " must be text"
	switch n := n.(type) {
	case *ast.NullNode:
		if n.Token.Type == token.ImplicitNullType {
			want = what + " is empty"
			break
		}
		want += `: for this word put it in quotes, as "null"`
	case *ast.BoolNode, *ast.IntegerNode, *ast.FloatNode, *ast.NanNode, *ast.InfinityNode:
		want += ": put it in quotes, as " + strconv.Quote(n.GetToken().Value)
	}
	r.mismatch(n, want)
}

func textProblem(n *ast.StringNode) string {
	s := n.Value
	switch {
	case s == "":
		return "is empty"
	case strings.Contains(strings.TrimSpace(n.Token.Origin), "\n"):
		return "must stand on one line"
	case len(s) > maxTextBytes:
		return "has " + strconv.Itoa(len(s)) + " bytes; at most " + strconv.Itoa(maxTextBytes) + " are allowed"
	case strings.ContainsFunc(s, func(c rune) bool { return !unicode.IsPrint(c) }):
		return "has a character that cannot be printed: " + strconv.Quote(s)
	case strings.TrimSpace(s) != s:
		return "begins or ends with a space: " + strconv.Quote(s)
	case isPlain(n.Token) && isAmbiguous(s):
		return "could be read as something else than text: put it in quotes, as " + strconv.Quote(s)
	}
	return ""
}

func isPlain(t *token.Token) bool {
	return t.Type != token.SingleQuoteType && t.Type != token.DoubleQuoteType
}

// What YAML 1.1 takes for a boolean, and 1.2 does not.
var oldBooleans = []string{"y", "n", "yes", "no", "on", "off"}

// Numbers, dates and times of any YAML: 1e3, 1_000, 2026-01-01, 12:30.
var numberLike = regexp.MustCompile(`^[-+.]*[0-9][-+.,:_0-9a-fA-FxXoOtTzZ]*$`)

// isAmbiguous reports whether s without quotes is text to some readers and
// something else to others.
func isAmbiguous(s string) bool {
	return slices.Contains(oldBooleans, strings.ToLower(s)) || numberLike.MatchString(s)
}

// source is a scalar as it stands in the text; "" for one in quotes and for
// what is no scalar.
func source(n ast.Node) string {
	switch n.(type) {
	case *ast.StringNode, *ast.IntegerNode, *ast.FloatNode, *ast.NanNode, *ast.InfinityNode, *ast.BoolNode, *ast.NullNode:
		if t := n.GetToken(); isPlain(t) && t.Type != token.ImplicitNullType {
			return t.Value
		}
	}
	return ""
}

var (
	wholeForm = regexp.MustCompile(`^(0|[1-9][0-9]*)$`)
	priceForm = regexp.MustCompile(`^(0|[1-9][0-9]*)(?:\.([0-9]+))?$`)
)

// price reads a decimal from its digits; it never passes through a float.
func (r *yamlReader) price(n ast.Node, what string) decimal.Decimal {
	if n == nil {
		return decimal.Decimal{}
	}
	digits := source(n)
	parts := priceForm.FindStringSubmatch(digits)
	switch {
	case parts == nil && priceForm.MatchString(strings.TrimPrefix(digits, "-")):
		r.refuse(n.GetToken(), "%s %s is negative", what, digits)
	case parts == nil:
		r.mismatch(n, what+" must be a number in plain digits and without quotes, as 29 or 0.02")
	case len(parts[1]) > maxPriceDigits || len(parts[2]) > maxPriceDigits:
		r.refuse(n.GetToken(), "%s %s has more than %d digits before or after the point", what, digits, maxPriceDigits)
	default:
		return decimal.RequireFromString(digits)
	}
	return decimal.Decimal{}
}

func (r *yamlReader) allowance(n ast.Node, agent string) odometer.Allowance {
	digits := source(n)
	if digits == "null" {
		return odometer.Allowance{Unlimited: true}
	}
	if !wholeForm.MatchString(digits) {
		r.mismatch(n, "the allowance of "+agent+
			" must be a whole number in plain digits and without quotes, as 500, or null for unlimited")
		return odometer.Allowance{}
	}
	limit, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || limit > maxLimit {
		r.refuse(n.GetToken(), "the allowance of %s is above %d: write null for unlimited", agent, int64(maxLimit))
		return odometer.Allowance{}
	}
	return odometer.Allowance{Limit: limit}
}

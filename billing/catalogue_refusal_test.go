package billing

import (
	"errors"
	"strings"
	"testing"
)

// smallCatalogue is correct; the table below spoils one line of it at a time.
const smallCatalogue = `currency: usd
agents:
  - id: inbox
    noun: email
    actions: [email_processed]
    limit_key: emails_per_month
    unit_price: 0.02
    stripe: {meter: m, lookup_key: l}
plans:
  - id: basic
    name: Basic
    price: 29
    allowances: {inbox: 500}
`

// spoiled is smallCatalogue with one line replaced, by several perhaps.
func spoiled(line int, by string) string {
	lines := strings.Split(smallCatalogue, "\n")
	lines[line-1] = by
	return strings.Join(lines, "\n")
}

func TestAnUnknownOrMissingFieldIsRefusedWhereItStands(t *testing.T) {
	t.Parallel()
	testRefusals(t, []refusal{
		{"unknown in an agent", 7, `    unti_price: 0.02`,
			`7:5: unknown field "unti_price" (agents take id, noun, actions, limit_key, unit_price, stripe)`},
		{"unknown at the top", 9, `plan:`, `9:1: unknown field "plan" (a catalogue takes currency, agents, plans)`},
		{"unknown in a plan", 12, `    Price: 29`, `12:5: unknown field "Price" (plans take id, name, price, allowances)`},
		{"unknown in stripe", 8, `    stripe: {metre: m}`, `8:14: unknown field "metre" (stripe takes meter, lookup_key)`},
		{"missing in an agent", 4, `    # noun: email`,
			`3:5: field "noun" is missing (agents take id, noun, actions, limit_key, unit_price, stripe)`},
		{"missing in a plan", 13, ``, `10:5: field "allowances" is missing (plans take id, name, price, allowances)`},
		{"missing at the top", 1, `---`, `2:1: field "currency" is missing (a catalogue takes currency, agents, plans)`},
		{"missing between braces", 13, "    allowances: {inbox: 500}\n  - {id: x, name: y, price: 1}",
			`14:5: field "allowances" is missing (plans take id, name, price, allowances)`},
		{"given twice", 4, "    noun: email\n    noun: mail", `5:5: field "noun" is given twice, first in line 4`},
		{"given twice at the top", 1, "currency: usd\ncurrency: eur", `2:1: field "currency" is given twice, first in line 1`},
		{"allowance given twice", 13, `    allowances: {inbox: 500, "inbox": 600}`,
			`13:30: field "inbox" is given twice, first in line 13`},
		{"a list for fields", 8, `    stripe: [m, l]`, `8:13: fields are expected here: stripe takes meter, lookup_key`},
		{"text for an agent", 3, "  - inbox\n  - id: inbox",
			`3:5: fields are expected here: agents take id, noun, actions, limit_key, unit_price, stripe`},
		{"fields for a list", 5, `    actions: {email_processed: 1}`, `5:14: actions must be a list`},
		{"nothing for a list", 5, `    actions:`, `5:5: actions must be a list`},
		{"text for a list", 5, `    actions: email_processed`, `5:14: actions must be a list`},
		{"an empty list of actions", 5, `    actions: []`, `5:14: actions is empty: an agent sends at least one`},
		{"a list for allowances", 13, `    allowances: [inbox]`, `13:17: allowances must be fields, as {inbox: 500}`},
		{"an empty list item", 5, "    actions:\n      -\n      - email_processed", `6:8: action is empty`},
		{"the first of two", 7, "    unit_price: -1\n    noun: email", `7:17: unit_price -1 is negative`},
	})
}

func TestDoubtfulTextIsRefusedWhereItStands(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", 128)
	testRefusals(t, []refusal{
		{"no text", 4, `    noun:`, `4:5: noun is empty`},
		{"empty text", 11, `    name: ""`, `11:11: name is empty`},
		{"a space", 11, `    name: " "`, `11:11: name begins or ends with a space: " "`},
		{"a number", 10, `  - id: 12`, `10:9: id must be text: put it in quotes, as "12"`},
		{"a large number", 10, `  - id: 123456789012345678901234567890`,
			`10:9: id could be read as something else than text: put it in quotes, as "123456789012345678901234567890"`},
		{"a fraction", 11, `    name: 1.5`, `11:11: name must be text: put it in quotes, as "1.5"`},
		{"an exponent", 11, `    name: 1e3`, `11:11: name could be read as something else than text: put it in quotes, as "1e3"`},
		{"a date", 11, `    name: 2026-01-01`,
			`11:11: name could be read as something else than text: put it in quotes, as "2026-01-01"`},
		{"a boolean", 4, `    noun: true`, `4:11: noun must be text: put it in quotes, as "true"`},
		{"an old boolean", 4, `    noun: No`, `4:11: noun could be read as something else than text: put it in quotes, as "No"`},
		{"an old boolean among others", 5, `    actions: [sent, on]`,
			`5:21: action could be read as something else than text: put it in quotes, as "on"`},
		{"an old boolean as a field", 13, `    allowances: {y: 500}`,
			`13:18: a field's name could be read as something else than text: put it in quotes, as "y"`},
		{"null", 4, `    noun: null`, `4:11: noun must be text: for this word put it in quotes, as "null"`},
		{"null as a field", 13, `    allowances: {null: 500}`,
			`13:18: a field's name must be text: for this word put it in quotes, as "null"`},
		{"infinity", 4, `    noun: .inf`, `4:11: noun must be text: put it in quotes, as ".inf"`},
		{"fields for text", 4, "    noun:\n      one: email", `5:7: noun must be text`},
		{"a list for text", 4, `    noun: [email]`, `4:11: noun must be text`},
		{"a block", 4, "    noun: |\n      email", `4:11: noun must be text, on one line`},
		{"two lines", 11, "    name: Inbox\n      Pilot", `11:11: name must stand on one line`},
		{"two lines in quotes", 11, "    name: 'Inbox\n      Pilot'", `11:11: name must stand on one line`},
		{"an escaped control character", 10, `  - id: "a\u0007"`, `10:9: id has a character that cannot be printed: "a\a"`},
		{"an escaped line break", 10, `  - id: "a\nb"`, `10:9: id has a character that cannot be printed: "a\nb"`},
		{"an invisible character", 10, "  - id: a\u200bb", `10:9: id has a character that cannot be printed: "a\u200bb"`},
		{"more than 255 bytes", 10, `  - id: ` + long, `10:9: id has 256 bytes; at most 255 are allowed`},
	})
}

func TestDoubtfulNumbersAreRefusedWhereTheyStand(t *testing.T) {
	t.Parallel()
	const price = "unit_price must be a number in plain digits and without quotes, as 29 or 0.02"
	const whole = "the allowance of inbox must be a whole number in plain digits and without quotes, as 500, or null for unlimited"
	var rows []refusal
	for _, s := range []string{
		`"0.02"`, `'1'`, `1e3`, `1_000`, `0x10`, `010`, `0o7`, `+1`, `.5`, `5.`, `$1`, `1 000`, `.nan`, `.inf`, `-.inf`, `NaN`,
		`null`, `true`, `yes`, `[1]`, `1.2.3`, `--1`, `०`,
	} {
		rows = append(rows, refusal{"price " + s, 7, `    unit_price: ` + s, `7:17: ` + price})
	}
	for _, s := range []string{
		`"500"`, `'500'`, `500.0`, `5e2`, `1_000`, `0x10`, `0500`, `0o7`, `0b1`, `+5`, `-5`, `-1`, `.inf`, `~`, `Null`, `true`, `[5]`, `'null'`,
	} {
		rows = append(rows, refusal{"allowance " + s, 13, `    allowances: {inbox: ` + s + `}`, `13:25: ` + whole})
	}
	testRefusals(t, append(rows, []refusal{
		{"no price", 7, `    unit_price:`, `7:5: ` + price},
		{"a negative price", 12, `    price: -29.50`, `12:12: price -29.50 is negative`},
		{"minus zero", 12, `    price: -0`, `12:12: price -0 is negative`},
		{"13 decimals", 7, `    unit_price: 0.1234567890123`,
			`7:17: unit_price 0.1234567890123 has more than 12 digits before or after the point`},
		{"13 digits", 12, `    price: 1234567890123`, `12:12: price 1234567890123 has more than 12 digits before or after the point`},
		{"no allowance", 13, "    allowances:\n      inbox:", `14:7: ` + whole},
		{"no allowance between braces", 13, `    allowances: {inbox}`, `13:18: ` + whole},
		{"a thousands separator", 13, `    allowances: {inbox: 1,000}`, `13:27: a field's name must be text: put it in quotes, as "000"`},
		{"above 2^53", 13, `    allowances: {inbox: 9007199254740993}`,
			`13:25: the allowance of inbox is above 9007199254740992: write null for unlimited`},
		{"above 2^64", 13, `    allowances: {inbox: 99999999999999999999}`,
			`13:25: the allowance of inbox is above 9007199254740992: write null for unlimited`},
	}...))
}

func TestNamesThatContradictEachOtherAreRefusedWhereTheyStand(t *testing.T) {
	t.Parallel()
	second := func(field, value string) string {
		s := map[string]string{"id": "second", "limit_key": "seconds", "stripe": "{}", field: value}
		return "    stripe: {meter: m, lookup_key: l}\n  - id: " + s["id"] + "\n    noun: thing\n    actions: [a]\n    limit_key: " +
			s["limit_key"] + "\n    unit_price: 1\n    stripe: " + s["stripe"]
	}
	testRefusals(t, []refusal{
		{"a currency of another form", 1, `currency: USD`, `1:11: currency "USD" is not a code of three lower-case letters, as usd`},
		{"a currency without cents", 1, `currency: jpy`,
			`1:11: currency "jpy" has no cents: costs are told in hundredths, which it does not have`},
		{"an agent's form", 3, `  - id: Inbox`,
			`3:9: agent id "Inbox" is not a lower-case letter followed by at most 31 of a-z, 0-9, _ and -`},
		{"an agent twice", 8, second("id", "inbox"), `9:9: agent "inbox" is already given in line 3`},
		{"a limit_key twice", 8, second("limit_key", "emails_per_month"),
			`12:16: limit_key "emails_per_month" is already given in line 6`},
		{"a meter twice", 8, second("stripe", "{lookup_key: k, meter: m}"), `14:36: meter "m" is already given in line 8`},
		{"a lookup_key twice", 8, second("stripe", "{lookup_key: l}"), `14:26: lookup_key "l" is already given in line 8`},
		{"the default meter of another", 8,
			strings.Replace(second("id", "other"), "meter: m", "meter: other_overage", 1),
			`9:9: meter "other_overage" is already given in line 8`},
		{"an action twice", 5, `    actions: [a, b, a]`, `5:21: action "a" is already given in line 5`},
		{"a reserved action", 5, `    actions: [a, adjustment]`,
			`5:18: action "adjustment" is reserved for corrections: name it otherwise`},
		{"a plan twice", 13, "    allowances: {}\n  - {id: basic, name: B, price: 1, allowances: {}}",
			`14:10: plan "basic" is already given in line 10`},
		{"an allowance for no agent", 13, `    allowances: {inbox: 5, meeting: 5}`, `13:28: no agent "meeting" in this file`},
	})
}

func TestSyntaxThatACatalogueDoesNotNeedIsRefused(t *testing.T) {
	t.Parallel()
	testRefusals(t, []refusal{
		{"an anchor", 5, `    actions: &all [a]`, `5:14: anchors and aliases are not supported: write the value out`},
		{"an anchor on text", 4, `    noun: &n email`, `4:11: anchors and aliases are not supported: write the value out`},
		{"an alias", 7, `    unit_price: *n`, `7:17: anchors and aliases are not supported: write the value out`},
		{"an anchor on an agent", 3, "  - &a\n    id: inbox", `3:5: anchors and aliases are not supported: write the value out`},
		{"a merge key", 4, "    <<: {}\n    noun: email", `4:5: merge keys are not supported: write the fields out`},
		{"a tag", 10, `  - id: !!str 12`, `10:9: tags are not supported: write the value without !!str`},
		{"a complex key", 13, "    allowances:\n      ? inbox\n      : 5", `14:7: complex keys are not supported: write name: value`},
		{"a directive", 1, "%YAML 1.2\n---\ncurrency: usd", `1:1: directives are not supported: leave the line out`},
		{"several documents", 9, "---\nplans:", `9:1: several documents in one file: a catalogue is one document`},
		{"a tab", 4, "\tnoun: email", `4:1: a tab: use spaces`},
		{"a tab behind a value", 4, "    noun: email\t# x", `4:16: a tab: use spaces`},
		{"a control character", 4, "    noun: ema\x01il", `4:14: control character U+0001`},
		{"a lone carriage return", 4, "    noun: ema\ril", `4:14: control character U+000D`},
		{"another encoding", 4, "    noun: \xe9mail", `4:11: byte 0xe9 is not UTF-8: save the file as UTF-8`},
		{"a byte order mark", 1, "\ufeffcurrency: usd", `1:1: a byte order mark: save the file as UTF-8 without one`},
		{"columns are characters", 11, "    name: \"é\u0301\", x", `11:15: not YAML: value is not allowed in this context. map key-value is pre-defined`},
		{"no YAML", 5, `    actions: [email_processed`, `6:5: not YAML: ',' or ']' must be specified`},
		{"bad indentation", 4, `      noun: email`, `3:9: not YAML: mapping value is not allowed in this context`},
	})
}

func TestAFileWithoutACatalogueIsRefused(t *testing.T) {
	t.Parallel()
	const empty = "1:1: the file is empty: a catalogue takes currency, agents, plans"
	for text, want := range map[string]string{
		"":                                  empty,
		"\n\n":                              empty,
		"# nothing\n":                       empty,
		"---\n":                             empty,
		"[]":                                "1:1: fields are expected here: a catalogue takes currency, agents, plans",
		"usd":                               "1:1: fields are expected here: a catalogue takes currency, agents, plans",
		"{}":                                `1:1: field "currency" is missing (a catalogue takes currency, agents, plans)`,
		"currency: usd\nagents: []\n":       "2:9: agents is empty: a catalogue has at least one agent",
		"currency: usd\n":                   `1:1: field "agents" is missing (a catalogue takes currency, agents, plans)`,
		"a: 1\n---\nb: 2\n":                 "2:1: several documents in one file: a catalogue is one document",
		strings.Repeat("[", 50):             "1:50: not YAML: sequence end token ']' not found",
		"currency: usd\nagents:\nplans: []": "2:1: agents must be a list",
	} {
		if got := refusalOf(t, text); got != want {
			t.Errorf("%q\n got %s\nwant %s", text, got, want)
		}
	}
}

type refusal struct {
	name string
	line int    // of smallCatalogue
	by   string // what stands there instead
	want string
}

func testRefusals(t *testing.T, rows []refusal) {
	t.Helper()
	for _, row := range rows {
		if got := refusalOf(t, spoiled(row.line, row.by)); got != row.want {
			t.Errorf("%s: %s\n got %s\nwant %s", row.name, row.by, got, row.want)
		}
	}
}

func refusalOf(t *testing.T, text string) string {
	t.Helper()
	_, err := ParseCatalogue([]byte(text))
	var at *PositionError
	if err != nil && !errors.As(err, &at) {
		t.Errorf("%q: %v is a %T", text, err, err)
	}
	if err == nil {
		return "no error"
	}
	return err.Error()
}

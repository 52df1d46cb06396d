package billing

import (
	"fmt"
	"runtime"
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

func TestUnknownOrMissingFieldsAreRefusedWithTheirPosition(t *testing.T) {
	t.Parallel()
	testRefusals(t, []refusal{
		{"unknown in an agent", 7, `    unti_price: 0.02`,
			`7:5: unknown field "unti_price": a catalogue has currency, agents (each with`},
		{"unknown at the top", 9, `plan:`, `9:1: unknown field "plan": a catalogue has currency, agents (each with`},
		{"unknown in a plan", 12, `    Price: 29`, `12:5: unknown field "Price": a catalogue has currency, agents (each with`},
		{"unknown in stripe", 8, `    stripe: {metre: m}`, `8:14: unknown field "metre": a catalogue has currency, agents (each with`},
		{"missing in an agent", 4, `    # noun: email`,
			`3:7: agents[0].noun: missing or empty`},
		{"missing in a plan", 13, ``, `10:7: plans[0].allowances: missing: write the units of each agent, as {inbox: 500}, or {}`},
		{"missing at the top", 1, `---`, `1:1: currency: "" is not a code of three lower-case letters, as usd`},
		{"missing between braces", 13, "    allowances: {inbox: 500}\n  - {id: x, name: z, price: 1}",
			`14:5: plans[1].allowances: missing: write the units of each agent, as {inbox: 500}, or {}`},
		{"given twice", 4, "    noun: email\n    noun: mail", `5:5: mapping key "noun" already defined at [4:5]`},
		{"given twice at the top", 1, "currency: usd\ncurrency: eur", `2:1: mapping key "currency" already defined at [1:1]`},
		{"allowance given twice", 13, `    allowances: {inbox: 500, "inbox": 600}`,
			`13:30: mapping key "inbox" already defined at [13:18]`},
		{"a list for fields", 8, `    stripe: [m, l]`, `8:13: sequence was used where mapping is expected: a catalogue has currency, agents (each with`},
		{"text for an agent", 3, "  - inbox\n  - id: inbox",
			`3:5: string was used where mapping is expected: a catalogue has currency, agents (each with`},
		{"fields for a list", 5, `    actions: {email_processed: 1}`, `5:14: mapping was used where sequence is expected: a catalogue has currency, agents (each with`},
		{"nothing for a list", 5, `    actions:`, `5:13: agents[0].actions: the value is missing`},
		{"text for a list", 5, `    actions: email_processed`, `5:14: string was used where sequence is expected: a catalogue has currency, agents (each with`},
		{"an empty list of actions", 5, `    actions: []`, `5:14: agents[0].actions: missing or empty: an agent sends at least one`},
		{"a list for allowances", 13, `    allowances: [inbox]`, `13:17: sequence was used where mapping is expected: a catalogue has currency, agents (each with`},
		{"an empty list item", 5, "    actions:\n      -\n      - email_processed", `6:8: agents[0].actions[0]: the value is missing`},
		{"given twice beside another problem", 7, "    unit_price: -1\n    noun: email", `8:5: mapping key "noun" already defined at [4:5]`},
	})
}

func TestAmbiguousTextIsRefusedWithItsPosition(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", 128)
	testRefusals(t, []refusal{
		{"no text", 4, `    noun:`, `4:10: agents[0].noun: the value is missing`},
		{"empty text", 11, `    name: ""`, `11:11: plans[0].name: missing or empty`},
		{"a space", 11, `    name: " "`, `11:11: plans[0].name: " " begins or ends with a space`},
		{"a number", 10, `  - id: 12`, `10:9: plans[0].id: must be text: put a word or number in quotes, as "12"`},
		{"a large number", 10, `  - id: 123456789012345678901234567890`,
			`10:9: plans[0].id: 123456789012345678901234567890 is not clear: put text in quotes, as "123456789012345678901234567890"`},
		{"a fraction", 11, `    name: 1.5`, `11:11: plans[0].name: must be text: put a word or number in quotes, as "1.5"`},
		{"an exponent", 11, `    name: 1e3`, `11:11: plans[0].name: 1e3 is not clear: put text in quotes, as "1e3"`},
		{"a date", 11, `    name: 2026-01-01`,
			`11:11: plans[0].name: 2026-01-01 is not clear: put text in quotes, as "2026-01-01"`},
		{"a boolean", 4, `    noun: true`, `4:11: agents[0].noun: true is neither text nor a number: put text in quotes, as "true"`},
		{"an old boolean", 4, `    noun: No`, `4:11: agents[0].noun: No is not clear: put text in quotes, as "No"`},
		{"an old boolean among others", 5, `    actions: [sent, on]`,
			`5:21: agents[0].actions[1]: on is not clear: put text in quotes, as "on"`},
		{"an old boolean as a field", 13, `    allowances: {y: 500}`,
			`13:18: plans[0].allowances.y: y is not clear: put text in quotes, as "y"`},
		{"null", 4, `    noun: null`, `4:11: agents[0].noun: null is not allowed: only an allowance may be null, for unlimited; put text in quotes, as "null"`},
		{"null as a field", 13, `    allowances: {null: 500}`,
			`13:18: plans[0].allowances.null: must be text: put a word or number in quotes, as "null"`},
		{"infinity", 4, `    noun: .inf`, `4:11: agents[0].noun: .inf is neither text nor a number: put text in quotes, as ".inf"`},
		{"fields for text", 4, "    noun:\n      one: email", `5:10: agents[0].noun: must be text`},
		{"a list for text", 4, `    noun: [email]`, `4:11: agents[0].noun: must be text`},
		{"a block", 4, "    noun: |\n      email", `4:11: agents[0].noun: Literal is not allowed: anchors, aliases,`},
		{"two lines", 11, "    name: Inbox\n      Pilot", `11:11: plans[0].name: text must be on one line`},
		{"two lines in quotes", 11, "    name: 'Inbox\n      Pilot'", `11:11: plans[0].name: text must be on one line`},
		{"an escaped control character", 10, `  - id: "a\u0007"`, `10:9: plans[0].id: "a\a" has a character that cannot be printed`},
		{"an escaped line break", 10, `  - id: "a\nb"`, `10:9: plans[0].id: "a\nb" has a character that cannot be printed`},
		{"an invisible character", 10, "  - id: a\u200bb", `10:9: plans[0].id: "a\u200bb" has a character that cannot be printed`},
		{"more than 255 bytes", 10, `  - id: ` + long, `10:9: text of 256 bytes; at most 255 are allowed`},
	})
}

func TestAmbiguousNumbersAreRefusedWithTheirPosition(t *testing.T) {
	t.Parallel()
	var rows []refusal
	for _, s := range []string{
		`"0.02"`, `'1'`, `1e3`, `1_000`, `0x10`, `010`, `0o7`, `+1`, `.5`, `5.`, `$1`, `1 000`, `.nan`, `.inf`, `-.inf`, `NaN`,
		`null`, `true`, `yes`, `[1]`, `1.2.3`, `--1`, `०`,
	} {
		rows = append(rows, refusal{"price " + s, 7, `    unit_price: ` + s, `7:17: agents[0].unit_price: `})
	}
	for _, s := range []string{
		`"500"`, `'500'`, `500.0`, `5e2`, `1_000`, `0x10`, `0500`, `0o7`, `0b1`, `+5`, `-5`, `-1`, `.inf`, `~`, `Null`, `true`, `[5]`, `'null'`,
	} {
		rows = append(rows, refusal{"allowance " + s, 13, `    allowances: {inbox: ` + s + `}`, `13:25: plans[0].allowances.inbox: `})
	}
	testRefusals(t, append(rows, []refusal{
		{"no price", 7, `    unit_price:`, `7:16: agents[0].unit_price: the value is missing`},
		{"a negative price", 12, `    price: -29.50`, `12:12: plans[0].price: "-29.50" is not a number from 0 in plain digits`},
		{"minus zero", 12, `    price: -0`, `12:12: plans[0].price: "-0" is not a number from 0 in plain digits`},
		{"13 decimals", 7, `    unit_price: 0.1234567890123`,
			`7:17: agents[0].unit_price: "0.1234567890123" is not a number from 0 in plain digits`},
		{"13 digits", 12, `    price: 1234567890123`, `12:12: plans[0].price: "1234567890123" is not a number from 0 in plain digits`},
		{"no allowance", 13, "    allowances:\n      inbox:", `14:14: plans[0].allowances.inbox: the value is missing`},
		{"no allowance between braces", 13, `    allowances: {inbox}`, `13:19: plans[0].allowances: the value is missing`},
		{"a thousands separator", 13, `    allowances: {inbox: 1,000}`, `13:28: plans[0].allowances: the value is missing`},
		{"above 2^53", 13, `    allowances: {inbox: 9007199254740993}`,
			`13:25: plans[0].allowances.inbox: "9007199254740993" is not a whole number from 0 to 9007199254740992 in plain digits and without quotes, as 500, or null`},
		{"above 2^64", 13, `    allowances: {inbox: 99999999999999999999}`,
			`13:25: plans[0].allowances.inbox: 99999999999999999999 is not clear: put text in quotes`},
	}...))
}

func TestConflictingNamesAreRefusedWithTheirPosition(t *testing.T) {
	t.Parallel()
	second := func(field, value string) string {
		s := map[string]string{"id": "second", "limit_key": "seconds", "stripe": "{}", field: value}
		return "    stripe: {meter: m, lookup_key: l}\n  - id: " + s["id"] + "\n    noun: thing\n    actions: [a]\n    limit_key: " +
			s["limit_key"] + "\n    unit_price: 1\n    stripe: " + s["stripe"]
	}
	testRefusals(t, []refusal{
		{"a currency of another form", 1, `currency: USD`, `1:11: currency: "USD" is not a code of three lower-case letters, as usd`},
		{"a currency without cents", 1, `currency: jpy`,
			`1:11: currency: "jpy" has no cents, and costs are shown in cents`},
		{"an agent's form", 3, `  - id: Inbox`,
			`3:9: agents[0].id: "Inbox" is not a lower-case letter followed by at most 31 of a-z, 0-9, _ and -`},
		{"an agent twice", 8, second("id", "inbox"), `9:9: agents[1].id: agent "inbox" is already used by agents[0].id`},
		{"a limit_key twice", 8, second("limit_key", "emails_per_month"),
			`12:16: agents[1].limit_key: limit_key "emails_per_month" is already used by agents[0].limit_key`},
		{"a meter twice", 8, second("stripe", "{lookup_key: k, meter: m}"), `14:36: agents[1].stripe.meter: meter "m" is already used by agents[0].stripe.meter`},
		{"a lookup_key twice", 8, second("stripe", "{lookup_key: l}"), `14:26: agents[1].stripe.lookup_key: lookup_key "l" is already used by agents[0].stripe.lookup_key`},
		{"the default meter of another", 8,
			strings.Replace(second("id", "other"), "meter: m", "meter: other_overage", 1),
			`9:9: agents[1].id: meter "other_overage" is already used by agents[0].stripe.meter`},
		{"an action twice", 5, `    actions: [a, b, a]`, `5:21: agents[0].actions[2]: agents[0] action "a" is already used by agents[0].actions[0]`},
		{"a reserved action", 5, `    actions: [a, adjustment]`,
			`5:18: agents[0].actions[1]: "adjustment" is reserved for corrections: choose another name`},
		{"a plan twice", 13, "    allowances: {}\n  - {id: basic, name: B, price: 1, allowances: {}}",
			`14:10: plans[1].id: plan "basic" is already used by plans[0].id`},
		{"an allowance for no agent", 13, `    allowances: {inbox: 5, meeting: 5}`, `13:37: plans[0].allowances.meeting: no agent "meeting" in this file`},
	})
}

func TestSyntaxThatACatalogueDoesNotNeedIsRefused(t *testing.T) {
	t.Parallel()
	testRefusals(t, []refusal{
		{"an anchor", 5, `    actions: &all [a]`, `5:14: agents[0].actions: Anchor is not allowed: anchors, aliases,`},
		{"an anchor on text", 4, `    noun: &n email`, `4:11: agents[0].noun: Anchor is not allowed: anchors, aliases,`},
		{"an alias", 7, `    unit_price: *n`, `7:17: agents[0].unit_price: Alias is not allowed: anchors, aliases,`},
		{"an anchor on an agent", 3, "  - &a\n    id: inbox", `3:5: agents[0]: Anchor is not allowed: anchors, aliases,`},
		{"a merge key", 4, "    <<: {}\n    noun: email", `4:5: agents[0].<<: MergeKey is not allowed: anchors, aliases,`},
		{"a tag", 10, `  - id: !!str 12`, `10:9: plans[0].id: Tag is not allowed: anchors, aliases,`},
		{"a complex key", 13, "    allowances:\n      ? inbox\n      : 5", `14:7: plans[0].allowances.inbox: MappingKey is not allowed: anchors, aliases,`},
		{"a directive", 1, "%YAML 1.2\n---\ncurrency: usd", `3:9: several documents or directives in one file: a catalogue is one document`},
		{"several documents", 9, "---\nplans:", `10:6: several documents or directives in one file: a catalogue is one document`},
		{"a tab", 4, "\tnoun: email", `4:1: character U+0009 is not allowed: save the file as UTF-8`},
		{"a tab behind a value", 4, "    noun: email\t# x", `4:16: character U+0009 is not allowed: save the file as UTF-8`},
		{"a control character", 4, "    noun: ema\x01il", `4:14: character U+0001 is not allowed: save the file as UTF-8`},
		{"a lone carriage return", 4, "    noun: ema\ril", `4:14: character U+000D is not allowed: save the file as UTF-8`},
		{"another encoding", 4, "    noun: \xe9mail", `4:11: character U+FFFD is not allowed: save the file as UTF-8`},
		{"a byte order mark", 1, "\ufeffcurrency: usd", `1:1: character U+FEFF is not allowed: save the file as UTF-8`},
		{"columns are characters", 11, "    name: \"é\u0301\", x", `11:15: value is not allowed in this context. map key-value is pre-defined`},
		{"no YAML", 5, `    actions: [email_processed`, `6:5: ',' or ']' must be specified`},
		{"bad indentation", 4, `      noun: email`, `3:9: mapping value is not allowed in this context`},
	})
}

func TestAFileWithoutACatalogueIsRefused(t *testing.T) {
	t.Parallel()
	const empty = "1:1: the file is empty: a catalogue has currency, agents"
	for text, want := range map[string]string{
		"":                                  empty,
		"\n\n":                              empty,
		"# nothing\n":                       empty,
		"---\n":                             empty,
		"[]":                                `1:1: sequence was used where mapping is expected: a catalogue has currency, agents (each with`,
		"usd":                               `1:1: string was used where mapping is expected: a catalogue has currency, agents (each with`,
		"{}":                                `1:1: currency: "" is not a code of three lower-case letters, as usd`,
		"currency: usd\nagents: []\n":       `2:9: agents: missing or empty: a catalogue has at least one agent`,
		"currency: usd\n":                   `1:1: agents: missing or empty: a catalogue has at least one agent`,
		"a: 1\n---\nb: 2\n":                 `3:2: several documents or directives in one file: a catalogue is one document`,
		strings.Repeat("[", 50):             `1:17: nested too deeply: a catalogue has 4 levels`,
		"currency: usd\nagents:\nplans: []": `2:8: agents: the value is missing`,
	} {
		if got := refusalOf(t, text); !strings.HasPrefix(got, want) {
			t.Errorf("%q\n got %s\nwant %s", text, got, want)
		}
	}
}

type refusal struct {
	name string
	line int    // of smallCatalogue
	by   string // its replacement
	want string // what the error begins with
}

func testRefusals(t *testing.T, rows []refusal) {
	t.Helper()
	for _, row := range rows {
		if got := refusalOf(t, spoiled(row.line, row.by)); !strings.HasPrefix(got, row.want) {
			t.Errorf("%s: %s\n got %s\nwant %s", row.name, row.by, got, row.want)
		}
	}
}

func refusalOf(t *testing.T, text string) string {
	t.Helper()
	_, err := ParseCatalogue([]byte(text))
	if err == nil {
		return "no error"
	}
	return err.Error()
}

// The parser's memory and time grow with the square of some of these. They must
// be refused before it sees them, or cost little.
func TestHostileFilesCostLittle(t *testing.T) {
	r := strings.Repeat
	const n = MaxCatalogueBytes
	var indented, flat strings.Builder
	for i := 0; indented.Len() < n-1000; i++ {
		indented.WriteString(r(" ", i) + "a:\n")
	}
	for i := 0; flat.Len() < n-10; i++ {
		fmt.Fprintf(&flat, "a%d: b\n", i)
	}
	var before, after runtime.MemStats
	for name, text := range map[string]string{
		"brackets":          r("[", n),
		"closed brackets":   r("[", n/2) + r("]", n/2),
		"braces":            r("{", n),
		"nested maps":       r("{a: ", n/4),
		"nested lists":      r("- ", n/2),
		"lists of maps":     r("- a:\n  ", n/8),
		"complex keys":      r("? ", n/2),
		"keys in a line":    r("a: ", n/3),
		"tags":              r("!a ", n/3),
		"anchors":           r("&a ", n/3),
		"aliases":           r("*a ", n/3),
		"an alias bomb":     "a: &a [x]\n" + r("b: [*a, *a, *a, *a]\n", n/24),
		"commas":            "[" + r(",", n-1),
		"colons":            r(": ", n/2),
		"documents":         r("---\n", n/4),
		"directives":        r("%a\n", n/3),
		"blocks":            r("a: |\n", n/5),
		"growing indents":   indented.String(),
		"many fields":       flat.String(),
		"a long text":       "currency: '" + r("x", n-12) + "'",
		"a long line":       "currency: " + r("x ", n/2-5),
		"far too large":     r("[", 64<<20),
		"one byte too much": r("#", n+1),
	} {
		runtime.ReadMemStats(&before)
		_, err := ParseCatalogue([]byte(text))
		runtime.ReadMemStats(&after)
		if err == nil || len(err.Error()) > 1000 || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %.200v", name, err)
		}
		if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 1<<30 {
			t.Errorf("%s: allocated %d MiB", name, allocated>>20)
		}
	}
}

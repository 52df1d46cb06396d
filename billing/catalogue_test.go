package billing

import (
	"fmt"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/shopspring/decimal"
	"pgregory.net/rapid"

	"odometer"
)

func TestTheSampleIsWhatTheContractSays(t *testing.T) {
	t.Parallel()
	price := decimal.RequireFromString
	agent := func(id, noun, action, key, unitPrice string) odometer.Agent {
		return odometer.Agent{
			ID: id, Noun: noun, Actions: []string{action}, LimitKey: key, UnitPrice: price(unitPrice),
			Meter: id + "_overage", LookupKey: id + "_overage",
		}
	}
	plan := func(id, name, dollars string, limits map[string]int64) odometer.Plan {
		p := odometer.Plan{ID: id, Name: name, Price: price(dollars), Allowances: map[string]odometer.Allowance{}}
		for agent, limit := range limits {
			p.Allowances[agent] = odometer.Allowance{Limit: limit}
		}
		return p
	}
	want := odometer.Catalogue{
		Currency: "usd",
		Agents: []odometer.Agent{
			agent("inbox", "email", "email_processed", "emails_per_month", "0.02"),
			agent("invoice", "invoice", "invoice_detected", "invoices_per_month", "0.10"),
			agent("meeting", "meeting", "meeting_prep", "meetings_per_month", "0.15"),
		},
		Plans: []odometer.Plan{
			plan("price_inboxpilot_monthly", "InboxPilot", "29", map[string]int64{"inbox": 500}),
			plan("price_invoicepilot_monthly", "InvoicePilot", "19", map[string]int64{"invoice": 50}),
			plan("price_meetingpilot_monthly", "MeetingPilot", "19", map[string]int64{"meeting": 30}),
			plan("price_bundle_monthly", "FounderPilot Bundle", "49", map[string]int64{"inbox": 500, "invoice": 50, "meeting": 30}),
		},
	}
	if diff := cmp.Diff(want, SampleCatalogue()); diff != "" {
		t.Error(diff)
	}
}

func TestTheFormattedSampleIsTheSampleWithoutComments(t *testing.T) {
	t.Parallel()
	var bare []string
	for line := range strings.Lines(SampleYAML) {
		text, _, _ := strings.Cut(line, "#")
		text = strings.TrimRight(text, " \n")
		if text != "" {
			bare = append(bare, text)
		}
	}
	if diff := cmp.Diff(strings.Join(bare, "\n")+"\n", string(formatted(t, SampleCatalogue()))); diff != "" {
		t.Error(diff)
	}
}

func TestWhatIsUnusualButClearIsRead(t *testing.T) {
	t.Parallel()
	want, err := ParseCatalogue([]byte(smallCatalogue))
	if err != nil {
		t.Fatal(err)
	}
	agents, plans, _ := strings.Cut(smallCatalogue, "plans:")
	for name, text := range map[string]string{
		"Windows line ends":   strings.ReplaceAll(smallCatalogue, "\n", "\r\n"),
		"document marks":      "---\n" + smallCatalogue + "...\n",
		"other indentation":   strings.ReplaceAll(smallCatalogue, "  - ", "- ") + "",
		"quotes":              strings.ReplaceAll(smallCatalogue, "inbox", `"inbox"`),
		"comments everywhere": "# c\n\n" + strings.ReplaceAll(smallCatalogue, "\n", " # c\n  # d\n"),
		"no last line end":    strings.TrimSuffix(smallCatalogue, "\n"),
		"plans first":         "plans:" + plans + agents,
		"more decimals":       strings.ReplaceAll(smallCatalogue, "0.02", "0.020000000000"),
	} {
		if name == "other indentation" {
			text = strings.ReplaceAll(text, "    ", "  ")
		}
		got, err := ParseCatalogue([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
}

func TestPricesAreReadWithoutRounding(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"0", "0.1", "0.000000000001", "999999999999.999999999999", "123456789012.123456789012"} {
		c, err := ParseCatalogue([]byte(spoiled(7, "    unit_price: "+s)))
		if err != nil {
			t.Errorf("%s: %v", s, err)
			continue
		}
		if got := c.Agents[0].UnitPrice.String(); got != s {
			t.Errorf("%s was read as %s", s, got)
		}
	}
}

func TestAPlanMayBeUnlimitedAndTheListEmpty(t *testing.T) {
	t.Parallel()
	c, err := ParseCatalogue([]byte(spoiled(13, "    allowances: {inbox: null}")))
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Plans[0].Allowances["inbox"]; got != (odometer.Allowance{Unlimited: true}) {
		t.Errorf("null was read as %+v", got)
	}
	for _, plans := range []string{"plans: []\n", ""} {
		agents, _, _ := strings.Cut(smallCatalogue, "plans:")
		text := agents + plans
		c, err := ParseCatalogue([]byte(text))
		if err != nil || len(c.Plans) != 0 {
			t.Errorf("%q: %d plans, %v", plans, len(c.Plans), err)
		}
	}
}

func FuzzParseCatalogue(f *testing.F) {
	f.Add([]byte(SampleYAML))
	f.Add([]byte(smallCatalogue))
	f.Add([]byte("currency: &a usd\nagents: [{<<: *a, ? x : !!int 1}]\n--- |\n  x\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := ParseCatalogue(text)
		if err != nil {
			return
		}
		again, err := ParseCatalogue(formatted(t, c))
		if err != nil {
			t.Fatalf("%v in\n%s", err, formatted(t, c))
		}
		if diff := cmp.Diff(c, again, cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
	})
}

// visible is what a catalogue's text may consist of.
var visible = []*unicode.RangeTable{unicode.L, unicode.M, unicode.N, unicode.P, unicode.S, {
	R16: []unicode.Range16{{Lo: ' ', Hi: ' ', Stride: 1}}, LatinOffset: 1,
}}

// anyText draws text that a catalogue may hold, and more often than chance
// would what YAML could take for something else.
func anyText() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.SampledFrom([]string{
			"yes", "No", "on", "y", "null", "Null", "~", "true", "False", ".inf", ".nan", "0", "-1", "1_000", "0x10", "1e3", "1.5",
			"2026-01-01", "12:30", "=", "<<", "&a", "*a", "!a", "!!str", "|", ">", "%", "@", "`", "?", "-", "--- a", "...", ":", "a: b",
			"a:", ":a", "a #b", "#a", "a, b", "[a]", "{a}", `"`, `'`, `\`, `\n`, `a"b'c\d`, "''", "don't", "é", "日本", "a-b", "a  b",
		}),
		rapid.StringMatching(`[A-Za-z_][A-Za-z0-9_./-]{0,20}( [a-z0-9]{1,5})?`),
		rapid.Custom(func(t *rapid.T) string {
			s := strings.TrimSpace(rapid.StringOfN(rapid.RuneFrom(nil, visible...), 1, 60, maxTextBytes-2).Draw(t, "text"))
			if s == "" {
				return "x"
			}
			return s
		}),
	)
}

func anyPrice() *rapid.Generator[decimal.Decimal] {
	return rapid.Custom(func(t *rapid.T) decimal.Decimal {
		return decimal.New(rapid.Int64Range(0, 999_999_999_999).Draw(t, "digits"), -rapid.Int32Range(0, maxPriceDigits).Draw(t, "decimals"))
	})
}

func anyCatalogue() *rapid.Generator[odometer.Catalogue] {
	return rapid.Custom(func(t *rapid.T) odometer.Catalogue {
		c := odometer.Catalogue{Currency: rapid.SampledFrom([]string{"usd", "eur", "try", "nok"}).Draw(t, "currency")}
		ids := rapid.SliceOfNDistinct(rapid.OneOf(
			rapid.SampledFrom([]string{"y", "no", "null", "true", "off", "e1", "a--_"}),
			rapid.StringMatching(`[a-z][a-z0-9_-]{0,31}`),
		), 1, 4, rapid.ID).Draw(t, "agents")
		limitKeys := rapid.SliceOfNDistinct(anyText(), len(ids), len(ids), rapid.ID).Draw(t, "limit keys")
		for i, id := range ids {
			a := odometer.Agent{
				ID: id, Noun: anyText().Draw(t, "noun"), LimitKey: limitKeys[i], UnitPrice: anyPrice().Draw(t, "unit price"),
				Meter: defaultMeter(id), LookupKey: defaultMeter(id),
			}
			a.Actions = rapid.SliceOfNDistinct(anyText(), 1, 3, rapid.ID).Draw(t, "actions")
			if rapid.Bool().Draw(t, "meter") {
				a.Meter = fmt.Sprintf("%s %d", anyText().Draw(t, "meter"), i)
			}
			if rapid.Bool().Draw(t, "lookup key") {
				a.LookupKey = fmt.Sprintf("%d:", i)
			}
			c.Agents = append(c.Agents, a)
		}
		for _, id := range rapid.SliceOfNDistinct(anyText(), 0, 3, rapid.ID).Draw(t, "plans") {
			p := odometer.Plan{ID: id, Name: anyText().Draw(t, "name"), Price: anyPrice().Draw(t, "price")}
			p.Allowances = rapid.MapOf(rapid.SampledFrom(ids), rapid.OneOf(
				rapid.Just(odometer.Allowance{Unlimited: true}),
				rapid.Custom(func(t *rapid.T) odometer.Allowance {
					return odometer.Allowance{Limit: rapid.Int64Range(0, maxLimit).Draw(t, "limit")}
				}),
			)).Draw(t, "allowances")
			c.Plans = append(c.Plans, p)
		}
		return c
	})
}

func TestFormattedCataloguesAreParsedUnchanged(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := anyCatalogue().Draw(t, "catalogue")
		text := formatted(t, c)
		got, err := ParseCatalogue(text)
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if diff := cmp.Diff(c, got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("%s in\n%s", diff, text)
		}
		if again := string(formatted(t, got)); again != string(text) {
			t.Fatalf("formatted again:\n%s", cmp.Diff(string(text), again))
		}
	})
}

// formatted fails a test or a property.
func formatted(t interface{ Fatal(...any) }, c odometer.Catalogue) []byte {
	text, err := FormatCatalogue(c)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestOnlyStripeNamesOtherThanTheDefaultAreWritten(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ meter, lookupKey, want string }{
		{"inbox_overage", "inbox_overage", ""},
		{"m", "inbox_overage", "\n    stripe: {meter: m}"},
		{"inbox_overage", "l", "\n    stripe: {lookup_key: l}"},
		{"m", "l", "\n    stripe: {meter: m, lookup_key: l}"},
	} {
		c := SampleCatalogue()
		c.Agents[0].Meter, c.Agents[0].LookupKey = row.meter, row.lookupKey
		_, after, _ := strings.Cut(string(formatted(t, c)), "unit_price: 0.02")
		if got, _, _ := strings.Cut(after, "\n  - id: invoice"); got != row.want {
			t.Errorf("meter %s, lookup key %s: %q, not %q", row.meter, row.lookupKey, got, row.want)
		}
	}
}

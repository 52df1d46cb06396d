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

func TestAFormattedCatalogueIsReadAsItWas(t *testing.T) {
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

func TestOnlyWhatIsNotTheDefaultIsWrittenForStripe(t *testing.T) {
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

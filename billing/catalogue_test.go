package billing

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/shopspring/decimal"

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

func TestTheSampleWithoutItsCommentsIsHowACatalogueIsFormatted(t *testing.T) {
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
	for name, text := range map[string]string{
		"Windows line ends":   strings.ReplaceAll(smallCatalogue, "\n", "\r\n"),
		"document marks":      "---\n" + smallCatalogue + "...\n",
		"other indentation":   strings.ReplaceAll(smallCatalogue, "  - ", "- ") + "",
		"quotes":              strings.ReplaceAll(smallCatalogue, "inbox", `"inbox"`),
		"comments everywhere": "# c\n\n" + strings.ReplaceAll(smallCatalogue, "\n", " # c\n  # d\n"),
		"no last line end":    strings.TrimSuffix(smallCatalogue, "\n"),
		"plans first":         smallCatalogue[strings.Index(smallCatalogue, "plans:"):] + smallCatalogue[:strings.Index(smallCatalogue, "plans:")],
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
		text := smallCatalogue[:strings.Index(smallCatalogue, "plans:")] + plans
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
		if len(text) > 4096 {
			return // the parser's time grows with the square of the depth
		}
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

package billing

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/shopspring/decimal"

	"odometer"
)

// FormatCatalogue writes a catalogue as ParseCatalogue reads it, in the layout
// of the sample. Equal catalogues have equal texts.
func FormatCatalogue(c odometer.Catalogue) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "currency: %s\n\nagents:\n", scalar(c.Currency))
	for i, a := range c.Agents {
		if i > 0 {
			b.WriteByte('\n')
		}
		formatAgent(&b, a)
	}
	if len(c.Plans) == 0 {
		b.WriteString("\nplans: []\n")
		return b.Bytes()
	}
	b.WriteString("\nplans:\n")
	for i, p := range c.Plans {
		if i > 0 {
			b.WriteByte('\n')
		}
		formatPlan(&b, p, c.Agents)
	}
	return b.Bytes()
}

func formatAgent(b *bytes.Buffer, a odometer.Agent) {
	actions := make([]string, len(a.Actions))
	for i, action := range a.Actions {
		actions[i] = scalar(action)
	}
	fmt.Fprintf(b, "  - id: %s\n", scalar(a.ID))
	fmt.Fprintf(b, "    noun: %s\n", scalar(a.Noun))
	fmt.Fprintf(b, "    actions: [%s]\n", strings.Join(actions, ", "))
	fmt.Fprintf(b, "    limit_key: %s\n", scalar(a.LimitKey))
	fmt.Fprintf(b, "    unit_price: %s\n", money(a.UnitPrice))
	var stripe []string
	if a.Meter != defaultMeter(a.ID) {
		stripe = append(stripe, "meter: "+scalar(a.Meter))
	}
	if a.LookupKey != defaultMeter(a.ID) {
		stripe = append(stripe, "lookup_key: "+scalar(a.LookupKey))
	}
	if len(stripe) > 0 {
		fmt.Fprintf(b, "    stripe: {%s}\n", strings.Join(stripe, ", "))
	}
}

func formatPlan(b *bytes.Buffer, p odometer.Plan, agents []odometer.Agent) {
	var allowances []string
	for _, a := range agents {
		switch allowance, ok := p.Allowances[a.ID]; {
		case ok && allowance.Unlimited:
			allowances = append(allowances, scalar(a.ID)+": null")
		case ok:
			allowances = append(allowances, scalar(a.ID)+": "+strconv.FormatInt(allowance.Limit, 10))
		}
	}
	fmt.Fprintf(b, "  - id: %s\n", scalar(p.ID))
	fmt.Fprintf(b, "    name: %s\n", scalar(p.Name))
	fmt.Fprintf(b, "    price: %s\n", money(p.Price))
	fmt.Fprintf(b, "    allowances: {%s}\n", strings.Join(allowances, ", "))
}

// money writes 29, 0.10 and 0.0125: never one decimal alone.
func money(d decimal.Decimal) string {
	if s := d.String(); len(s)-strings.IndexByte(s, '.') != 2 || !strings.Contains(s, ".") {
		return s
	}
	return d.StringFixed(2)
}

// Text that is a string to every YAML reader, in blocks and between brackets.
var plainForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_./-]*( [A-Za-z0-9_./-]+)*$`)

var otherWords = []string{"null", "true", "false"}

func scalar(s string) string {
	if plainForm.MatchString(s) && !isAmbiguous(s) && !slices.Contains(otherWords, strings.ToLower(s)) {
		return s
	}
	return strconv.Quote(s)
}

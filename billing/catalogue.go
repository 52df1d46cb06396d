package billing

import (
	_ "embed"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"

	"odometer"
)

// SampleYAML is the catalogue that ships with the program. Its comments are
// the reference of the file's schema.
//
//go:embed catalogue_sample.yaml
var SampleYAML string

// SampleCatalogue is SampleYAML, parsed.
func SampleCatalogue() odometer.Catalogue {
	c, err := ParseCatalogue([]byte(SampleYAML))
	if err != nil {
		panic("the embedded sample catalogue is broken: catalogue_sample.yaml:" + err.Error())
	}
	return c
}

// The file's schema. Every field but plans and stripe is required.
type (
	catalogueFile struct {
		Currency yamlText    `yaml:"currency"`
		Agents   []agentFile `yaml:"agents"`
		Plans    []planFile  `yaml:"plans"`
	}
	agentFile struct {
		ID        yamlText   `yaml:"id"`
		Noun      yamlText   `yaml:"noun"`
		Actions   []yamlText `yaml:"actions,flow"`
		LimitKey  yamlText   `yaml:"limit_key"`
		UnitPrice yamlPrice  `yaml:"unit_price"`
		Stripe    stripeFile `yaml:"stripe,omitempty,flow"`
	}
	stripeFile struct {
		Meter     *yamlText `yaml:"meter,omitempty"`
		LookupKey *yamlText `yaml:"lookup_key,omitempty"`
	}
	planFile struct {
		ID         yamlText                `yaml:"id"`
		Name       yamlText                `yaml:"name"`
		Price      yamlPrice               `yaml:"price"`
		Allowances map[yamlText]*yamlUnits `yaml:"allowances,flow"` // nil units: unlimited
	}
)

const schema = "a catalogue has currency, agents (each with id, noun, actions, limit_key, unit_price and, if it must, " +
	"stripe: {meter, lookup_key}) and plans (each with id, name, price, allowances)"

// ParseCatalogue reads a catalogue from YAML. It refuses what could mean
// something else than it seems to: an unknown field, a field given twice, a
// number in quotes, text that other readers take for a boolean, anchors and
// tags. The error names the first problem, in one line that begins with the
// position and the field, as "12:5: plans[2].price: ", so that a file's name
// and a colon before it make what editors understand.
func ParseCatalogue(text []byte) (odometer.Catalogue, error) {
	root, err := parseYAML(text)
	if err != nil {
		return odometer.Catalogue{}, err
	}
	var file catalogueFile
	if err := yaml.NodeToValue(root, &file, yaml.Strict()); err != nil {
		return odometer.Catalogue{}, inOneLine(err)
	}
	v := validator{usedAt: map[string]string{}}
	c := v.catalogue(&file)
	if v.problem != "" {
		return odometer.Catalogue{}, fmt.Errorf("%s%s: %s", positionOf(root, v.path), v.path, v.problem)
	}
	return c, nil
}

// positionOf is the position of a field, or of what should have it, as "12:5: ".
func positionOf(root ast.Node, path string) string {
	for path != "" {
		if p, err := yaml.PathString("$." + path); err == nil {
			if n, err := p.FilterNode(root); err == nil && n != nil {
				at := n.GetToken().Position
				return fmt.Sprintf("%d:%d: ", at.Line, at.Column)
			}
		}
		path = path[:max(0, strings.LastIndexByte(path, '.'))]
	}
	return "1:1: "
}

// validator checks what the schema alone does not say and keeps the first
// problem. Its paths are those of fields in the file: agents[0].noun.
type validator struct {
	path, problem string
	usedAt        map[string]string // the path of each name that must be unique
}

func (v *validator) refuse(path, format string, args ...any) {
	if v.problem == "" {
		v.path, v.problem = path, fmt.Sprintf(format, args...)
	}
}

func (v *validator) catalogue(file *catalogueFile) odometer.Catalogue {
	c := odometer.Catalogue{Currency: v.currency(file.Currency)}
	if len(file.Agents) == 0 {
		v.refuse("agents", "missing or empty: a catalogue has at least one agent")
	}
	for i := range file.Agents {
		c.Agents = append(c.Agents, v.agent(fmt.Sprintf("agents[%d]", i), &file.Agents[i]))
	}
	for i := range file.Plans {
		c.Plans = append(c.Plans, v.plan(fmt.Sprintf("plans[%d]", i), &file.Plans[i], &c))
	}
	return c
}

var currencyForm = regexp.MustCompile(`^[a-z]{3}$`)

// Currencies whose smallest unit is not a hundredth, in ISO 4217 or as Stripe
// counts them: overage_cost_cents would be wrong by a factor of 100 or 10.
var withoutCents = []string{
	"bhd", "bif", "clf", "clp", "djf", "gnf", "iqd", "isk", "jod", "jpy", "kmf", "krw", "kwd", "lyd", "mga", "mru",
	"omr", "pyg", "rwf", "tnd", "ugx", "uyi", "uyw", "vnd", "vuv", "xaf", "xof", "xpf",
}

func (v *validator) currency(code yamlText) string {
	switch {
	case !currencyForm.MatchString(string(code)):
		v.refuse("currency", "%q is not a code of three lower-case letters, as usd", code)
	case slices.Contains(withoutCents, string(code)):
		v.refuse("currency", "%q has no cents, and costs are shown in cents", code)
	}
	return string(code)
}

func (v *validator) agent(path string, f *agentFile) odometer.Agent {
	a := odometer.Agent{
		ID:       v.unique(path+".id", "agent", f.ID),
		Noun:     v.text(path+".noun", f.Noun),
		LimitKey: v.unique(path+".limit_key", "limit_key", f.LimitKey),
	}
	if !odometer.ValidAgent(a.ID) {
		v.refuse(path+".id", "%q is not a lower-case letter followed by at most 31 of a-z, 0-9, _ and -", a.ID)
	}
	if len(f.Actions) == 0 {
		v.refuse(path+".actions", "missing or empty: an agent sends at least one")
	}
	for i, action := range f.Actions {
		at := fmt.Sprintf("%s.actions[%d]", path, i)
		if action == odometer.AdjustmentAction {
			v.refuse(at, "%q is reserved for corrections: choose another name", action)
		}
		a.Actions = append(a.Actions, v.unique(at, path+" action", action))
	}
	if f.UnitPrice.amount == nil {
		v.refuse(path+".unit_price", "missing")
		return a
	}
	a.UnitPrice = *f.UnitPrice.amount
	a.Meter = v.stripeName(path, "meter", f.Stripe.Meter, a.ID)
	a.LookupKey = v.stripeName(path, "lookup_key", f.Stripe.LookupKey, a.ID)
	return a
}

func (v *validator) stripeName(path, field string, name *yamlText, agent string) string {
	if name == nil {
		return v.unique(path+".id", field, yamlText(defaultMeter(agent)))
	}
	return v.unique(path+".stripe."+field, field, *name)
}

// defaultMeter names both the Stripe meter and the legacy price of an agent
// whose catalogue entry does not.
func defaultMeter(agent string) string { return agent + "_overage" }

func (v *validator) plan(path string, f *planFile, c *odometer.Catalogue) odometer.Plan {
	p := odometer.Plan{
		ID:         v.unique(path+".id", "plan", f.ID),
		Name:       v.text(path+".name", f.Name),
		Allowances: map[string]odometer.Allowance{},
	}
	if f.Price.amount == nil {
		v.refuse(path+".price", "missing")
		return p
	}
	p.Price = *f.Price.amount
	if f.Allowances == nil {
		v.refuse(path+".allowances", "missing: write the units of each agent, as {inbox: 500}, or {}")
	}
	for agent, units := range f.Allowances {
		switch {
		case c.Agent(string(agent)) == nil:
			v.refuse(path+".allowances."+string(agent), "no agent %q in this file", agent)
		case units == nil:
			p.Allowances[string(agent)] = odometer.Allowance{Unlimited: true}
		default:
			p.Allowances[string(agent)] = odometer.Allowance{Limit: int64(*units)}
		}
	}
	return p
}

// text accepts text that is printable and not empty.
func (v *validator) text(path string, text yamlText) string {
	s := string(text)
	switch {
	case s == "":
		v.refuse(path, "missing or empty")
	case strings.ContainsFunc(s, func(c rune) bool { return !unicode.IsPrint(c) }):
		v.refuse(path, "%q has a character that cannot be printed", s)
	case strings.TrimSpace(s) != s:
		v.refuse(path, "%q begins or ends with a space", s)
	}
	return s
}

// unique accepts text that no other field of its kind has.
func (v *validator) unique(path, kind string, text yamlText) string {
	s := v.text(path, text)
	if first, ok := v.usedAt[kind+"\x00"+s]; ok {
		v.refuse(path, "%s %q is already used by %s", kind, s, first)
	}
	v.usedAt[kind+"\x00"+s] = path
	return s
}

// FormatCatalogue writes a catalogue as ParseCatalogue reads it. Equal
// catalogues have equal texts.
func FormatCatalogue(c odometer.Catalogue) ([]byte, error) {
	file := catalogueFile{Currency: yamlText(c.Currency), Plans: []planFile{}}
	for _, a := range c.Agents {
		f := agentFile{ID: yamlText(a.ID), Noun: yamlText(a.Noun), LimitKey: yamlText(a.LimitKey), UnitPrice: yamlPrice{&a.UnitPrice}}
		for _, action := range a.Actions {
			f.Actions = append(f.Actions, yamlText(action))
		}
		if a.Meter != defaultMeter(a.ID) {
			f.Stripe.Meter = (*yamlText)(&a.Meter)
		}
		if a.LookupKey != defaultMeter(a.ID) {
			f.Stripe.LookupKey = (*yamlText)(&a.LookupKey)
		}
		file.Agents = append(file.Agents, f)
	}
	for _, p := range c.Plans {
		f := planFile{ID: yamlText(p.ID), Name: yamlText(p.Name), Price: yamlPrice{&p.Price}, Allowances: map[yamlText]*yamlUnits{}}
		for agent, allowance := range p.Allowances {
			f.Allowances[yamlText(agent)] = nil
			if !allowance.Unlimited {
				f.Allowances[yamlText(agent)] = (*yamlUnits)(&allowance.Limit)
			}
		}
		file.Plans = append(file.Plans, f)
	}
	text, err := yaml.MarshalWithOptions(file, yaml.IndentSequence(true))
	if err != nil {
		return nil, fmt.Errorf("write catalogue as YAML: %w", err)
	}
	return text, nil
}

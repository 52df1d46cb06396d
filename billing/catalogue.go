package billing

import (
	_ "embed"
	"regexp"
	"slices"

	"github.com/goccy/go-yaml/ast"

	"odometer"
)

// SampleYAML is the catalogue that ships with the program. Its comments are
// the reference of the file's schema.
//
//go:embed catalogue_sample.yaml
var SampleYAML string

// SampleCatalogue is SampleYAML, read.
func SampleCatalogue() odometer.Catalogue {
	c, err := ParseCatalogue([]byte(SampleYAML))
	if err != nil {
		panic("the embedded sample catalogue is broken: catalogue_sample.yaml:" + err.Error())
	}
	return c
}

// ParseCatalogue reads a catalogue from YAML. It takes nothing that could mean
// something else than it seems to: an unknown field, a field given twice, a
// number in quotes, text that other readers take for a boolean, anchors and
// tags are all refused. The error is a *PositionError with the first problem.
func ParseCatalogue(text []byte) (odometer.Catalogue, error) {
	root, err := parseYAML(text)
	if err != nil {
		return odometer.Catalogue{}, err
	}
	var r yamlReader
	c := r.catalogue(root)
	if r.problem != nil {
		return odometer.Catalogue{}, r.problem
	}
	return c, nil
}

var (
	catalogueShape = yamlShape{
		takes:    "a catalogue takes",
		required: []string{"currency", "agents"},
		optional: []string{"plans"},
	}
	agentShape = yamlShape{
		takes:    "agents take",
		required: []string{"id", "noun", "actions", "limit_key", "unit_price"},
		optional: []string{"stripe"},
	}
	stripeShape = yamlShape{
		takes:    "stripe takes",
		optional: []string{"meter", "lookup_key"},
	}
	planShape = yamlShape{
		takes:    "plans take",
		required: []string{"id", "name", "price", "allowances"},
	}
)

func (r *yamlReader) catalogue(root ast.Node) odometer.Catalogue {
	fields := r.fields(root, catalogueShape)
	c := odometer.Catalogue{Currency: r.currency(fields["currency"])}
	taken := takenNames{}
	for _, n := range r.list(fields["agents"], "agents") {
		c.Agents = append(c.Agents, r.agent(n, taken))
	}
	if n := fields["agents"]; n != nil && len(c.Agents) == 0 {
		r.refuse(n.GetToken(), "agents is empty: a catalogue has at least one agent")
	}
	for _, n := range r.list(fields["plans"], "plans") {
		c.Plans = append(c.Plans, r.plan(n, &c, taken))
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

func (r *yamlReader) currency(n ast.Node) string {
	code, ok := r.text(n, "currency")
	switch {
	case !ok:
	case !currencyForm.MatchString(code):
		r.refuse(n.GetToken(), "currency %q is not a code of three lower-case letters, as usd", code)
	case slices.Contains(withoutCents, code):
		r.refuse(n.GetToken(), "currency %q has no cents: costs are told in hundredths, which it does not have", code)
	}
	return code
}

func (r *yamlReader) agent(n ast.Node, taken takenNames) odometer.Agent {
	fields := r.fields(n, agentShape)
	var a odometer.Agent
	var ok bool
	if a.ID, ok = r.text(fields["id"], "id"); ok && !odometer.ValidAgent(a.ID) {
		r.refuse(fields["id"].GetToken(),
			"agent id %q is not a lower-case letter followed by at most 31 of a-z, 0-9, _ and -", a.ID)
	}
	a.Noun, _ = r.text(fields["noun"], "noun")
	a.Actions = r.actions(fields["actions"])
	a.LimitKey, _ = r.text(fields["limit_key"], "limit_key")
	a.UnitPrice = r.price(fields["unit_price"], "unit_price")
	r.unique(taken, "agent", a.ID, fields["id"])
	r.unique(taken, "limit_key", a.LimitKey, fields["limit_key"])
	r.stripe(&a, fields, taken)
	return a
}

func (r *yamlReader) actions(n ast.Node) []string {
	var actions []string
	taken := takenNames{}
	for _, item := range r.list(n, "actions") {
		action, _ := r.text(item, "action")
		if action == odometer.AdjustmentAction {
			r.refuse(item.GetToken(), "action %q is reserved for corrections: name it otherwise", action)
		}
		r.unique(taken, "action", action, item)
		actions = append(actions, action)
	}
	if n != nil && len(actions) == 0 {
		r.refuse(n.GetToken(), "actions is empty: an agent sends at least one")
	}
	return actions
}

func (r *yamlReader) stripe(a *odometer.Agent, agent map[string]ast.Node, taken takenNames) {
	a.Meter, a.LookupKey = defaultMeter(a.ID), defaultMeter(a.ID)
	meterAt, lookupAt := agent["id"], agent["id"]
	if n := agent["stripe"]; n != nil {
		fields := r.fields(n, stripeShape)
		if at := fields["meter"]; at != nil {
			a.Meter, _ = r.text(at, "meter")
			meterAt = at
		}
		if at := fields["lookup_key"]; at != nil {
			a.LookupKey, _ = r.text(at, "lookup_key")
			lookupAt = at
		}
	}
	r.unique(taken, "meter", a.Meter, meterAt)
	r.unique(taken, "lookup_key", a.LookupKey, lookupAt)
}

// defaultMeter names both the Stripe meter and the legacy price of an agent
// whose catalogue entry does not.
func defaultMeter(agent string) string { return agent + "_overage" }

func (r *yamlReader) plan(n ast.Node, c *odometer.Catalogue, taken takenNames) odometer.Plan {
	fields := r.fields(n, planShape)
	p := odometer.Plan{Allowances: map[string]odometer.Allowance{}}
	p.ID, _ = r.text(fields["id"], "id")
	p.Name, _ = r.text(fields["name"], "name")
	p.Price = r.price(fields["price"], "price")
	r.unique(taken, "plan", p.ID, fields["id"])
	for _, e := range r.entries(fields["allowances"], "allowances must be fields, as {inbox: 500}") {
		if c.Agent(e.name) == nil {
			r.refuse(e.key, "no agent %q in this file", e.name)
		}
		p.Allowances[e.name] = r.allowance(e.value, e.name)
	}
	return p
}

// takenNames holds where each name was first given, by kind and name.
type takenNames map[[2]string]int

func (r *yamlReader) unique(taken takenNames, kind, name string, at ast.Node) {
	if at == nil || name == "" {
		return
	}
	line := at.GetToken().Position.Line
	if first, ok := taken[[2]string{kind, name}]; ok {
		r.refuse(at.GetToken(), "%s %q is already given in line %d", kind, name, first)
		return
	}
	taken[[2]string{kind, name}] = line
}

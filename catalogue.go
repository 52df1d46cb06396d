package odometer

import (
	"slices"

	"github.com/shopspring/decimal"
)

// Catalogue is what is metered and what is sold: the agents with their actions
// and overage prices, and the plans with their allowances.
type Catalogue struct {
	Currency string // ISO 4217, lower case, with two decimals ("usd")
	Agents   []Agent
	Plans    []Plan
}

// Agent is one kind of metered work.
type Agent struct {
	ID        string
	Noun      string   // what is counted, as in "your email quota"
	Actions   []string // the action types it may send
	LimitKey  string   // the name of its limit in API answers, as "emails_per_month"
	UnitPrice decimal.Decimal
	Meter     string // event name of its Stripe meter
	LookupKey string // lookup key of its legacy metered price
}

// Plan is something a tenant subscribes to.
type Plan struct {
	ID         string
	Name       string
	Price      decimal.Decimal // per period, in the catalogue's currency
	Allowances map[string]Allowance
}

// Allowance is how many units of an agent a plan includes per period. An agent
// that a plan does not name has the zero Allowance: nothing is included.
type Allowance struct {
	Limit     int64
	Unlimited bool
}

// Agent finds an agent by id, nil when the catalogue has none.
func (c *Catalogue) Agent(id string) *Agent {
	i := slices.IndexFunc(c.Agents, func(a Agent) bool { return a.ID == id })
	if i < 0 {
		return nil
	}
	return &c.Agents[i]
}

// Plan finds a plan by id, nil when the catalogue has none.
func (c *Catalogue) Plan(id string) *Plan {
	i := slices.IndexFunc(c.Plans, func(p Plan) bool { return p.ID == id })
	if i < 0 {
		return nil
	}
	return &c.Plans[i]
}

// HasAction reports whether the agent may send the action.
func (a *Agent) HasAction(action string) bool { return slices.Contains(a.Actions, action) }

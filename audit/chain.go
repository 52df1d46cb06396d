package audit

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// target is where at Stripe something was told.
type target struct {
	account  string
	livemode bool
	customer string
	meter    string
}

// link is a row of the ledger.
type link struct {
	tenant     uuid.UUID
	agent      string
	period     time.Time
	revision   int
	from, to   int64
	value      int64
	origin     string
	sink       string
	target     target
	identifier string
	generation int64
	state      string
}

// stands reports whether the chain goes on from the link.
func (l *link) stands() bool { return l.state == "accepted" || l.state == "verified" }

const linksSQL = `
select
    tenant_id, agent, period_start, revision, from_total, to_total, value, origin, sink,
    account, livemode, stripe_customer, meter, identifier, generation, state
from overage_reports
where $1::uuid is null or tenant_id = $1
order by tenant_id, agent, period_start, revision`

// chain is what is known of an agent's period while its links go by.
type chain struct {
	tenant   uuid.UUID
	agent    string
	period   time.Time
	revision int
	totals   map[target]int64 // the last that stands
}

// compareLinks checks each link against the one before and against its own
// identifier, which is a hash over what makes it this link.
func (a *auditor) compareLinks(ctx context.Context, tx pgx.Tx) error {
	rows, _ := tx.Query(ctx, linksSQL, a.Tenant)
	var l link
	var c chain
	_, err := pgx.ForEachRow(rows, []any{
		&l.tenant, &l.agent, &l.period, &l.revision, &l.from, &l.to, &l.value, &l.origin, &l.sink,
		&l.target.account, &l.target.livemode, &l.target.customer, &l.target.meter, &l.identifier, &l.generation, &l.state,
	}, func() error {
		if c.totals == nil || c.tenant != l.tenant || c.agent != l.agent || !c.period.Equal(l.period) {
			c = chain{tenant: l.tenant, agent: l.agent, period: l.period, totals: map[target]int64{}}
		}
		a.compareLink(&c, &l)
		return nil
	})
	return err
}

// restoreLedger is what can be done about a ledger that is not what it was.
var restoreLedger = byHand("no repair is defined: what Stripe was told cannot be made up; restore overage_reports from a backup, then: odometer jobs run verify")

func (a *auditor) compareLink(c *chain, l *link) {
	missing := l.revision - c.revision - 1
	before := c.totals[l.target]
	c.revision = l.revision
	if l.stands() {
		c.totals[l.target] = l.to
	}
	tenant, period := l.tenant, l.period.UTC()
	d := Difference{Tenant: &tenant, Agent: l.agent, Period: &period, Repair: restoreLedger,
		Where: fmt.Sprintf("revision %d, customer %s, meter %s", l.revision, l.target.customer, l.target.meter)}
	switch {
	case l.identifier != l.identify():
		d.Kind, d.Expected, d.Found = LinkChanged, "a row that is as its identifier says", fmt.Sprintf("from %d to %d, generation %d", l.from, l.to, l.generation)
		d.Cause = "the row was changed or written by hand"
	case l.origin == "reported" && l.sink == "meter_events" && l.value != l.to-l.from:
		d.Kind, d.Expected, d.Found = LinkChanged, fmt.Sprintf("value %d", l.to-l.from), fmt.Sprintf("value %d", l.value)
		d.Cause = "the row was changed by hand"
	case l.from != before:
		d.Kind, d.Expected, d.Found = ChainBroken, fmt.Sprintf("from %d, where the chain stands", before), fmt.Sprintf("from %d", l.from)
		d.Cause = "a row of the ledger was doubled or changed"
		if missing > 0 {
			d.Cause = fmt.Sprintf("%d rows before it were deleted", missing)
		}
	case missing > 0:
		a.report.unknown(countersLedger, int64(missing), "revisions of the ledger without a row, where the totals connect: they counted for nothing, or were never stored")
		a.report.equal(countersLedger, 1)
		return
	default:
		a.report.equal(countersLedger, 1)
		return
	}
	a.report.differs(countersLedger, d)
}

// identify is the identifier of a link with these figures, as package reporter
// makes it.
func (l *link) identify() string {
	h := sha256.New()
	word := func(s string) {
		_ = binary.Write(h, binary.BigEndian, uint64(len(s)))
		h.Write([]byte(s))
	}
	word(l.sink)
	word(l.tenant.String())
	word(l.agent)
	for _, n := range []int64{l.period.UnixMicro(), int64(l.revision), l.from, l.to, l.generation} {
		_ = binary.Write(h, binary.BigEndian, uint64(n))
	}
	return "odo_" + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

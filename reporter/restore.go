package reporter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// restore compares a ledger that is behind its mirror with Stripe, adds what
// Stripe has beyond it, and lets the reporter continue. Nothing is sent.
//
// Summaries lag, so they are believed when they show all that the mirror says
// was accepted, or when SummaryDelay has passed since the last send. Until then
// the reporter stays stopped. Without a mirror, a call by hand says that
// Postgres was not restored.
func (r *Reporter) restore(ctx context.Context, account string, byHand bool, v *Verification) error {
	unlock, err := r.lockPass(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	g, err := r.loadGeneration(ctx)
	if err != nil {
		return err
	}
	stopped := g.checkRestored()
	if stopped == nil {
		stopped = r.checkUnits(ctx, g)
	}
	if stopped == nil || !errors.Is(stopped, ErrRestored) {
		return stopped
	}
	gone := g.mirror == nil
	if gone {
		if err := r.markSuspect(ctx, g); err != nil {
			return errors.Join(stopped, err)
		}
	}
	surplus, err := r.findSurplus(ctx, account)
	if err != nil {
		return errors.Join(stopped, err)
	}
	// Only the mirror was lost, for Stripe shows exactly what the ledger has.
	// Whether Postgres was restored too only a person knows.
	if !gone || !byHand || len(surplus) > 0 {
		if err := r.checkAllShown(ctx, g, surplus); err != nil {
			return errors.Join(stopped, err)
		}
	}
	return r.appendFound(ctx, g, account, surplus, v)
}

// surplusUnits is what Stripe's meter holds of a tenant's period beyond the
// ledger.
type surplusUnits struct {
	account *tenantAccount
	in      *period
	agent   string
	target  MeterTarget
	units   int64
}

// findSurplus compares every meter of every tenant's unsettled periods.
func (r *Reporter) findSurplus(ctx context.Context, account string) (all []surplusUnits, err error) {
	err = r.eachTenantPage(ctx, nil, func(tenants []uuid.UUID) error {
		accounts, err := r.load(ctx, tenants, r.now())
		if err != nil {
			return err
		}
		page, err := r.findSurplusOf(ctx, account, accounts)
		all = append(all, page...)
		return err
	})
	return all, err
}

func (r *Reporter) findSurplusOf(ctx context.Context, account string, accounts []*tenantAccount) (found []surplusUnits, err error) {
	p := &pass{r: r, items: map[string]map[string]string{}}
	if r.Sink == UsageRecords {
		if err := p.findItems(ctx, accounts); err != nil {
			return nil, err
		}
	}
	planner := planner{now: r.now(), sink: r.Sink, account: account, livemode: r.Stripe.Livemode, item: p.item}
	var all []*surplusUnits
	for _, a := range accounts {
		for _, in := range a.periods {
			for _, u := range in.agents {
				for target := range planner.targets(a, in, u) {
					all = append(all, &surplusUnits{account: a, in: in, agent: u.agent, target: target})
				}
			}
		}
	}
	err = concurrently(ctx, maxConcurrentCalls, all, func(ctx context.Context, d *surplusUnits) (err error) {
		d.units, err = r.surplusIn(ctx, d)
		return err
	})
	for _, d := range all {
		if d.units != 0 || d.account.hasUndecided(d.target) {
			found = append(found, *d)
		}
	}
	return found, err
}

// targets are where an agent's usage in a period may have been reported: where
// it would be now, and wherever it was.
func (p *planner) targets(a *tenantAccount, in *period, u *agentUsage) map[MeterTarget]bool {
	all := map[MeterTarget]bool{p.target(a, in, u): true}
	for _, e := range a.entries {
		if e.Agent == u.agent && (e.Period.Equal(in.start) || in.contains(e.ReportedAt)) {
			all[e.MeterTarget] = true
		}
	}
	for t := range all {
		if t.Customer == "" || t.Meter == "" || t.Account != p.account || t.Livemode != p.livemode {
			delete(all, t)
		}
	}
	return all
}

func (r *Reporter) surplusIn(ctx context.Context, d *surplusUnits) (int64, error) {
	should, err := ledgerTotal(ctx, r.Pool, d.target, d.in)
	if err != nil {
		return 0, err
	}
	shown, err := r.stripeTotal(ctx, r.Sink, d.target, d.in)
	switch {
	case Classify(err, false) == OutcomeRejected: // no such customer: nothing was reported
		return 0, nil
	case err != nil:
		return 0, classifyError(err)
	}
	return shown - should, nil
}

// checkAllShown returns nil when the summaries show all that Stripe had
// accepted.
func (r *Reporter) checkAllShown(ctx context.Context, g *ledgerGeneration, surplus []surplusUnits) error {
	known, err := acceptedUnits(ctx, r.Pool)
	if err != nil {
		return err
	}
	for _, d := range surplus {
		known += d.units
	}
	if g.mirror.Units != nil && *g.mirror.Units == known {
		return nil
	}
	if complete := g.mirror.At.Add(SummaryDelay); r.now().Before(complete) {
		return fmt.Errorf("Stripe's summaries do not show all that was accepted yet (%d units so far): run it again after %s",
			known, complete.Format(time.RFC3339))
	}
	return nil
}

// An undecided entry of the restored ledger is in the summary, or Stripe has
// not got it.
const rejectRestoredSQL = `
update overage_reports
set state = 'rejected',
    detail = 'decided by the comparison after a restored backup',
    decided_at = $2
where account = $1
  and state in ('planned', 'sending', 'unknown')`

// appendFound brings the ledger to what Stripe has and the generation to its
// mirror's, in one transaction, and then the mirror to the ledger's.
func (r *Reporter) appendFound(ctx context.Context, g *ledgerGeneration, account string, surplus []surplusUnits, v *Verification) error {
	now := r.now()
	next := g.number + 1
	if g.mirror != nil {
		next = max(next, g.mirror.Generation+1)
	}
	var entries []*LedgerEntry
	for _, d := range surplus {
		found, err := d.missingEntries(r.Sink, now, next)
		if err != nil {
			return err
		}
		entries = append(entries, found...)
	}
	err := pgx.BeginFunc(ctx, r.Pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, rejectRestoredSQL, account, now); err != nil {
			return fmt.Errorf("reject undecided entries of the restored ledger: %w", err)
		}
		if _, err := insertEntries(ctx, tx, entries); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, raiseGenerationSQL, next)
		return err
	})
	if err != nil {
		return fmt.Errorf("bring the ledger to what Stripe has: %w", err)
	}
	g.number = next
	v.Released, v.Appended = true, len(entries)
	r.Log.Warn("ledger compared with Stripe after a restored backup, reporting continues", "appended", len(entries))
	return r.mirrorUnits(ctx, g)
}

// missingEntries are the entries that Stripe has and the ledger lacks: one
// between two entries where the chain has a gap, and one for what is beyond its
// end.
func (d *surplusUnits) missingEntries(sink Sink, now time.Time, generation int64) ([]*LedgerEntry, error) {
	chain := d.account.chain(d.in.start, d.agent)
	taken := map[int]bool{}
	for _, e := range chain {
		taken[e.Revision] = true
	}
	var entries []*LedgerEntry
	at, rest := int64(0), d.units
	add := func(revision int, from, to int64) {
		entries = append(entries, &LedgerEntry{
			Tenant: d.account.tenant, Agent: d.agent, Period: d.in.start, Billed: d.in.start,
			Revision: revision, From: from, To: to, Value: to - from,
			Origin: OriginFound, Sink: sink, MeterTarget: d.target, ReportedAt: d.in.timestamp(now), Generation: generation,
			State: Verified, Decided: &now, Detail: "Stripe had it, the ledger did not",
		})
	}
	for _, e := range chain {
		if e.MeterTarget != d.target || !e.State.isAccepted() {
			continue
		}
		switch free := e.Revision - 1; {
		case !e.matchesIdentifier():
			return nil, d.brokenChain(e, "was changed")
		case e.From == at:
		case free > 0 && !taken[free]:
			add(free, at, e.From)
			rest -= e.From - at
		default:
			return nil, d.brokenChain(e, "does not start at the total of the one before")
		}
		at = e.To
	}
	if rest != 0 {
		add(nextRevision(chain), at, at+rest)
	}
	return entries, nil
}

// brokenChain refuses to guess: with duplicated or edited rows, more would be
// reported to Stripe than is owed.
func (d *surplusUnits) brokenChain(e *LedgerEntry, how string) error {
	return fmt.Errorf("%w: ledger entry %d of tenant %s, agent %s, period from %s %s: restore overage_reports from a backup (or undo the change), then: odometer jobs run verify",
		ErrRestored, e.Revision, e.Tenant, e.Agent, e.Period.UTC().Format(time.RFC3339), how)
}

package reporter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// release compares a ledger that is behind its mirror with Stripe, appends what
// Stripe has beyond it, and lets the reporter go on. Nothing is sent.
//
// Summaries lag, so what they show is believed when it makes up all that the
// mirror says was accepted, or when SettleAfter has gone by since the last
// send. Until then the reporter stays stopped. Without a mirror, a person may
// say by calling it that Postgres was not restored.
func (r *Reporter) release(ctx context.Context, account string, byHand bool, v *Verification) error {
	unlock, err := r.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	g, err := r.generation(ctx)
	if err != nil {
		return err
	}
	stopped := g.restored()
	if stopped == nil {
		stopped = r.intact(ctx, g)
	}
	if stopped == nil || !errors.Is(stopped, ErrRestored) {
		return stopped
	}
	gone := g.mirror == nil
	if gone {
		if err := r.suspect(ctx, g); err != nil {
			return errors.Join(stopped, err)
		}
	}
	surplus, err := r.surplus(ctx, account)
	if err != nil {
		return errors.Join(stopped, err)
	}
	// A mirror that was lost alone: Stripe shows just what the ledger knows.
	// Only a person knows that Postgres was not restored beside it.
	if gone && byHand && len(surplus) == 0 {
		return r.append(ctx, g, account, nil, v)
	}
	if err := r.shownInFull(ctx, g, surplus); err != nil {
		return errors.Join(stopped, err)
	}
	return r.append(ctx, g, account, surplus, v)
}

// difference is what Stripe's meter holds of a tenant's period beyond the ledger.
type difference struct {
	book  *book
	in    *period
	agent string
	Target
	units int64
	has   bool // the ledger has undecided links there
}

// surplus compares every meter of every tenant's unsettled periods.
func (r *Reporter) surplus(ctx context.Context, account string) ([]difference, error) {
	var all []difference
	after := uuid.Nil
	for {
		rows, _ := r.Pool.Query(ctx, tenantsSQL, r.now(), after, nil, pageSize)
		tenants, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		if err != nil {
			return nil, fmt.Errorf("list tenants with unsettled periods: %w", err)
		}
		if len(tenants) == 0 {
			return all, nil
		}
		after = tenants[len(tenants)-1]
		books, err := r.load(ctx, tenants, r.now())
		if err != nil {
			return nil, err
		}
		page, err := r.surplusOf(ctx, account, books)
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
	}
}

func (r *Reporter) surplusOf(ctx context.Context, account string, books []*book) ([]difference, error) {
	var asked []*difference
	group, asking := errgroup.WithContext(ctx)
	group.SetLimit(maxUnderWay)
	p := &pass{Reporter: r, items: map[string]map[string]string{}}
	if r.Sink == UsageRecords {
		if err := p.findItems(ctx, books); err != nil {
			return nil, err
		}
	}
	planner := planner{now: r.now(), sink: r.Sink, account: account, livemode: r.Stripe.Livemode, item: p.item}
	for _, b := range books {
		for _, in := range b.periods {
			for i := range in.agents {
				for target := range planner.targets(b, in, &in.agents[i]) {
					d := &difference{book: b, in: in, agent: in.agents[i].agent, Target: target, has: b.busy(target)}
					asked = append(asked, d)
					group.Go(func() (err error) {
						d.units, err = r.surplusIn(asking, d)
						return err
					})
				}
			}
		}
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var found []difference
	for _, d := range asked {
		if d.units != 0 || d.has {
			found = append(found, *d)
		}
	}
	return found, nil
}

// targets are where an agent's usage in a period may have been told: where it
// would be now, and wherever it was.
func (p *planner) targets(b *book, in *period, u *use) map[Target]bool {
	all := map[Target]bool{p.target(b, in, u): true}
	for _, l := range b.links {
		if l.Agent == u.agent && (l.Period.Equal(in.start) || in.holds(l.ReportedAt)) {
			all[l.Target] = true
		}
	}
	for t := range all {
		if t.Customer == "" || t.Meter == "" || t.Account != p.account || t.Livemode != p.livemode {
			delete(all, t)
		}
	}
	return all
}

func (r *Reporter) surplusIn(ctx context.Context, d *difference) (int64, error) {
	should, err := metered(ctx, r.Pool, d.Target, d.in)
	if err != nil {
		return 0, err
	}
	shown, err := r.shown(ctx, r.Sink, d.Target, d.in)
	switch {
	case Judge(err, false) == Rejected: // no such customer: it was told nothing
		return 0, nil
	case err != nil:
		return 0, configured(err)
	}
	return shown - should, nil
}

// shownInFull is nil when the summaries show all that Stripe had accepted.
func (r *Reporter) shownInFull(ctx context.Context, g *generation, surplus []difference) error {
	known, err := units(ctx, r.Pool)
	if err != nil {
		return err
	}
	for _, d := range surplus {
		known += d.units
	}
	if g.mirror.Units != nil && *g.mirror.Units == known {
		return nil
	}
	if settled := g.mirror.At.Add(SettleAfter); r.now().Before(settled) {
		return fmt.Errorf("Stripe's summaries do not show all that was accepted yet (%d units so far): run it again after %s",
			known, settled.Format(time.RFC3339))
	}
	return nil
}

// What the restored ledger holds as undecided is in the summary, or is not.
const supersedeSQL = `
update overage_reports
set state = 'rejected',
    detail = 'decided by the comparison after a restored backup',
    decided_at = $2
where account = $1
  and state in ('planned', 'sending', 'unknown')`

// append brings the ledger to what Stripe has and the generation to its
// mirror's, in one transaction, and then the mirror to the ledger's.
func (r *Reporter) append(ctx context.Context, g *generation, account string, surplus []difference, v *Verification) error {
	now := r.now()
	next := g.number + 1
	if g.mirror != nil {
		next = max(next, g.mirror.Generation+1)
	}
	var links []*Link
	for _, d := range surplus {
		found, err := d.links(r.Sink, now, next)
		if err != nil {
			return err
		}
		links = append(links, found...)
	}
	err := pgx.BeginFunc(ctx, r.Pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, supersedeSQL, account, now); err != nil {
			return fmt.Errorf("decide what the restored ledger left open: %w", err)
		}
		if _, err := insertLinks(ctx, tx, links); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, raiseGenerationSQL, next)
		return err
	})
	if err != nil {
		return fmt.Errorf("bring the ledger to what Stripe has: %w", err)
	}
	g.number = next
	v.Released, v.Appended = true, len(links)
	r.Log.Warn("the ledger was compared with Stripe after a restored backup, and goes on", "appended", len(links))
	return r.finish(ctx, g)
}

// links are those that Stripe has and the ledger has not: where the chain does
// not go on from where it ended, the one that was between, and what is beyond
// its end.
func (d *difference) links(sink Sink, now time.Time, generation int64) ([]*Link, error) {
	chain := d.book.chain(d.in.start, d.agent)
	taken := map[int]bool{}
	for _, l := range chain {
		taken[l.Revision] = true
	}
	var links []*Link
	at, rest := int64(0), d.units
	add := func(revision int, from, to int64) {
		links = append(links, &Link{
			Tenant: d.book.tenant, Agent: d.agent, Period: d.in.start, Billed: d.in.start,
			Revision: revision, From: from, To: to, Value: to - from,
			Origin: found, Sink: sink, Target: d.Target, ReportedAt: d.in.timestamp(now), Generation: generation,
			State: Verified, Decided: &now, Detail: "Stripe had it, and the ledger had not",
		})
	}
	for _, l := range chain {
		if l.Target != d.Target || !l.State.counts() {
			continue
		}
		switch free := l.Revision - 1; {
		case !l.genuine():
			return nil, d.broken(l, "was changed")
		case l.From == at:
		case free > 0 && !taken[free]:
			add(free, at, l.From)
			rest -= l.From - at
		default:
			return nil, d.broken(l, "does not go on from the one before")
		}
		at = l.To
	}
	if rest != 0 {
		add(nextRevision(chain), at, at+rest)
	}
	return links, nil
}

// broken refuses to guess: by rows that were doubled or changed, Stripe would be
// told what is not owed.
func (d *difference) broken(l *Link, how string) error {
	return fmt.Errorf("%w: link %d of tenant %s, agent %s, period from %s %s: restore overage_reports from a backup (or undo the change), then: odometer jobs run verify",
		ErrRestored, l.Revision, l.Tenant, l.Agent, l.Period.UTC().Format(time.RFC3339), how)
}

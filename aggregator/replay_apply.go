package aggregator

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"

	"github.com/jackc/pgx/v5"

	"odometer"
)

// apply brings items of one partition into the books as far as they are
// missing there, however often the terms change meanwhile. Letters are items
// that were retried: their rows say that they count.
func (r *replay) apply(ctx context.Context, l *lane, items []item, letters bool) error {
	all := len(items)
	if !letters {
		var err error
		if items, err = r.strangers(ctx, items); err != nil {
			return err
		}
		r.done.DeadLetters += int64(all - len(items))
	}
	if len(items) == 0 {
		return nil
	}
	err := r.settle(ctx, l, &batch{items: items})
	if err != nil {
		return fmt.Errorf("replay messages %d to %d of partition %d: %w", items[0].seq, items[len(items)-1].seq, l.partition, err)
	}
	l.rules.trim()
	return nil
}

func (r *replay) settle(ctx context.Context, l *lane, b *batch) error {
	for {
		err := r.step(ctx, l, b)
		switch refusal, refused := poison(err); {
		case errors.Is(err, errRulesChanged):
			if err := r.stillTheSame(ctx, l); err != nil {
				return err
			}
			l.rules.forget()
		case errors.Is(err, errJudged): // its verdict is in the item
		case errors.Is(err, errAlone):
			return r.inParts(ctx, l, b)
		case refused && len(b.items) > 1:
			return r.inParts(ctx, l, b)
		case refused && b.items[0].reject == nil:
			b.items[0].reject = &odometer.Rejection{Reason: odometer.Malformed, Detail: "the database refuses it: " + refusal.Message}
		default:
			return err
		}
	}
}

func (r *replay) inParts(ctx context.Context, l *lane, b *batch) error {
	first, second := b.halves()
	if err := r.settle(ctx, l, first); err != nil {
		return err
	}
	return r.settle(ctx, l, second)
}

// stillTheSame tells changed terms from a stream that was found to be cut.
func (r *replay) stillTheSame(ctx context.Context, l *lane) error {
	places, err := loadPlaces(ctx, r.Pool, loadPlacesSQL)
	if err == nil && places[l.partition].Epoch != l.begin.Epoch {
		err = fmt.Errorf("%w: the stream lost its tail or was made anew meanwhile: run this again", ErrReplayUnfit)
	}
	return err
}

// step looks what is missing of a batch and restores it in one transaction.
// When nothing is, it takes no lock.
func (r *replay) step(ctx context.Context, l *lane, b *batch) error {
	j, unlaid, err := r.judge(ctx, l, b)
	if err != nil {
		return err
	}
	conn, err := r.Pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connect to replay: %w", err)
	}
	defer conn.Release()
	t := &tally{dead: j.dead}
	if j.events, err = l.setRepeatsAside(ctx, conn.Conn(), j.events, t); err != nil {
		return err
	}
	if j.homeless, err = setHomelessAside(ctx, conn.Conn(), j.homeless, t); err != nil {
		return err
	}
	if r.DryRun {
		if _, err := r.recallFates(ctx, conn.Conn(), l, j, t); err != nil {
			return err
		}
		r.dry(l, b, j, t, unlaid)
		return nil
	}
	if len(j.events)+len(j.homeless)+len(t.dead) > 0 {
		if err := r.restore(ctx, conn.Conn(), l, j, t, len(b.items) == 1); err != nil {
			return err
		}
	}
	r.tally(b, t)
	return nil
}

// judge brings a batch under the terms in force. A dry run lays no periods:
// what would lie in them is unlaid.
func (r *replay) judge(ctx context.Context, l *lane, b *batch) (j *judged, unlaid int, err error) {
	if !r.DryRun {
		j, err = l.judge(ctx, b)
		return j, 0, err
	}
	if err := l.rules.prepare(ctx, r.Pool, b.items, nil); err != nil {
		return nil, 0, err
	}
	j, _ = l.rules.judge(b)
	j.sort()
	return j, len(b.items) - len(j.events) - len(j.homeless) - len(j.dead), nil
}

// setHomelessAside takes out what repeats an event that came before it.
func setHomelessAside(ctx context.Context, conn *pgx.Conn, homeless []*item, t *tally) ([]*item, error) {
	if len(homeless) == 0 {
		return nil, nil
	}
	claims, err := loadClaims(ctx, conn, homeless, 0)
	if err != nil {
		return nil, err
	}
	rest := homeless[:0:0]
	for n, i := range homeless {
		if !t.settle(i, claims, n) {
			rest = append(rest, i)
		}
	}
	return rest, nil
}

// tally adds what became of a batch. An event that is there and came from a
// letter was told as a dead letter of the stream.
func (r *replay) tally(b *batch, t *tally) {
	if b.items[0].retried == nil {
		r.done.Events += int64(t.reread)
	}
	r.done.Duplicates += int64(t.duplicates - t.reread)
	r.done.Applied += int64(len(t.counted))
	r.done.NewDead += int64(len(t.dead))
	for _, d := range t.dead {
		r.done.Dead[d.Reason]++
	}
}

// dry tells what restore would do. What an earlier message would have restored
// is remembered, so that its repeats are seen.
func (r *replay) dry(l *lane, b *batch, j *judged, t *tally, unlaid int) {
	for _, p := range j.events {
		said := contentOf(p.item)
		switch held, claimed := r.would[p.id]; {
		case !claimed:
			r.would[p.id] = said
			t.counted = append(t.counted, p.item)
		case held == said:
			t.duplicates++
		default:
			t.dead = append(t.dead, deadLetter{p.item, odometer.Rejection{Reason: odometer.IdempotencyConflict}})
		}
	}
	for _, i := range j.homeless {
		if held, claimed := r.would[i.id]; claimed && held == contentOf(i) {
			t.duplicates++
			continue
		}
		t.dead = append(t.dead, l.unhoused(i))
	}
	r.tally(b, t)
	r.done.Applied += int64(unlaid)
}

// contentOf is a hash of what a repeat must have in common with its event.
func contentOf(i *item) uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%q %q %s %d", i.event.Agent, i.event.Action, quoted(i.event.Resource), i.event.Quantity)
	return h.Sum64()
}

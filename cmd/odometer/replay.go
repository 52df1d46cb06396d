package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"odometer"
	"odometer/aggregator/replay"
	"odometer/cmd/internal/cli"
)

type replayCmd struct {
	cli.DatabaseSettings
	cli.NATSSettings
	Since     *time.Time  `help:"Only what the stream stored at or after this time." xor:"begin" placeholder:"TIME"`
	FromSeq   int64       `help:"Only from this sequence of the stream on." xor:"begin" placeholder:"N"`
	Tenant    *cli.Tenant `help:"Only this tenant." placeholder:"UUID"`
	DryRun    bool        `help:"Show what would be applied, and apply nothing."`
	BatchSize int         `help:"Messages in one step." default:"5000" env:"ODOMETER_BATCH_SIZE"`
	JSON      bool        `help:"Print JSON."`
}

// Run replays. It may be stopped and started again at any time.
func (c *replayCmd) Run(ctx context.Context, t *cli.Terminal) error {
	switch {
	case c.FromSeq < 0:
		return cli.Usagef("--from-seq %d: want 1 or more", c.FromSeq)
	case c.BatchSize < 1:
		return cli.Usagef("--batch-size %d: want 1 or more", c.BatchSize)
	}
	pool, err := c.OpenMigrated(ctx, cli.FewConnections)
	if err != nil {
		return err
	}
	defer pool.Close()
	nc, err := c.Connect("replay", false)
	if err != nil {
		return err
	}
	defer nc.Close()
	away, stop := cli.CancelWithoutNATS(ctx, nc)
	defer stop()
	progress := cli.CountProgress(t)
	done, err := replay.Run(away, replay.Options{
		Pool: pool, NATS: nc, Since: c.Since, From: c.FromSeq, Tenant: (*uuid.UUID)(c.Tenant),
		DryRun: c.DryRun, Batch: c.BatchSize, Progress: func(r replay.Result) {
			progress.At("replay", max(0, r.Through-r.First+1), max(1, r.Last-r.First+1))
		},
	})
	progress.Done(err)
	if err != nil && done.Read == 0 && ctx.Err() == nil {
		return err
	}
	if printed := c.say(t, done); printed != nil {
		return printed
	}
	return c.end(away, done, err)
}

// end is the command's exit: what is left over, and how to go on.
func (c *replayCmd) end(ctx context.Context, done replay.Result, err error) error {
	var away cli.Unreachable
	goOn := fmt.Sprintf("everything through sequence %d is done, go on with: odometer replay --from-seq %d", done.Through, done.Through+1)
	switch {
	case errors.As(context.Cause(ctx), &away):
		return cli.Unreachable{Err: fmt.Errorf("NATS has been away for %s: %s", cli.DependencyTimeout, goOn)}
	case ctx.Err() != nil:
		return fmt.Errorf("interrupted: %s", goOn)
	case err != nil:
		return fmt.Errorf("%w: %s", err, goOn)
	case done.NewDead > 0 || len(done.Negative) > 0:
		return cli.ErrFindings
	}
	return nil
}

func (c *replayCmd) say(t *cli.Terminal, done replay.Result) error {
	known := done.Events + done.Duplicates + done.DeadLetters
	if c.JSON {
		done.Negative = append([]replay.Shortfall{}, done.Negative...)
		if done.Dead == nil {
			done.Dead = map[odometer.Reason]int64{}
		}
		return t.JSON(struct {
			DryRun       bool  `json:"dry_run"`
			AlreadyThere int64 `json:"already_there"`
			replay.Result
		}{c.DryRun, known, done})
	}
	applied, dead := "applied", "new dead letters"
	if c.DryRun {
		applied, dead = "to be applied", "would become dead letters"
	}
	fmt.Fprintf(t.Out, "read %d messages, through sequence %d: %d already there (%d events, %d duplicates, %d dead letters), %d %s, %d %s\n",
		done.Read, done.Through, known, done.Events, done.Duplicates, done.DeadLetters, done.Applied, applied, done.NewDead, dead)
	if done.Unread > 0 {
		fmt.Fprintf(t.Out, "%d messages the aggregator has not read yet: they are left to it\n", done.Unread)
	}
	for _, reason := range slices.Sorted(maps.Keys(done.Dead)) {
		fmt.Fprintf(t.Out, "dead: %d %s, see: odometer deadletters list --reason %s\n", done.Dead[reason], reason, reason)
	}
	for _, n := range done.Negative {
		fmt.Fprintf(t.Out, "still wrong: the events of %s/%s in the period from %s sum to %d, its counter is 0: the stream no longer holds what was corrected\n",
			n.Tenant, n.Agent, n.PeriodStart.Format(time.RFC3339), n.Sum)
	}
	return nil
}

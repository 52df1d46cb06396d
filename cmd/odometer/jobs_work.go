package main

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"odometer"
	"odometer/reporter/alerts"
	"odometer/retention"
	"odometer/terms"
)

// jobSettings are what the jobs need to be run by hand.
type jobSettings struct {
	databaseSettings
	EventRetention      days   `help:"How long events are kept after they were stored." default:"90d" env:"ODOMETER_EVENT_RETENTION"`
	SlackWebhookURL     string `name:"slack-webhook-url" help:"Slack's incoming webhook for alerts." env:"ODOMETER_SLACK_WEBHOOK_URL" placeholder:"URL"`
	SlackWebhookURLFile string `name:"slack-webhook-url-file" help:"A file that holds Slack's webhook." env:"ODOMETER_SLACK_WEBHOOK_URL_FILE" placeholder:"FILE"`
}

// table is the jobs with what they do, and what to call when they are done
// with.
func (s *jobSettings) table(_ context.Context, t *terminal, pool *pgxpool.Pool) ([]job, func(), error) {
	if time.Duration(s.EventRetention) < odometer.MaxAge {
		return nil, nil, usagef("--event-retention %s: keys are remembered for 90 days by the events themselves: give at least 90d", s.EventRetention)
	}
	slack, err := secret("slack-webhook-url", s.SlackWebhookURL, s.SlackWebhookURLFile)
	if err != nil {
		return nil, nil, err
	}
	a := alerts.New(alerts.Options{Pool: pool, Log: t.log, SlackURL: slack})
	return jobTable(map[string]work{
		"rollover":        rollOver(pool),
		"alerts":          look(a),
		"alerts_delivery": deliver(a),
		"retention":       retain(pool, time.Duration(s.EventRetention), t),
	}), func() {}, nil
}

// rollOver lays the periods that have become due.
func rollOver(pool *pgxpool.Pool) work {
	const atOnce = 500
	return func(ctx context.Context, _ slot) error {
		for {
			now := time.Now()
			tenants, err := terms.Due(ctx, pool, now, atOnce)
			if err != nil || len(tenants) == 0 {
				return err
			}
			if err := terms.RollOver(ctx, pool, tenants, now, now.Add(odometer.MaxAhead)); err != nil {
				return err
			}
			if len(tenants) < atOnce {
				return nil
			}
		}
	}
}

// look records what people should be told.
func look(a *alerts.Alerts) work {
	return func(ctx context.Context, _ slot) error {
		_, err := a.Look(ctx)
		return err
	}
}

// deliver tells them.
func deliver(a *alerts.Alerts) work {
	return func(ctx context.Context, _ slot) error {
		_, _, err := a.Deliver(ctx)
		return err
	}
}

// retain removes what is older than the retention.
func retain(pool *pgxpool.Pool, keep time.Duration, t *terminal) work {
	return func(ctx context.Context, _ slot) error {
		_, err := retention.Run(ctx, pool, retention.Options{Retention: keep, Log: t.log})
		return err
	}
}

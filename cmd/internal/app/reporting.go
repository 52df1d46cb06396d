package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"odometer"
	"odometer/aggregator/apply"
	"odometer/aggregator/deadletter"
	"odometer/aggregator/retention"
	"odometer/audit"
	"odometer/billing"
	"odometer/cmd/internal/cli"
	"odometer/cmd/internal/jobs"
	"odometer/reporter"
	"odometer/reporter/alerts"
	"odometer/reporter/subscriptions"
)

// ReportingSettings are what the service reporter, and the jobs done by hand,
// need besides the database.
type ReportingSettings struct {
	StripeSettings
	SlackWebhookURL     string        `name:"slack-webhook-url" help:"Slack's incoming webhook for alerts." env:"ODOMETER_SLACK_WEBHOOK_URL" placeholder:"URL"`
	SlackWebhookURLFile string        `name:"slack-webhook-url-file" help:"A file that holds Slack's webhook." env:"ODOMETER_SLACK_WEBHOOK_URL_FILE" placeholder:"FILE"`
	CloseGrace          time.Duration `help:"How long after its end a billing period waits for late events before it is closed." default:"15m" env:"ODOMETER_CLOSE_GRACE"`
}

// Reporting holds what the jobs work with.
type Reporting struct {
	terminal       *cli.Terminal
	pool           *pgxpool.Pool
	nats           *nats.Conn          // nil for jobs by hand that need none
	Reporter       *reporter.Reporter  // nil when it would need NATS and there is none
	Sync           *subscriptions.Sync // nil without a Stripe key
	alerts         *alerts.Alerts
	grace          time.Duration
	eventRetention time.Duration // of events
	OnDrift        func(counters int64)
	EveryCustomer  bool // each scheduled pass covers every customer, for the demo
}

// Reporting builds what the jobs work with; nc may be nil for jobs that report
// nothing to Stripe.
func (s *ReportingSettings) Reporting(t *cli.Terminal, pool *pgxpool.Pool, nc *nats.Conn, keep time.Duration, metrics *reporter.Metrics) (*Reporting, error) {
	if s.CloseGrace < 0 || s.CloseGrace > 24*time.Hour {
		return nil, cli.Usagef("--close-grace %s: want 0 to 24h", s.CloseGrace)
	}
	slack, err := cli.Secret("slack-webhook-url", s.SlackWebhookURL, s.SlackWebhookURLFile)
	if err != nil {
		return nil, err
	}
	stripe, sink, err := s.Account()
	if err != nil {
		return nil, err
	}
	r := &Reporting{
		terminal: t, pool: pool, nats: nc, grace: s.CloseGrace, eventRetention: keep,
	}
	if r.alerts, err = alerts.New(alerts.Options{Pool: pool, Log: t.Log, SlackURL: slack}); err != nil {
		return nil, err
	}
	if nc != nil || sink == reporter.DryRun {
		if r.Reporter, err = s.Reporter(pool, nc, t.Log, metrics); err != nil {
			return nil, err
		}
	}
	if stripe != nil {
		r.Sync = &subscriptions.Sync{Pool: pool, Stripe: stripe.API, Now: time.Now, Log: t.Log, Recheck: r.refreshInvoice}
	}
	return r, nil
}

// refreshInvoice has a customer's invoices asked for by the next pass.
func (r *Reporting) refreshInvoice(ctx context.Context, customer string) error {
	return reporter.RecheckInvoices(ctx, r.pool, customer, time.Now())
}

// Jobs is what the jobs do, by name.
func (r *Reporting) Jobs() map[string]jobs.Work {
	return map[string]jobs.Work{
		"rollover":      r.rollOver,
		"report":        r.report,
		"verify":        r.verify,
		"reconcile":     r.reconcile,
		"alerts":        r.alert,
		"retention":     r.applyRetention,
		"subscriptions": r.compareSubscriptions,
	}
}

// rollOver creates the periods that have become due, retries dead letters whose
// reason may be gone, and closes the periods that have ended and are read to
// their end.
func (r *Reporting) rollOver(ctx context.Context, _ jobs.Slot) error {
	const atOnce = 500
	for {
		now := time.Now()
		tenants, err := billing.Due(ctx, r.pool, now, atOnce)
		if err != nil {
			return err
		}
		if len(tenants) > 0 {
			if err := billing.RollOver(ctx, r.pool, tenants, now, now.Add(odometer.MaxAhead)); err != nil {
				return err
			}
		}
		if len(tenants) < atOnce {
			break
		}
	}
	retryErr := r.retryDeadLetters(ctx)
	if err := apply.Replaying(ctx, r.pool); err != nil {
		return errors.Join(retryErr, err)
	}
	closed, err := reporter.Close(ctx, r.pool, time.Now(), r.grace)
	if closed > 0 {
		r.terminal.Log.Info("billing periods closed", "periods", closed)
	}
	return errors.Join(retryErr, err)
}

// report makes a pass: by hand over everything, daily over everything that is
// not parked, else over what is due.
func (r *Reporting) report(ctx context.Context, s jobs.Slot) error {
	if r.Reporter == nil {
		return cli.Missing("nats-url")
	}
	if s.ByHand && r.Reporter.Sink == reporter.DryRun {
		return PrintStatement(ctx, r.terminal, r.pool, r.Reporter, nil, false)
	}
	if err := apply.Replaying(ctx, r.pool); err != nil {
		return err
	}
	result, err := r.Reporter.Pass(ctx, reporter.Scope{ByHand: s.ByHand, Due: !s.Daily && !s.ByHand && !r.EveryCustomer})
	if s.ByHand {
		PrintPass(r.terminal, result)
		return PassError(result, err)
	}
	if result.Reported > 0 || result.LeftCount > 0 {
		r.terminal.Log.Info("reporter pass finished", "reported", result.Reported, "units", result.Units, "left", result.LeftCount, "stopped", result.Stopped)
	}
	if err == nil && result.Stopped != "" {
		return fmt.Errorf("the pass ended early: %s", result.Stopped)
	}
	return err
}

// verify compares what Stripe accepted with what it shows.
func (r *Reporting) verify(ctx context.Context, s jobs.Slot) error {
	if r.Reporter == nil {
		return cli.Missing("nats-url")
	}
	v, err := r.Reporter.Verify(ctx, s.ByHand)
	if s.ByHand {
		if v.Released {
			fmt.Fprintf(r.terminal.Out, "the ledger was compared with Stripe, which had %d totals beyond it; the reporter may go on\n", v.Appended)
		}
		fmt.Fprintf(r.terminal.Out, "compared %d: equal %d, different %d, unsettled %d\n", v.Compared, v.Equal, v.Different, v.Pending)
		if err == nil && v.Different > 0 {
			return cli.ErrFindings
		}
	}
	return err
}

func (r *Reporting) retryDeadLetters(ctx context.Context) error {
	retried, err := deadletter.AutoRetry(ctx, r.pool)
	if retried > 0 {
		r.terminal.Log.Info("dead letters counted by a retry", "dead_letters", retried)
	}
	return err
}

// reconcile runs the audit and repairs counters from events that the stream
// bears out. What the audit found is kept.
func (r *Reporting) reconcile(ctx context.Context, s jobs.Slot) error {
	if r.nats == nil {
		return cli.Missing("nats-url")
	}
	options := audit.Options{Pool: r.pool, NATS: r.nats, Log: r.terminal.Log, Drift: r.OnDrift}
	if r.Reporter != nil && r.Reporter.Stripe != nil {
		options.Stripe = StripeChecks(r.Reporter)
	}
	result, err := audit.Reconcile(ctx, options, audit.Scope{}, audit.ReconcileOptions{By: actorOf(s)}, nil)
	if err != nil {
		return err
	}
	if err := audit.RecordFindings(ctx, r.pool, result.Report); err != nil {
		return err
	}
	if err := audit.StoreReport(ctx, r.pool, result.Report, actorOf(s)); err != nil {
		return err
	}
	if s.ByHand {
		PrintAudit(r.terminal, result.Report)
		PrintRepairs(r.terminal, result)
		if !result.Done() {
			return cli.ErrFindings
		}
		return nil
	}
	level := slog.LevelInfo
	if !result.Done() {
		level = slog.LevelError
	}
	r.terminal.Log.Log(ctx, level, "audit finished", "different", result.Report.Different,
		"repaired", len(result.Repaired), "left", len(result.Left), "others", result.Others)
	return nil
}

// actorOf is who repairs: a person by hand, else the job.
func actorOf(s jobs.Slot) string {
	if s.ByHand {
		return cli.Operator()
	}
	return "job reconcile"
}

// alert records what customers and operators should know. River delivers it to
// Slack; a run by hand, which needs no service, does so itself.
func (r *Reporting) alert(ctx context.Context, s jobs.Slot) error {
	_, err := r.alerts.Evaluate(ctx)
	if s.ByHand {
		_, deliverErr := r.alerts.Deliver(ctx)
		err = errors.Join(err, deliverErr)
	}
	return err
}

// applyRetention removes what is older than the retention.
func (r *Reporting) applyRetention(ctx context.Context, _ jobs.Slot) error {
	_, err := retention.Run(ctx, r.pool, retention.Options{Retention: r.eventRetention, Log: r.terminal.Log})
	return err
}

// compareSubscriptions brings our subscriptions to Stripe's.
func (r *Reporting) compareSubscriptions(ctx context.Context, s jobs.Slot) error {
	if r.Sync == nil {
		if s.ByHand {
			return cli.Missing("stripe-api-key")
		}
		return nil
	}
	compared, err := r.Sync.Compare(ctx)
	if s.ByHand {
		fmt.Fprintf(r.terminal.Out, "compared %d subscriptions: changed %d, findings %d\n", compared.Listed, compared.Changed, compared.Findings)
	}
	return err
}

// StripeSettings say how usage is reported to Stripe.
type StripeSettings struct {
	StripeAPIKey     string        `name:"stripe-api-key" help:"The secret or restricted key of the Stripe account." env:"ODOMETER_STRIPE_API_KEY" placeholder:"KEY"`
	StripeAPIKeyFile string        `name:"stripe-api-key-file" help:"A file that holds the key." env:"ODOMETER_STRIPE_API_KEY_FILE" placeholder:"FILE"`
	StripeAPIBase    string        `name:"stripe-api-base" help:"Another address than Stripe's own, for a proxy or a stand-in." env:"ODOMETER_STRIPE_API_BASE" placeholder:"URL"`
	StripeSink       string        `name:"stripe-sink" help:"How usage is reported to Stripe: meter_events, usage_records or dry_run; by default meter_events with a key and dry_run without." enum:",meter_events,usage_records,dry_run" default:"" env:"ODOMETER_STRIPE_SINK"`
	BreakerCooldown  time.Duration `help:"How long no call goes to Stripe after five customers failed in a row." default:"15m" env:"ODOMETER_BREAKER_COOLDOWN"`
}

// Account is Stripe as the settings name it, nil without a key, and the sink.
func (s *StripeSettings) Account() (*reporter.Stripe, reporter.Sink, error) {
	key, err := cli.Secret("stripe-api-key", s.StripeAPIKey, s.StripeAPIKeyFile)
	if err != nil {
		return nil, "", err
	}
	sink := reporter.Sink(s.StripeSink)
	switch {
	case sink == "" && key == "":
		sink = reporter.DryRun
	case sink == "":
		sink = reporter.MeterEvents
	}
	if base, err := url.Parse(s.StripeAPIBase); err != nil || s.StripeAPIBase != "" && (base.Scheme == "" || base.Host == "") {
		return nil, "", cli.Usagef("--stripe-api-base %q: want a URL as http://127.0.0.1:12111", s.StripeAPIBase)
	}
	switch {
	case key != "":
		return reporter.NewStripe(key, s.StripeAPIBase), sink, nil
	case sink == reporter.DryRun:
		return nil, sink, nil
	default:
		return nil, "", cli.Missing("stripe-api-key")
	}
}

// Reporter builds the reporter that the settings describe; nc may be nil with
// the sink dry_run.
func (s *StripeSettings) Reporter(pool *pgxpool.Pool, nc *nats.Conn, log *slog.Logger, metrics *reporter.Metrics) (*reporter.Reporter, error) {
	stripe, sink, err := s.Account()
	if err != nil {
		return nil, err
	}
	options := reporter.Options{
		Pool: pool, Stripe: stripe, Sink: sink, BreakerCooldown: s.BreakerCooldown, Log: log, Metrics: metrics,
	}
	if nc != nil {
		if options.NATS, err = jetstream.New(nc); err != nil {
			return nil, err
		}
	}
	return reporter.New(options)
}

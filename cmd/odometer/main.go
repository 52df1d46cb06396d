// Command odometer meters the usage of AI agents: one binary for the services,
// the operators' commands and the demo. Each file holds one command: its flags,
// and the calls to the packages that do the work. The packages below
// cmd/internal hold what commands share (cli), how services are put together
// (app), the jobs, the demo and the benchmarks.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"odometer/cmd/internal/cli"
)

// commands are the command line.
type commands struct {
	Demo         demoCmd         `cmd:"" help:"Everything on this machine: NATS, Postgres, agents, all services. Example: odometer demo --for 20s"`
	Run          runCmd          `cmd:"" help:"Run services in one process. Example: odometer run aggregator query --database-url postgres://localhost/odometer --nats-url nats://localhost:4222 --jwt-secret-file secret"`
	Migrate      migrateCmd      `cmd:"" help:"Change the database's schema. Example: odometer migrate up --database-url postgres://localhost/odometer"`
	Catalogue    catalogueCmd    `cmd:"" help:"Agents, actions, plans, allowances and prices. Example: odometer catalogue apply -f catalogue.yaml"`
	Subscription subscriptionCmd `cmd:"" help:"Tenants' subscriptions. Example: odometer subscription show --tenant 0b7e4d1c-6f0e-4a53-9d55-3c1c0a3f7e01"`
	Token        tokenCmd        `cmd:"" help:"Print a signed token for the API. Example: odometer token --tenant 0b7e4d1c-6f0e-4a53-9d55-3c1c0a3f7e01 --ttl 24h"`
	Publish      publishCmd      `cmd:"" help:"Publish an event, or a file of them. Example: odometer publish --tenant 0b7e4d1c-6f0e-4a53-9d55-3c1c0a3f7e01 --agent inbox --action email_processed"`
	Usage        usageCmd        `cmd:"" help:"A tenant's current usage. Example: odometer usage --tenant 0b7e4d1c-6f0e-4a53-9d55-3c1c0a3f7e01"`
	Replay       replayCmd       `cmd:"" help:"Read the stream again and apply what is missing. Example: odometer replay --dry-run"`
	Deadletters  deadlettersCmd  `cmd:"" help:"Messages that could not be counted: list, show, retry, discard. Example: odometer deadletters list"`
	Adjust       adjustCmd       `cmd:"" help:"Correct what is counted, by an event with a reason. Example: odometer adjust --tenant 0b7e4d1c-6f0e-4a53-9d55-3c1c0a3f7e01 --agent inbox --quantity -5 --reason \"test traffic\""`
	Audit        auditCmd        `cmd:"" help:"Compare what agents published, what is stored, counted and reported, and what Stripe has; changes nothing. Example: odometer audit"`
	Reconcile    reconcileCmd    `cmd:"" help:"Audit, and repair counters from events where the stream confirms them. Example: odometer reconcile --tenant 0b7e4d1c-6f0e-4a53-9d55-3c1c0a3f7e01"`
	Report       reportCmd       `cmd:"" help:"Report overage to Stripe now, in one pass. Example: odometer report --dry-run"`
	Jobs         jobsCmd         `cmd:"" help:"Scheduled jobs: close periods, report, verify, alert, apply the retention. Example: odometer jobs list"`
	Bench        benchCmd        `cmd:"" help:"Run the benchmarks of the documentation on this machine. Example: odometer bench"`

	LogFormat string `help:"Form of the log on stderr: ${enum}." enum:"text,json" default:"text" env:"ODOMETER_LOG_FORMAT"`
	LogLevel  string `help:"Least level that is logged: ${enum}." enum:"debug,info,warn,error" default:"info" env:"ODOMETER_LOG_LEVEL"`
}

func main() { os.Exit(run()) }

// run ends the command's context at the first signal; a second one ends the
// process at once.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	return Main(ctx, os.Args[1:], os.Stdout, os.Stderr)
}

// Main runs one command and returns the process's exit code.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var parsed commands
	help := false
	parser, err := kong.New(&parsed, append([]kong.Option{
		kong.Name("odometer"),
		kong.Description("Usage metering and overage billing for products built on AI agents."),
		kong.Writers(stdout, stderr),
		kong.Exit(func(int) { help = true }),
		kong.UsageOnError(),
	}, cli.ValueTypes...)...)
	if err != nil {
		panic(err) // the struct above is wrong
	}
	command, err := parser.Parse(args)
	if help {
		return cli.ExitDone
	}
	if err != nil {
		fmt.Fprintf(stderr, "odometer: %s (see: odometer --help)\n", cli.UsageMessage(err))
		return cli.ExitUsage
	}
	t := cli.NewTerminal(stdout, stderr, parsed.LogFormat, parsed.LogLevel)
	command.BindTo(ctx, (*context.Context)(nil))
	if err := command.Run(t); err != nil {
		if !errors.Is(err, cli.ErrFindings) {
			fmt.Fprintf(stderr, "odometer: %s\n", cli.OneLine(err))
		}
		return cli.ExitCode(err)
	}
	return cli.ExitDone
}

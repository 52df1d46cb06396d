// Command odometer meters the usage of AI agents: one binary for the services,
// the operators' commands and the demo. A file holds a command; here are only
// the flags, the wiring and the life and death of the process.
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
)

// Exit codes, as the contract promises them.
const (
	exitDone        = 0
	exitFound       = 1 // something was found or left over
	exitUsage       = 2 // wrong usage or configuration, or the schema is behind
	exitUnreachable = 3 // a dependency could not be reached
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
	Audit        auditCmd        `cmd:"" help:"Compare what agents said, what is stored, counted and told, and what Stripe has; changes nothing. Example: odometer audit"`
	Reconcile    reconcileCmd    `cmd:"" help:"The audit, and repair counters from events where the stream bears them out. Example: odometer reconcile --tenant 0b7e4d1c-6f0e-4a53-9d55-3c1c0a3f7e01"`
	Report       reportCmd       `cmd:"" help:"Tell Stripe the overage that it does not know yet, in one pass. Example: odometer report --dry-run"`
	Jobs         jobsCmd         `cmd:"" help:"What is done by the clock: close, report, verify, alert, retain. Example: odometer jobs list"`
	Bench        benchCmd        `cmd:"" help:"The races of the README, in one table. Example: odometer bench"`

	LogFormat string `help:"Form of the log on stderr: ${enum}." enum:"text,json" default:"text" env:"ODOMETER_LOG_FORMAT"`
	LogLevel  string `help:"Least level that is logged: ${enum}." enum:"debug,info,warn,error" default:"info" env:"ODOMETER_LOG_LEVEL"`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(Main(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// Main runs one command and returns the process's exit code.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var cli commands
	help := false
	parser, err := kong.New(&cli, append([]kong.Option{
		kong.Name("odometer"),
		kong.Description("Usage metering and overage billing for products built on AI agents."),
		kong.Writers(stdout, stderr),
		kong.Exit(func(int) { help = true }),
		kong.UsageOnError(),
	}, valueTypes...)...)
	if err != nil {
		panic(err) // the struct above is wrong
	}
	command, err := parser.Parse(args)
	if help {
		return exitDone
	}
	if err != nil {
		fmt.Fprintf(stderr, "odometer: %s (see: odometer --help)\n", usageFault(err))
		return exitUsage
	}
	t := newTerminal(stdout, stderr, cli.LogFormat, cli.LogLevel)
	command.BindTo(ctx, (*context.Context)(nil))
	if err := command.Run(t); err != nil {
		if !errors.Is(err, errSaid) {
			fmt.Fprintf(stderr, "odometer: %s\n", oneLine(err))
		}
		return exitCode(err)
	}
	return exitDone
}

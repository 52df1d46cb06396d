package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"

	"odometer/aggregator"
	"odometer/cmd/internal/app"
	"odometer/cmd/internal/cli"
)

// A part of a benchmark runs in a child process, this program once more, so that
// its memory and CPU time are its own. The protocol is by lines: the child
// prints "ready" with what the parent has to know, begins when it reads a line,
// and prints its result as JSON. It ends when its standard input does, so also
// when the parent is killed.

// Child is the hidden part of the command line that makes a process a child.
type Child struct {
	Role   string `hidden:""`
	Params string `hidden:""` // of the role, as JSON
}

// childParams are what any role may need.
type childParams struct {
	DatabaseURL, NATSURL string
	Messages             int    // that the stream holds
	Connections          int    // of the naive way
	Secret               string // of tokens, in hexadecimal
	File, URL            string // of the requests; where they go
}

// childWork does a child's work once it may begin. Its result is nil when the
// work only ends with the process.
type childWork func(context.Context) (result any, err error)

// roles prepare each kind of child: what they return begins when the parent lets it.
var roles = map[string]func(context.Context, *cli.Terminal, childParams) (work childWork, ready string, err error){
	"aggregator": prepareAggregator,
	"naive":      prepareNaive,
	"reader":     prepareReader,
	"handler":    prepareHandler,
	"clients":    prepareClients,
	"ordered":    prepareOrderedReader,
	"audit":      prepareAudit,
}

// Run runs a child process.
func (c *Child) Run(ctx context.Context, t *cli.Terminal) error {
	prepare, known := roles[c.Role]
	var p childParams
	if err := json.Unmarshal([]byte(c.Params), &p); err != nil || !known {
		return cli.Usagef("role %q of a child process with %q: %v", c.Role, c.Params, err)
	}
	work, ready, err := prepare(ctx, t, p)
	if err != nil {
		return err
	}
	fmt.Fprintln(t.Out, "ready", ready)
	input := bufio.NewReader(os.Stdin)
	if _, err := input.ReadString('\n'); err != nil {
		return nil // the parent has given up
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, input) // until the parent closes it
		cancel()
	}()
	result, err := work(ctx)
	if err != nil || result == nil {
		return err
	}
	if err := json.NewEncoder(t.Out).Encode(result); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// process is a child, as its parent has it.
type process struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Reader
	ready string
}

// start starts a child and returns when it is ready to begin.
func (e *environment) start(ctx context.Context, role string, params childParams) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	text, err := json.Marshal(params)
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.CommandContext(ctx, self, "bench", "--log-level=warn", "--child-role", role, "--child-params", string(text))}
	p.cmd.Stderr, p.cmd.WaitDelay = e.terminal.Err, 10*time.Second
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	p.cmd.Cancel = p.in.Close
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a child process: %w", err)
	}
	line, err := p.out.ReadString('\n')
	ready, found := strings.CutPrefix(line, "ready")
	if err != nil || !found {
		return nil, errors.Join(fmt.Errorf("the child process %s printed %q instead of ready", role, line), p.stop())
	}
	p.ready = strings.TrimSpace(ready)
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// begin lets the child do its work.
func (p *process) begin() error {
	if _, err := fmt.Fprintln(p.in, "begin"); err != nil {
		return fmt.Errorf("start a child process: %w", err)
	}
	return nil
}

// do lets the child do its work and reads the result.
func (p *process) do(result any) error {
	if err := p.begin(); err != nil {
		return err
	}
	line, err := p.out.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("a child process ended without a result: %w", err)
	}
	return json.Unmarshal(line, result)
}

// stop ends the child and waits until it has.
func (p *process) stop() error {
	_ = p.in.Close()
	if err := p.cmd.Wait(); err != nil {
		return fmt.Errorf("a child process failed: %w", err)
	}
	return nil
}

// measurement is what some work has cost. It is 0 where the system does not report it.
type measurement struct {
	took     time.Duration
	here     time.Duration   // CPU time of this process: NATS, or what sends rows
	postgres time.Duration   // CPU time of Postgres with its backends
	children []time.Duration // CPU time of each child
	peak     int64           // bytes of memory that the first child held at most
}

// cpu is the CPU time of all.
func (m measurement) cpu() time.Duration { return m.here + m.postgres + m.child() }

// child is the CPU time of all children.
func (m measurement) child() (sum time.Duration) {
	for _, d := range m.children {
		sum += d
	}
	return sum
}

// measure takes the time and the CPU time of some work by this process,
// Postgres and children.
func (e *environment) measure(work func() error, children ...*process) (m measurement, err error) {
	before, begin := e.cpuTimes(children), time.Now()
	if err := work(); err != nil {
		return m, err
	}
	took := time.Since(begin)
	m = e.cpuTimes(children)
	m.took = took
	m.here -= before.here
	m.postgres -= before.postgres
	for i := range children {
		m.children[i] -= before.children[i]
	}
	return m, nil
}

// prepareAggregator is the aggregator with its default options.
func prepareAggregator(ctx context.Context, t *cli.Terminal, p childParams) (childWork, string, error) {
	nc, pool, err := connectChild(ctx, p)
	if err != nil {
		return nil, "", err
	}
	app.LowerGCPercent()
	a, err := aggregator.New(aggregator.Options{
		Pool: pool, NATS: nc, Log: t.Log, Metrics: aggregator.NewMetrics(app.NewRegistry(), false),
	})
	return func(ctx context.Context) (any, error) {
		defer nc.Close()
		defer pool.Close()
		return nil, a.Run(ctx)
	}, "", err
}

// connectChild connects to NATS and Postgres, and proves that both answer.
func connectChild(ctx context.Context, p childParams) (*nats.Conn, *pgxpool.Pool, error) {
	nc, err := nats.Connect(p.NATSURL)
	if err != nil {
		return nil, nil, fmt.Errorf("connect to NATS: %w", err)
	}
	pool, err := newPool(ctx, p.DatabaseURL)
	if err != nil {
		return nil, nil, err
	}
	if err := pool.Ping(ctx); err != nil {
		return nil, nil, fmt.Errorf("connect to Postgres: %w", err)
	}
	return nc, pool, nil
}

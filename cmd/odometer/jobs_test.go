package main

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"odometer/migrations/pgtest"
)

// diary is what jobs did, in order.
type diary struct {
	mu    sync.Mutex
	slots []slot
	wrote chan struct{}
}

func newDiary() *diary { return &diary{wrote: make(chan struct{}, 1000)} }

// note is a job that only writes itself down.
func (d *diary) note(_ context.Context, s slot) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.slots = append(d.slots, s)
	d.wrote <- struct{}{}
	return nil
}

func (d *diary) read() []slot {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.slots)
}

// wait waits for n more entries.
func (d *diary) wait(t *testing.T, n int) {
	t.Helper()
	for range n {
		await(t, d.wrote, "a job to run")
	}
}

func await(t *testing.T, what <-chan struct{}, name string) {
	t.Helper()
	select {
	case <-what:
	case <-time.After(15 * time.Second):
		t.Fatalf("waited too long for %s", name)
	}
}

// start runs the jobs until the returned function is called or the test ends.
func start(t *testing.T, pool *pgxpool.Pool, now func() time.Time, jobs ...job) (stop func()) {
	t.Helper()
	r := newJobRunner(pool, jobs, slog.New(slog.DiscardHandler))
	r.tick = 50 * time.Millisecond
	if now != nil {
		r.now = now
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the runner ended with %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func TestEachSlotIsDoneOnceByTwoRunners(t *testing.T) {
	t.Parallel()
	pool, d := pgtest.New(t), newDiary()
	other, err := pgxpool.NewWithConfig(t.Context(), pool.Config())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(other.Close)
	j := job{name: "often", every: time.Second, at: "00:00", run: d.note}
	stop, stopOther := start(t, pool, nil, j), start(t, other, nil, j)
	d.wait(t, 4)
	stop()
	d.wait(t, 1) // the other one goes on alone
	stopOther()
	seen := map[slot]bool{}
	for _, s := range d.read() {
		if seen[s] {
			t.Errorf("slot %v was done twice", s)
		}
		seen[s] = true
	}
}

func TestAMissedTimeIsMadeUpOnceAfterARestart(t *testing.T) {
	t.Parallel()
	pool, d := pgtest.New(t), newDiary()
	clock := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	now := func() time.Time { return clock }
	j := job{name: "daily", at: "02:00", run: d.note}
	stop := start(t, pool, now, j)
	d.wait(t, 1)
	stop()
	stop = start(t, pool, now, j, job{name: "mark", every: time.Minute, run: d.note})
	d.wait(t, 1) // only the mark: the day's slot is done
	stop()

	clock = clock.AddDate(0, 0, 3) // nobody was there for three midnights
	stop = start(t, pool, now, j)
	d.wait(t, 1)
	stop()
	var daily []string
	for _, s := range d.read() {
		if s.daily {
			daily = append(daily, s.at.Format(time.RFC3339))
		}
	}
	if want := []string{"2026-11-20T02:00:00Z", "2026-11-23T02:00:00Z"}; !slices.Equal(daily, want) {
		t.Errorf("done were %q, want %q", daily, want)
	}
}

func TestPausingSurvivesARestartAndPilesNothingUp(t *testing.T) {
	t.Parallel()
	pool, d, mark := pgtest.New(t), newDiary(), newDiary()
	jobs := []job{{name: "often", every: time.Second, run: d.note}, {name: "mark", every: time.Second, run: mark.note}}
	for range 2 { // it is idempotent, and needs neither a service nor a queue
		if err := setPaused(t.Context(), pool, jobs, "often", "me", pauseJob); err != nil {
			t.Fatal(err)
		}
	}
	// Even after the time in which River forgets a queue.
	if _, err := pool.Exec(t.Context(), `update river_queue set updated_at = now() - interval '3 days'`); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		stop := start(t, pool, nil, jobs...)
		mark.wait(t, 3)
		stop()
	}
	if got := d.read(); len(got) > 0 {
		t.Errorf("a paused job ran: %v", got)
	}
	var waiting int
	if err := pool.QueryRow(t.Context(), `select count(*) from river_job where queue = 'often'`).Scan(&waiting); err != nil || waiting != 1 {
		t.Errorf("%d slots wait, %v; want one", waiting, err)
	}
	start(t, pool, nil, jobs...)
	mark.wait(t, 1)
	for range 2 {
		if err := setPaused(t.Context(), pool, jobs, "often", "me", resumeJob); err != nil {
			t.Fatal(err)
		}
	}
	d.wait(t, 2)
}

// A process that was killed leaves its slot running; River takes it up again
// only after the job's longest time.
func TestASlotThatDiedHoldsUpNoLaterOne(t *testing.T) {
	t.Parallel()
	pool, d := pgtest.New(t), newDiary()
	j := job{name: "often", every: time.Second, run: d.note}
	stop := start(t, pool, nil, j)
	d.wait(t, 1)
	stop()
	if _, err := pool.Exec(t.Context(), `update river_job set state = 'running', finalized_at = null, attempted_at = now()`); err != nil {
		t.Fatal(err)
	}
	start(t, pool, nil, j)
	d.wait(t, 1)
}

func TestAFailedDailySlotIsTriedAgainAndAFailedMinuteIsLeftToTheNext(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	broken := newDiary()
	fail := func(ctx context.Context, s slot) error {
		return errors.Join(broken.note(ctx, s), errors.New("Stripe is away"))
	}
	stop := start(t, pool, nil, job{name: "daily", at: "00:00", run: fail}, job{name: "minute", every: time.Minute, run: fail})
	broken.wait(t, 2)
	stop()
	for queue, want := range map[string]string{"daily": "retryable", "minute": "cancelled"} {
		var state string
		err := pool.QueryRow(t.Context(), `select state::text from river_job where queue = $1 order by id limit 1`, queue).Scan(&state)
		if err != nil || state != want {
			t.Errorf("the slot of %s is %s, %v; want %s", queue, state, err, want)
		}
	}
	var failed int
	if err := pool.QueryRow(t.Context(), `select count(*) from jobs where last_error = 'Stripe is away' and last_success_at is null and last_started_at is not null`).Scan(&failed); err != nil || failed != 2 {
		t.Errorf("%d jobs say why they failed, %v", failed, err)
	}
}

func TestAPanicIsTheErrorOfItsJobAlone(t *testing.T) {
	t.Parallel()
	pool, d := pgtest.New(t), newDiary()
	err := runJobOnce(t.Context(), pool, []job{{name: "bad", run: func(context.Context, slot) error { panic("oops") }}}, "bad", "me")
	if err == nil || !strings.Contains(err.Error(), "panic: oops") {
		t.Errorf("it says %v", err)
	}
	if err := runJobOnce(t.Context(), pool, []job{{name: "bad", run: d.note}}, "bad", "me"); err != nil {
		t.Error(err)
	}
}

func TestARunByHandWaitsItsTurnAndAScheduledOneIsSkipped(t *testing.T) {
	t.Parallel()
	pool, d := pgtest.New(t), newDiary()
	entered, leave := make(chan struct{}, 1), make(chan struct{})
	slow := job{name: "slow", every: time.Hour, run: func(ctx context.Context, s slot) error {
		entered <- struct{}{}
		<-leave
		return nil
	}}
	first := make(chan error, 1)
	go func() { first <- runJobOnce(t.Context(), pool, []job{slow}, "slow", "me") }()
	await(t, entered, "the first run")

	quick := job{name: "slow", every: time.Hour, run: d.note}
	if err := execute(t.Context(), pool, quick, slot{}, false); !errors.Is(err, errTaken) {
		t.Errorf("a scheduled run beside it: %v", err)
	}
	second := make(chan error, 1)
	go func() { second <- runJobOnce(t.Context(), pool, []job{quick}, "slow", "you") }()
	select {
	case err := <-second:
		t.Fatalf("the second run did not wait: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	close(leave)
	for _, done := range []chan error{first, second} {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if got := d.read(); len(got) != 1 || !got[0].byHand {
		t.Errorf("the second run did %v", got)
	}
}

func TestAStopIsNeitherSuccessNorFailureAndLeavesTheSlot(t *testing.T) {
	t.Parallel()
	pool, d := pgtest.New(t), newDiary()
	entered := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	wait := job{name: "long", run: func(ctx context.Context, _ slot) error {
		entered <- struct{}{}
		<-ctx.Done()
		return errors.New("cut off")
	}}
	done := make(chan error, 1)
	go func() { done <- execute(ctx, pool, wait, slot{}, false) }()
	await(t, entered, "the run")
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("it says %v", err)
	}
	var clean bool
	if err := pool.QueryRow(t.Context(), `select last_error is null and last_success_at is null from jobs`).Scan(&clean); err != nil || !clean {
		t.Errorf("the stop was written down as a result: %v", err)
	}
	if err := execute(t.Context(), pool, job{name: "long", run: d.note}, slot{}, false); err != nil {
		t.Errorf("the lock was not given back: %v", err)
	}
}

func TestSlotsAreTimesOfTheClock(t *testing.T) {
	t.Parallel()
	at := func(s string) time.Time {
		parsed, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return parsed
	}
	j := job{name: "report", every: time.Minute, at: "01:00"}
	for now, want := range map[string][2]string{
		"2026-11-23T00:59:59Z":      {"2026-11-23T00:59:00Z", "2026-11-22T01:00:00Z"},
		"2026-11-23T01:00:00Z":      {"2026-11-23T01:00:00Z", "2026-11-23T01:00:00Z"},
		"2026-11-23T02:00:01+01:00": {"2026-11-23T01:00:00Z", "2026-11-23T01:00:00Z"},
	} {
		got := j.latest(at(now))
		if !got[0].at.Equal(at(want[0])) || !got[1].at.Equal(at(want[1])) || got[0].daily || !got[1].daily {
			t.Errorf("at %s the slots are %v, want %v", now, got, want)
		}
	}
	started := at("2026-11-23T14:00:00Z")
	daily := job{name: "retention", at: "02:00"}
	for _, c := range []struct {
		started *time.Time
		want    string
	}{{nil, "2026-11-25T02:00:00Z"}, {&started, "2026-11-24T02:00:00Z"}} {
		if got := daily.due(at("2026-11-25T12:00:00Z"), c.started); !got.Equal(at(c.want)) {
			t.Errorf("started %v it is due %s, want %s", c.started, got, c.want)
		}
	}
}

func TestTheJobsGoOnAfterTheDatabaseWasAway(t *testing.T) {
	t.Parallel()
	server, d := pgtest.Server(t), newDiary()
	pool, err := pgxpool.New(t.Context(), server.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	start(t, pool, nil, job{name: "often", every: time.Second, run: d.note})
	d.wait(t, 1)
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	for len(d.wrote) > 0 {
		<-d.wrote
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.wait(t, 2)
}

package jobs

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
	"github.com/prometheus/client_golang/prometheus"

	"odometer/migrations/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// recorder is a job that only records its slots, in order.
type recorder struct {
	mu    sync.Mutex
	slots []Slot
	ran   chan struct{}
}

func newRecorder() *recorder { return &recorder{ran: make(chan struct{}, 1000)} }

func (d *recorder) run(_ context.Context, s Slot) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.slots = append(d.slots, s)
	d.ran <- struct{}{}
	return nil
}

func (d *recorder) read() []Slot {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.slots)
}

// wait waits for n more slots.
func (d *recorder) wait(t *testing.T, n int) {
	t.Helper()
	for range n {
		await(t, d.ran, "a job to run")
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
func start(t *testing.T, pool *pgxpool.Pool, now func() time.Time, jobs ...Job) (stop func()) {
	t.Helper()
	s := &Service{Pool: pool, Jobs: jobs, Log: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry(), now: now}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the service ended with %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func TestTwoServicesRunEachSlotOnce(t *testing.T) {
	t.Parallel()
	pool, d := pgtest.New(t), newRecorder()
	other, err := pgxpool.NewWithConfig(t.Context(), pool.Config())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(other.Close)
	j := Job{Name: "often", Every: time.Second, At: "00:00", Run: d.run}
	stop, stopOther := start(t, pool, nil, j), start(t, other, nil, j)
	d.wait(t, 4)
	stop()
	d.wait(t, 1) // the other one continues alone
	stopOther()
	seen := map[Slot]bool{}
	for _, s := range d.read() {
		if seen[s] {
			t.Errorf("slot %v ran twice", s)
		}
		seen[s] = true
	}
}

func TestMissedSlotIsMadeUpOnceAfterRestart(t *testing.T) {
	t.Parallel()
	pool, d := pgtest.New(t), newRecorder()
	clock := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	now := func() time.Time { return clock }
	j := Job{Name: "daily", At: "02:00", Run: d.run}
	stop := start(t, pool, now, j)
	d.wait(t, 1)
	stop()
	stop = start(t, pool, now, j, Job{Name: "mark", Every: time.Minute, Run: d.run})
	d.wait(t, 1) // only the mark: the slot of the day is done
	stop()

	clock = clock.AddDate(0, 0, 3) // no service ran for three nights
	stop = start(t, pool, now, j)
	d.wait(t, 1)
	stop()
	var daily []string
	for _, s := range d.read() {
		if s.Daily {
			daily = append(daily, s.At.Format(time.RFC3339))
		}
	}
	if want := []string{"2026-11-20T02:00:00Z", "2026-11-23T02:00:00Z"}; !slices.Equal(daily, want) {
		t.Errorf("the slots were %q, want %q", daily, want)
	}
}

func TestPauseSurvivesRestartAndAWeekWithoutService(t *testing.T) {
	t.Parallel()
	pool, d, mark := pgtest.New(t), newRecorder(), newRecorder()
	jobs := []Job{{Name: "often", Every: time.Second, Run: d.run}, {Name: "mark", Every: time.Second, Run: mark.run}}
	for range 2 { // it can be repeated, and needs neither a service nor a queue
		if err := setPaused(t.Context(), pool, "often", true, "me"); err != nil {
			t.Fatal(err)
		}
	}
	// River removes a queue that was not in use for a day.
	if _, err := pool.Exec(t.Context(), `update river_queue set updated_at = now() - interval '8 days'`); err != nil {
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
	if err := pool.QueryRow(t.Context(), `select count(*) from river_job where queue = 'often'`).Scan(&waiting); err != nil || waiting < 2 {
		t.Errorf("%d slots wait, %v; want those of the pause", waiting, err)
	}
	resumed := time.Now()
	for range 2 {
		if err := setPaused(t.Context(), pool, "often", false, "me"); err != nil {
			t.Fatal(err)
		}
	}
	start(t, pool, nil, jobs...)
	d.wait(t, 2)
	for _, s := range d.read() {
		if s.At.Before(resumed.Add(-2 * time.Second)) {
			t.Errorf("slot %s of the pause ran after %s", s.At, resumed)
		}
	}
}

func TestANewerSlotStandsForThoseThatWait(t *testing.T) {
	t.Parallel()
	pool, d := pgtest.New(t), newRecorder()
	entered, leave := make(chan struct{}, 1), make(chan struct{})
	slow := Job{Name: "slow", Every: time.Second, Run: func(ctx context.Context, s Slot) error {
		if len(d.read()) == 0 {
			entered <- struct{}{}
			<-leave
		}
		return d.run(ctx, s)
	}}
	mark := newRecorder()
	start(t, pool, nil, slow, Job{Name: "mark", Every: time.Second, Run: mark.run})
	await(t, entered, "the first run")
	mark.wait(t, 5) // meanwhile several slots of the slow job come due
	close(leave)
	d.wait(t, 2)
	if got := d.read(); got[1].At.Sub(got[0].At) < 3*time.Second {
		t.Errorf("after slot %s ran %s: a slot that a newer one stands for", got[0].At, got[1].At)
	}
}

// A process that was killed leaves its slot running. River takes it up again
// only after the job's timeout.
func TestSlotOfAKilledProcessBlocksNoLaterOne(t *testing.T) {
	t.Parallel()
	pool, d := pgtest.New(t), newRecorder()
	j := Job{Name: "often", Every: time.Second, Run: d.run}
	stop := start(t, pool, nil, j)
	d.wait(t, 1)
	stop()
	if _, err := pool.Exec(t.Context(), `update river_job set state = 'running', finalized_at = null, attempted_at = now()`); err != nil {
		t.Fatal(err)
	}
	start(t, pool, nil, j)
	d.wait(t, 1)
}

func TestFailedDailySlotIsRetriedAndFailedMinuteIsNot(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	broken := newRecorder()
	fail := func(ctx context.Context, s Slot) error {
		return errors.Join(broken.run(ctx, s), errors.New("Stripe is away"))
	}
	stop := start(t, pool, nil, Job{Name: "daily", At: "00:00", Run: fail}, Job{Name: "minute", Every: time.Minute, Run: fail})
	broken.wait(t, 2)
	stop()
	for queue, want := range map[string]string{"daily": "waits for a retry", "minute": "cancelled"} {
		var state string
		err := pool.QueryRow(t.Context(), `
select case when finalized_at is null and cardinality(errors) > 0 then 'waits for a retry' else state::text end
from river_job where queue = $1 order by id limit 1`, queue).Scan(&state)
		if err != nil || state != want {
			t.Errorf("the slot of %s is %s, %v; want %s", queue, state, err, want)
		}
	}
	var failed int
	if err := pool.QueryRow(t.Context(), `select count(*) from jobs where last_error = 'Stripe is away' and last_success_at is null and last_started_at is not null and failures > 0`).Scan(&failed); err != nil || failed != 2 {
		t.Errorf("%d jobs have their error recorded, %v", failed, err)
	}
}

func TestPanicIsAnErrorOfItsJob(t *testing.T) {
	t.Parallel()
	pool, d := pgtest.New(t), newRecorder()
	err := RunOnce(t.Context(), pool, Job{Name: "bad", Run: func(context.Context, Slot) error { panic("oops") }}, "me")
	if err == nil || !strings.Contains(err.Error(), "panic: oops") {
		t.Errorf("the error is %v", err)
	}
	if err := RunOnce(t.Context(), pool, Job{Name: "bad", Run: d.run}, "me"); err != nil {
		t.Error(err)
	}
}

func TestRunByHandWaitsAndScheduledRunDoesNot(t *testing.T) {
	t.Parallel()
	pool, d := pgtest.New(t), newRecorder()
	entered, leave := make(chan struct{}, 1), make(chan struct{})
	slow := Job{Name: "slow", Every: time.Hour, Run: func(ctx context.Context, s Slot) error {
		entered <- struct{}{}
		<-leave
		return nil
	}}
	first := make(chan error, 1)
	go func() { first <- RunOnce(t.Context(), pool, slow, "me") }()
	await(t, entered, "the first run")

	quick := Job{Name: "slow", Every: time.Hour, Run: d.run}
	if err := execute(t.Context(), pool, quick, Slot{}, false); !errors.Is(err, errRunning) {
		t.Errorf("a scheduled run beside it: %v", err)
	}
	second := make(chan error, 1)
	go func() { second <- RunOnce(t.Context(), pool, quick, "you") }()
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
	if got := d.read(); len(got) != 1 || !got[0].ByHand {
		t.Errorf("the second run did %v", got)
	}
}

func TestStopIsNeitherSuccessNorFailure(t *testing.T) {
	t.Parallel()
	pool, d := pgtest.New(t), newRecorder()
	entered := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	wait := Job{Name: "long", Run: func(ctx context.Context, _ Slot) error {
		entered <- struct{}{}
		<-ctx.Done()
		return errors.New("cut off")
	}}
	done := make(chan error, 1)
	go func() { done <- execute(ctx, pool, wait, Slot{}, false) }()
	await(t, entered, "the run")
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
	var clean bool
	if err := pool.QueryRow(t.Context(), `select last_error is null and last_success_at is null from jobs`).Scan(&clean); err != nil || !clean {
		t.Errorf("the stop was recorded as a result: %v", err)
	}
	if err := execute(t.Context(), pool, Job{Name: "long", Run: d.run}, Slot{}, false); err != nil {
		t.Errorf("the lock was not released: %v", err)
	}
}

// A run that does not end in time when the service stops is left to the next one.
func TestStoppedServiceLeavesItsSlotToTheNext(t *testing.T) {
	t.Parallel()
	pool, d := pgtest.New(t), newRecorder()
	entered := make(chan struct{}, 1)
	stop := start(t, pool, nil, Job{Name: "long", At: "00:00", Run: func(ctx context.Context, _ Slot) error {
		entered <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}})
	await(t, entered, "the run")
	stop()
	var waits bool
	if err := pool.QueryRow(t.Context(), `select state = 'available' and attempt = 0 from river_job`).Scan(&waits); err != nil || !waits {
		t.Errorf("the slot does not wait for the next service: %v", err)
	}
	start(t, pool, nil, Job{Name: "long", At: "00:00", Run: d.run})
	d.wait(t, 1)
}

func TestSlotsAreClockTimes(t *testing.T) {
	t.Parallel()
	at := func(s string) time.Time {
		parsed, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return parsed
	}
	j := Job{Name: "report", Every: time.Minute, At: "01:00"}
	for now, want := range map[string][2]string{
		"2026-11-23T00:59:59Z":      {"2026-11-23T00:59:00Z", "2026-11-22T01:00:00Z"},
		"2026-11-23T01:00:00Z":      {"2026-11-23T01:00:00Z", "2026-11-23T01:00:00Z"},
		"2026-11-23T02:00:01+01:00": {"2026-11-23T01:00:00Z", "2026-11-23T01:00:00Z"},
	} {
		got := j.newest(at(now))
		if !got[0].At.Equal(at(want[0])) || !got[1].At.Equal(at(want[1])) || got[0].Daily || !got[1].Daily {
			t.Errorf("at %s the slots are %v, want %v", now, got, want)
		}
	}
	started := at("2026-11-23T14:00:00Z")
	daily := Job{Name: "retention", At: "02:00"}
	for _, c := range []struct {
		started *time.Time
		want    string
	}{{nil, "2026-11-25T02:00:00Z"}, {&started, "2026-11-24T02:00:00Z"}} {
		if got := daily.due(at("2026-11-25T12:00:00Z"), c.started); !got.Equal(at(c.want)) {
			t.Errorf("started %v it is due %s, want %s", c.started, got, c.want)
		}
	}
}

func TestJobsContinueAfterDatabaseOutage(t *testing.T) {
	t.Parallel()
	server, d := pgtest.Server(t), newRecorder()
	pool, err := pgxpool.New(t.Context(), server.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	start(t, pool, nil, Job{Name: "often", Every: time.Second, Run: d.run})
	d.wait(t, 1)
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	for len(d.ran) > 0 {
		<-d.ran
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.wait(t, 2)
}

func TestMetricsExistFromTheStartAndSurviveAnOutage(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	registry := prometheus.NewRegistry()
	registry.MustRegister(newMetrics(pool, Table(nil)))
	expect := func(when string, want map[string]func(float64) bool) {
		t.Helper()
		families, err := registry.Gather()
		if err != nil || len(families) != len(want) {
			t.Fatalf("%s: %v, %v", when, families, err)
		}
		for _, f := range families {
			if len(f.GetMetric()) != len(Table(nil)) {
				t.Errorf("%s: %s has %d series", when, f.GetName(), len(f.GetMetric()))
			}
			for _, series := range f.GetMetric() {
				value := series.GetGauge().GetValue() + series.GetCounter().GetValue()
				if label := series.GetLabel()[0]; label.GetName() != "name" || label.GetValue() == "rollover" && !want[f.GetName()](value) {
					t.Errorf("%s: %s is %v", when, f.GetName(), series)
				}
			}
		}
	}
	is := func(want float64) func(float64) bool { return func(got float64) bool { return got == want } }
	expect("at first", map[string]func(float64) bool{
		"job_last_success_timestamp_seconds": is(0), "job_failures_total": is(0), "job_paused": is(0),
	})
	before := float64(time.Now().Unix()) - 60
	if err := RunOnce(t.Context(), pool, Job{Name: "rollover", Run: newRecorder().run}, "me"); err != nil {
		t.Fatal(err)
	}
	failing := Job{Name: "rollover", Run: func(context.Context, Slot) error { return errors.New("no") }}
	for range 2 {
		if err := RunOnce(t.Context(), pool, failing, "me"); err == nil {
			t.Fatal("a failing job succeeded")
		}
	}
	if err := SetPaused(t.Context(), pool, "rollover", true, "me"); err != nil {
		t.Fatal(err)
	}
	later := map[string]func(float64) bool{
		"job_last_success_timestamp_seconds": func(got float64) bool { return got > before },
		"job_failures_total":                 is(2), "job_paused": is(1),
	}
	expect("after a success, two failures and a pause", later)
	if _, err := pool.Exec(t.Context(), `drop table jobs`); err != nil {
		t.Fatal(err)
	}
	expect("without the database", later)
}

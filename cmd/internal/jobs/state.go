package jobs

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"odometer/query/admin"
)

const listSQL = `
select n.name,
    j.last_started_at at time zone 'UTC', j.last_success_at at time zone 'UTC', j.last_error, q.paused_at is not null,
    case when a.act_id is not null then json_build_object('act', a.act, 'who', a.who, 'at', a.at, 'result', a.result) end
from unnest($1::text[]) with ordinality as n (name, position)
left join jobs j on j.job = n.name
left join river_queue q on q.name = n.name
left join lateral (
    select *
    from job_acts
    where job = n.name
    order by act_id desc
    limit 1
) a on true
order by n.position`

// List returns the jobs as people see them at now.
func List(ctx context.Context, pool *pgxpool.Pool, now time.Time) ([]admin.Job, error) {
	table := Table(nil)
	rows, _ := pool.Query(ctx, listSQL, names(table))
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (j admin.Job, err error) {
		err = row.Scan(&j.Name, &j.LastStartedAt, &j.LastSuccessAt, &j.LastError, &j.Paused, &j.LastAct)
		return j, err
	})
	if err != nil {
		return nil, fmt.Errorf("list the jobs: %w", err)
	}
	for i := range list {
		list[i].DueAt = table[i].due(now, list[i].LastStartedAt)
		if a := list[i].LastAct; a != nil {
			a.At = a.At.UTC()
		}
	}
	return list, nil
}

// River pauses only a queue that it knows.
const addQueueSQL = `
insert into river_queue (name, updated_at)
values ($1, now())
on conflict do nothing`

// Slots that came due during a pause do not run one after another when it ends:
// the newest is inserted again within a minute and stands for all of them.
const removeWaitingSQL = `
delete from river_job
where queue = $1
  and state in ('available', 'scheduled', 'retryable')`

// SetPaused pauses or resumes a job and records who did it. It may be repeated
// and needs no service. What is running runs to its end.
func SetPaused(ctx context.Context, pool *pgxpool.Pool, name string, paused bool, who string) error {
	if _, err := Find(Table(nil), name); err != nil {
		return err
	}
	return setPaused(ctx, pool, name, paused, who)
}

func setPaused(ctx context.Context, pool *pgxpool.Pool, name string, paused bool, who string) error {
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return fmt.Errorf("set up River: %w", err)
	}
	act, change := "pause", client.QueuePauseTx
	if !paused {
		act, change = "resume", client.QueueResumeTx
	}
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, addQueueSQL, name); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, removeWaitingSQL, name); err != nil {
			return err
		}
		if err := change(ctx, tx, name, nil); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, actSQL, name, act, who, "done")
		return err
	})
	if err != nil {
		return fmt.Errorf("%s job %s: %w", act, name, err)
	}
	return nil
}

// metrics are read from the tables, so they survive restarts and River's
// clean-up and count every process and every run by hand. While the database
// does not answer they keep their last values.
type metrics struct {
	pool                          *pgxpool.Pool
	lastSuccess, failures, paused *prometheus.Desc

	mu   sync.Mutex
	last map[string]values // by job
}

type values struct{ lastSuccess, failures, paused float64 }

func newMetrics(pool *pgxpool.Pool, jobs []Job) *metrics {
	label := []string{"name"}
	m := &metrics{
		pool: pool,
		lastSuccess: prometheus.NewDesc("job_last_success_timestamp_seconds",
			"When the job last succeeded, in seconds since 1970; 0 for never.", label, nil),
		failures: prometheus.NewDesc("job_failures_total", "Runs of the job that failed.", label, nil),
		paused:   prometheus.NewDesc("job_paused", "1 while the job is paused.", label, nil),
		last:     map[string]values{},
	}
	for _, j := range jobs {
		m.last[j.Name] = values{}
	}
	return m
}

// Describe lists the metrics.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	to <- m.lastSuccess
	to <- m.failures
	to <- m.paused
}

// Collect reads the values of each job.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for name, v := range m.read(ctx) {
		to <- prometheus.MustNewConstMetric(m.lastSuccess, prometheus.GaugeValue, v.lastSuccess, name)
		to <- prometheus.MustNewConstMetric(m.failures, prometheus.CounterValue, v.failures, name)
		to <- prometheus.MustNewConstMetric(m.paused, prometheus.GaugeValue, v.paused, name)
	}
}

const metricsSQL = `
select j.job, coalesce(extract(epoch from j.last_success_at), 0)::float8, j.failures::float8,
    (q.paused_at is not null)::integer::float8
from jobs j
left join river_queue q on q.name = j.job`

func (m *metrics) read(ctx context.Context) map[string]values {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := maps.Clone(m.last)
	rows, _ := m.pool.Query(ctx, metricsSQL)
	var name string
	var v values
	_, err := pgx.ForEachRow(rows, []any{&name, &v.lastSuccess, &v.failures, &v.paused}, func() error {
		if _, known := now[name]; known {
			now[name] = v
		}
		return nil
	})
	if err == nil {
		m.last = now
	}
	return maps.Clone(m.last)
}

package main

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
)

// jobTimes tells when each job last succeeded, whoever ran it: it reads the
// table when it is asked. While the database does not answer it tells what it
// told before.
type jobTimes struct {
	pool *pgxpool.Pool
	desc *prometheus.Desc

	mu    sync.Mutex
	known map[string]float64 // seconds since 1970; 0: never
}

func newJobTimes(pool *pgxpool.Pool, jobs []job) *jobTimes {
	t := &jobTimes{
		pool: pool,
		desc: prometheus.NewDesc("job_last_success_timestamp_seconds",
			"When the job last succeeded, in seconds since 1970; 0 for never.", []string{"job"}, nil),
		known: map[string]float64{},
	}
	for _, j := range jobs {
		t.known[j.name] = 0
	}
	return t
}

// Describe tells which metric there is.
func (t *jobTimes) Describe(to chan<- *prometheus.Desc) { to <- t.desc }

// Collect tells each job's time.
func (t *jobTimes) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for name, at := range t.read(ctx) {
		to <- prometheus.MustNewConstMetric(t.desc, prometheus.GaugeValue, at, name)
	}
}

const jobTimesSQL = `
select job, extract(epoch from last_success_at)::float8
from jobs
where last_success_at is not null`

func (t *jobTimes) read(ctx context.Context) map[string]float64 {
	now := map[string]float64{}
	rows, _ := t.pool.Query(ctx, jobTimesSQL)
	var name string
	var at float64
	_, err := pgx.ForEachRow(rows, []any{&name, &at}, func() error {
		now[name] = at
		return nil
	})
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil {
		for name := range t.known {
			t.known[name] = max(t.known[name], now[name])
		}
	}
	return maps.Clone(t.known)
}

package admin

import (
	"context"
	"errors"
	"time"

	"odometer/api"
)

// Job is scheduled work, as people see it.
type Job struct {
	Name          string     `json:"name"`
	DueAt         time.Time  `json:"due_at" doc:"In the past when nobody runs it."`
	LastStartedAt *time.Time `json:"last_started_at"`
	LastSuccessAt *time.Time `json:"last_success_at"`
	LastError     *string    `json:"last_error" doc:"Of the last run; null when it succeeded."`
	Paused        bool       `json:"paused"`
	LastAct       *JobAct    `json:"last_act" doc:"What somebody did to it last."`
}

// JobAct is what somebody did to a job.
type JobAct struct {
	Act    string    `json:"act" enum:"run,pause,resume"`
	Who    string    `json:"who"`
	At     time.Time `json:"at"`
	Result *string   `json:"result" doc:"Null while it goes on."`
}

// JobList is all jobs that people know.
type JobList struct {
	Jobs []Job `json:"jobs"`
}

// JobState is whether a job is paused.
type JobState struct {
	Job    string `json:"job"`
	Paused bool   `json:"paused"`
}

func (s *server) jobs(ctx context.Context) (*JobList, error) {
	jobs, err := s.Jobs(ctx)
	if err != nil {
		return nil, err
	}
	if jobs == nil {
		jobs = []Job{}
	}
	return &JobList{jobs}, nil
}

// pause pauses a job or lets it go on. It is the same to do it twice.
func (s *server) pause(ctx context.Context, job string, paused bool, who string) (*JobState, error) {
	switch err := s.SetPaused(ctx, job, paused, who); {
	case errors.Is(err, ErrNoJob):
		return nil, noJob(job)
	case err != nil:
		return nil, err
	}
	return &JobState{job, paused}, nil
}

func noJob(name string) *api.Problem {
	return api.NewProblem(api.NotFound, "There is no job %q. GET /api/v1/admin/jobs lists them.", name)
}

package cli

import (
	"github.com/jedib0t/go-pretty/v6/progress"
)

// Progress shows how far a command is, with the rate and the time left: a bar on
// a terminal, and nothing elsewhere.
type Progress struct {
	t     *Terminal
	units progress.Units

	step     string
	writer   progress.Writer // nil before the first step
	tracker  *progress.Tracker
	rendered chan struct{}
}

// CountProgress counts things.
func CountProgress(t *Terminal) *Progress { return &Progress{t: t, units: progress.UnitsDefault} }

// ByteProgress counts bytes.
func ByteProgress(t *Terminal) *Progress { return &Progress{t: t, units: progress.UnitsBytes} }

// At shows that so much of a step's total is done. A new step has a new bar.
func (p *Progress) At(step string, done, total int64) {
	if !IsTerminal(p.t.Err) {
		return
	}
	if p.writer == nil || p.step != step {
		p.Done(nil)
		p.start(step, total)
	}
	p.tracker.SetValue(done)
}

func (p *Progress) start(step string, total int64) {
	p.step, p.rendered = step, make(chan struct{})
	p.tracker = &progress.Tracker{Message: step, Total: total, Units: p.units}
	writer := progress.NewWriter()
	p.writer = writer
	writer.SetOutputWriter(p.t.Err)
	writer.SetAutoStop(true)
	writer.Style().Visibility.ETA = true
	writer.Style().Visibility.Speed = true
	writer.AppendTracker(p.tracker)
	go func() {
		defer close(p.rendered)
		writer.Render()
	}()
}

// Done ends the last step's bar; err says whether it failed.
func (p *Progress) Done(err error) {
	if p.writer == nil {
		return
	}
	if err != nil {
		p.tracker.MarkAsErrored()
	} else {
		p.tracker.MarkAsDone()
	}
	<-p.rendered
	p.writer = nil
}

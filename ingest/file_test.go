package ingest_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"odometer"
	"odometer/ingest"
	"odometer/ingest/publisher"
)

// fileLine is a valid line of a file.
func fileLine(key string) string {
	return `{"tenant_id":"` + tenantToken + `","agent":"inbox","idempotency_key":"` + key + `","action_type":"email_processed"}`
}

func publishFile(t *testing.T, p *publisher.Publisher, text string) (ingest.FileReport, error) {
	t.Helper()
	return ingest.PublishFile(soon(t), p, strings.NewReader(text), nil)
}

func TestLinesOwnBytesAreThePayload(t *testing.T) {
	t.Parallel()
	_, stream, p := started(t, ingest.StreamConfig{})
	line := `{ "agent":"inbox" , "more":[1, 2],"idempotency_key":"k1","action_type":"a","tenant_id":"` + tenantToken + `"}`
	report, err := publishFile(t, p, "\n \t"+line+" \r\n\r\n"+fileLine("k2"))
	if err != nil || report.Lines != 4 || report.Stored != 2 || report.Invalid != 0 {
		t.Fatalf("%+v, %v", report, err)
	}
	m, err := stream.GetMsg(soon(t), 1)
	if err != nil {
		t.Fatal(err)
	}
	if string(m.Data) != line {
		t.Errorf("stored %q", m.Data)
	}
	if e := decoded(t, stream, 2); e.Key != "k2" || e.Tenant != tenant {
		t.Errorf("stored %+v", e)
	}
}

func TestInvalidLinesAreListedAndTheRestIsSent(t *testing.T) {
	t.Parallel()
	_, stream, p := started(t, ingest.StreamConfig{})
	lines := []struct {
		text, key, word string
		reason          odometer.Reason
	}{
		{text: fileLine("k1")},
		{text: "{", reason: odometer.Malformed},
		{text: `{"agent":"inbox","idempotency_key":"k3","action_type":"a"}`, key: "k3", reason: odometer.InvalidField, word: "tenant_id is missing"},
		{text: `{"tenant_id":"` + tenantToken + `","idempotency_key":"k4","action_type":"a"}`, key: "k4", reason: odometer.InvalidField, word: "agent is missing"},
		{text: strings.Replace(fileLine("k5"), tenantToken, "ACME", 1), key: "k5", reason: odometer.InvalidField, word: "tenant_id"},
		{text: strings.Replace(fileLine("k6"), "inbox", "in.box", 1), key: "k6", reason: odometer.InvalidField, word: "agent"},
		{text: strings.Replace(fileLine("k7"), "}", `,"quantity":0}`, 1), key: "k7", reason: odometer.InvalidField, word: "quantity is 0"},
		{text: strings.Replace(fileLine("k8"), "}", `,"occurred_at":"2001-01-01T00:00:00Z"}`, 1), key: "k8", reason: odometer.TooOld},
		{text: strings.Repeat("x", 2<<20), reason: odometer.Malformed, word: "more than 1048576 bytes"},
		{text: fileLine("k10") + strings.Repeat(" ", 900<<10)},
		{text: strings.Replace(fileLine("k11"), "}", `,"x":"`+strings.Repeat("x", 200<<10)+`"}`, 1), reason: odometer.Malformed, word: "allowed: 65536"},
		{text: strings.Replace(fileLine("k12"), `,"action_type":"email_processed"`, "", 1), key: "k12", reason: odometer.InvalidField, word: "action_type is missing; allowed: a string"},
		{text: fileLine("k13")},
	}
	var file strings.Builder
	for _, l := range lines {
		file.WriteString(l.text + "\n")
	}
	report, err := publishFile(t, p, file.String())
	if err != nil {
		t.Fatal(err)
	}
	if report.Lines != len(lines) || report.Bytes != int64(file.Len()) || report.Stored != 3 || report.Invalid != 10 || messages(t, stream) != 3 {
		t.Errorf("%+v", report.FileProgress)
	}
	listed := report.InvalidLines
	for i, l := range lines {
		if l.reason == "" {
			continue
		}
		if len(listed) == 0 || listed[0].Number != i+1 || listed[0].Key != l.key || listed[0].Reason != l.reason || !strings.Contains(listed[0].Detail, l.word) {
			t.Fatalf("line %d: listed %+v", i+1, listed)
		}
		listed = listed[1:]
	}
}

// generated is a file of n lines that is never in memory as a whole.
func generated(n int, text func(i int) string) io.Reader {
	r, w := io.Pipe()
	go func() {
		buffered := bufio.NewWriter(w)
		for i := range n {
			fmt.Fprintln(buffered, text(i))
		}
		w.CloseWithError(buffered.Flush())
	}()
	return r
}

func TestFileOfManyBatchesIsStoredAndReportsProgress(t *testing.T) {
	t.Parallel()
	_, stream, p := started(t, ingest.StreamConfig{})
	const lines = 6500
	var last ingest.FileProgress
	calls := 0
	report, err := ingest.PublishFile(soon(t), p, generated(lines, func(i int) string {
		if i%5 == 0 {
			return "not an event"
		}
		return fileLine(fmt.Sprint("k", i))
	}), func(now ingest.FileProgress) {
		if now.Lines < last.Lines || now.Bytes < last.Bytes || now.Stored+now.Invalid != now.Lines {
			t.Errorf("progress went from %+v to %+v", last, now)
		}
		last = now
		calls++
	})
	if err != nil {
		t.Fatal(err)
	}
	if calls < 7 || last != report.FileProgress || report.Lines != lines || report.Stored != lines*4/5 || report.Invalid != lines/5 {
		t.Errorf("after %d calls: %+v", calls, report.FileProgress)
	}
	if len(report.InvalidLines) != 1000 || report.InvalidLines[999].Number != 4996 {
		t.Errorf("%d invalid lines are listed, the last is %+v", len(report.InvalidLines), report.InvalidLines[len(report.InvalidLines)-1])
	}
	if n := messages(t, stream); n != report.Stored {
		t.Errorf("%d messages, want %d", n, report.Stored)
	}
}

func TestFileCanBePublishedAgain(t *testing.T) {
	t.Parallel()
	_, stream, p := started(t, ingest.StreamConfig{})
	file := fileLine("k1") + "\n" + fileLine("k2") + "\n" + fileLine("k1") + "\n"
	for run, duplicates := range []int{1, 3} {
		report, err := publishFile(t, p, file)
		if err != nil || report.Stored != 3 || report.Duplicates != duplicates {
			t.Errorf("run %d: %+v, %v", run, report, err)
		}
	}
	if n := messages(t, stream); n != 2 {
		t.Errorf("%d messages, want 2", n)
	}
}

func TestFullStreamStopsFileAtKnownLine(t *testing.T) {
	t.Parallel()
	_, stream, p := started(t, ingest.StreamConfig{MaxBytes: 2 << 20})
	report, err := ingest.PublishFile(soon(t), p, generated(50_000, func(i int) string { return fileLine(fmt.Sprintf("k%06d", i)) }), nil)
	if !errors.Is(err, publisher.ErrStreamFull) || !strings.Contains(err.Error(), fmt.Sprintf("done up to line %d:", report.Lines)) {
		t.Fatalf("%+v, %v", report.FileProgress, err)
	}
	if report.Lines == 0 || report.Stored != report.Lines || report.Lines > messages(t, stream) {
		t.Errorf("%+v with %d messages", report.FileProgress, messages(t, stream))
	}
	held := keys(t, stream)
	for i := range report.Lines {
		if !held[fmt.Sprintf("k%06d", i)] {
			t.Fatalf("line %d is not in the stream, settled up to %d", i+1, report.Lines)
		}
	}
}

// keys are the idempotency keys of all messages.
func keys(t *testing.T, stream *ingest.Stream) map[string]bool {
	t.Helper()
	held := map[string]bool{}
	for seq := range messages(t, stream) {
		m, err := stream.GetMsg(soon(t), uint64(seq+1))
		if err != nil {
			t.Fatal(err)
		}
		_, after, _ := bytes.Cut(m.Data, []byte(`"idempotency_key":"`))
		key, _, _ := bytes.Cut(after, []byte(`"`))
		held[string(key)] = true
	}
	return held
}

func TestUnreadableFileIsAnErrorAfterWhatWasRead(t *testing.T) {
	t.Parallel()
	_, stream, p := started(t, ingest.StreamConfig{})
	broken := errors.New("disk")
	report, err := ingest.PublishFile(soon(t), p, io.MultiReader(strings.NewReader(fileLine("k1")+"\n"+fileLine("k2")+"\n{"), iotest.ErrReader(broken)), nil)
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "read line 3") || report.Lines != 2 || messages(t, stream) != 2 {
		t.Errorf("%+v, %v", report, err)
	}
	report, err = publishFile(t, p, "")
	if err != nil || report.Lines != 0 {
		t.Errorf("an empty file: %+v, %v", report, err)
	}
}

func TestFilePublishingEndsWithItsContext(t *testing.T) {
	t.Parallel()
	s, _, p := started(t, ingest.StreamConfig{})
	s.Stop()
	ctx, cancel := context.WithCancel(t.Context())
	reading := make(chan struct{})
	go func() { <-reading; cancel() }()
	lines := 0
	_, err := ingest.PublishFile(ctx, p, generated(10_000, func(i int) string {
		if lines++; lines == 5000 {
			close(reading)
		}
		return fileLine(fmt.Sprint("k", i))
	}), nil)
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

package httpingest

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"odometer"
	"odometer/ingest"
	"odometer/ingest/publisher"
)

// anyMembers are what an event may have beside what it needs, good and bad.
var anyMembers = []string{
	`"quantity":3`, `"quantity":0`, `"quantity":5.0`, `"quantity":"5"`, `"resource_id":"r"`, `"resource_id":7`, `"resource_id":null`,
	`"occurred_at":"2020-01-01T00:00:00Z"`, `"occurred_at":"yesterday"`, `"metadata":{"a":[1,{"b":"]}\""}]}`, `"metadata":[]`,
	`"tenant_id":"` + tenantToken + `"`, `"tenant_id":"0b6e1a52-7f3c-4a60-9d0a-61a3f0b7c2d6"`, `"tenant_id":7`,
	`"agent":"inbox"`, `"agent":"Inbox"`, `"x":"\ud83d\ude00"`, `"x":"\ud83d"`, `"x":"\u0000"`, `"x":"` + "\xff" + `"`, `"idempotency_key":"again"`,
	`"data":{"quantity":2}`, `"data":{"quantity":2,"quantity":2}`, `"data":[]`, `"time":"2020-01-01T00:00:00Z"`, `"data_base64":""`,
}

var anyValue = []string{`{}`, `[]`, `null`, `-1.5e3`, `"text"`, `[[[]]]`, `true`, `{"":{"":{}}}`}

// anyEvent is JSON that may be an event.
func anyEvent(t *rapid.T, cloud bool) string {
	if rapid.IntRange(0, 9).Draw(t, "form") == 0 {
		return rapid.SampledFrom(anyValue).Draw(t, "value")
	}
	key := rapid.SampledFrom([]string{"a", "b", "c", "d", `\"]`, `é`, `\n`, ``}).Draw(t, "key")
	members := rapid.SliceOfN(rapid.SampledFrom(anyMembers), 0, 2).Draw(t, "members")
	if cloud {
		return cloudText(key, members...)
	}
	return eventText(key, members...)
}

// encoding joins events into a body of its type.
type encoding struct {
	types string
	cloud bool
	join  func([]string) string
}

var encodings = []encoding{
	{plain, false, func(parts []string) string { return " [" + strings.Join(parts, " ,\n") + "] " }},
	{ndjson, false, func(parts []string) string { return strings.Join(parts, "\r\n\n") }},
	{clouds, true, func(parts []string) string { return "[" + strings.Join(parts, ",") + "]" }},
}

// agentOf is the agent that a payload names, read by another library.
func agentOf(part string, cloud bool) string {
	var named struct {
		Agent any `json:"agent"`
		Type  any `json:"type"`
	}
	if json.Unmarshal([]byte(part), &named) != nil {
		return ""
	}
	if cloud {
		text, _ := named.Type.(string)
		agent, _, _ := strings.Cut(text, ".")
		return agent
	}
	agent, _ := named.Agent.(string)
	return agent
}

func TestAnyMixIsValidatedAsIngestDoesAndStored(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	seen := map[string]uint64{} // what the stream holds, by its bytes
	rapid.Check(t, func(rt *rapid.T) {
		e := rapid.SampledFrom(encodings).Draw(rt, "encoding")
		parts := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) string { return anyEvent(t, e.cloud) }), 1, 12).Draw(rt, "events")
		a := accepted(t, h.post(t, e.join(parts), e.types))
		if len(a.Results) != len(parts) {
			rt.Fatalf("%d results of %d events", len(a.Results), len(parts))
		}
		for i, part := range parts {
			if problem := h.compare(t, a.Results[i], part, e.cloud, seen); problem != "" {
				rt.Fatalf("event %d, %s: %s", i, part, problem)
			}
		}
		if a.Accepted+a.Duplicate+a.Invalid != len(parts) {
			rt.Fatalf("%+v", a)
		}
	})
	// Outside its window the stream takes the same bytes again, as another message.
	if n := h.env.Messages(); n < len(seen) {
		t.Errorf("%d messages, %d were accepted", n, len(seen))
	}
}

// compare says where a result is not what ingest would say of the same bytes,
// or not what the stream holds.
func (h *testServer) compare(t *testing.T, got Result, part string, cloud bool, seen map[string]uint64) string {
	raw := publisher.Raw{Tenant: tenant, Agent: agentOf(part, cloud), Payload: []byte(part), CloudEvent: cloud}
	want := ingest.Validate(raw, time.Now())
	if want != nil {
		want.Detail = strings.Replace(want.Detail, "the subject's tenant", "the token's tenant", 1)
	}
	switch {
	case want == nil && got.Status == Invalid:
		return "is valid, and answered " + summary(got) + ": " + detail(got)
	case want != nil && (got.Reason == nil || *got.Reason != want.Reason):
		return fmt.Sprintf("is %s, and answered %s", want.Reason, summary(got))
	case want != nil && odometer.ValidAgent(raw.Agent) && want.Reason != odometer.TooOld && *got.Detail != want.Detail: // that names the time
		return fmt.Sprintf("is %q, and answered %q", want.Detail, *got.Detail)
	case want != nil:
		return ""
	}
	if _, text := h.env.Stored(*got.StreamSeq); text != part {
		return "is stored as " + text
	}
	if before, known := seen[part]; got.Status == Duplicate && (!known || before != *got.StreamSeq) {
		return "is a duplicate of nothing"
	}
	seen[part] = *got.StreamSeq
	return ""
}

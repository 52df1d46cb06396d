package httpingest

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"odometer"
	"odometer/api/apitest"
)

const (
	plain  = "application/json"
	ndjson = "application/x-ndjson"
	cloud  = "application/cloudevents+json"
	clouds = "application/cloudevents-batch+json"
)

// summary is a result in a few words: status, key, reason.
func summary(r Result) string {
	words := []string{string(r.Status), "-"}
	if r.IdempotencyKey != nil {
		words[1] = *r.IdempotencyKey
	}
	if r.Reason != nil {
		words = append(words, string(*r.Reason))
	}
	return strings.Join(words, " ")
}

func TestAnswerSaysWhatBecameOfEachEvent(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat(`[`, 20_000) + strings.Repeat(`]`, 20_000)
	large := eventText("k2", `"x":"`+strings.Repeat("x", odometer.MaxPayloadBytes)+`"`)
	for name, c := range map[string]struct {
		types string
		body  string
		want  []string
	}{
		"one event":                    {plain, eventText("k1"), []string{"accepted k1"}},
		"white space around":           {plain, "\n \t" + eventText("k1") + "\r\n", []string{"accepted k1"}},
		"an array":                     {plain, "[" + eventText("k1") + " ,\n" + eventText("k2") + "]", []string{"accepted k1", "accepted k2"}},
		"an empty array":               {plain, " [ ] ", nil},
		"a type in capitals":           {"Application/JSON; Charset=UTF-8; x=y", eventText("k1"), []string{"accepted k1"}},
		"lines":                        {ndjson, eventText("k1") + "\n" + eventText("k2"), []string{"accepted k1", "accepted k2"}},
		"lines with blank ones":        {ndjson, "\n\r\n" + eventText("k1") + "\r\n \t\n" + eventText("k2") + "\n\n", []string{"accepted k1", "accepted k2"}},
		"lines that are no objects":    {ndjson, "[]\nnull\n7\n\"x\"\n{\n}\n" + eventText("k1") + "x\n" + eventText("k2"), append(repeat("invalid - malformed", 7), "accepted k2")},
		"an array as lines":            {ndjson, "[\n" + eventText("k1") + ",\n" + eventText("k2") + "\n]", append(append(repeat("invalid - malformed", 2), "accepted k2"), "invalid - malformed")},
		"a CloudEvent":                 {cloud, cloudText("k1", `"data":{"quantity":2}`), []string{"accepted k1"}},
		"CloudEvents":                  {clouds, "[" + cloudText("k1") + "," + cloudText("k2") + "]", []string{"accepted k1", "accepted k2"}},
		"no CloudEvents":               {clouds, "[]", nil},
		"the same bytes twice":         {plain, "[" + eventText("k1") + "," + eventText("k2") + "," + eventText("k1") + "]", []string{"accepted k1", "accepted k2", "duplicate k1"}},
		"one key, other bytes":         {plain, "[" + eventText("k1") + "," + eventText("k1", `"quantity":2`) + "]", []string{"accepted k1", "accepted k1"}},
		"its own tenant":               {plain, eventText("k1", `"tenant_id":"`+tenantToken+`"`), []string{"accepted k1"}},
		"another's tenant":             {plain, eventText("k1", `"tenant_id":"`+uuid.NewString()+`"`), []string{"invalid k1 subject_mismatch"}},
		"no agent":                     {plain, `{"idempotency_key":"k1","action_type":"a"}`, []string{"invalid k1 invalid_field"}},
		"no key":                       {plain, `[{"agent":"inbox","action_type":"a"}]`, []string{"invalid - invalid_field"}},
		"a type without an agent":      {cloud, strings.Replace(cloudText("k1"), "inbox.", "", 1), []string{"invalid k1 invalid_field"}},
		"an event as a CloudEvent":     {cloud, eventText("k1"), []string{"invalid - invalid_field"}},
		"a CloudEvent as an event":     {plain, cloudText("k1"), []string{"invalid - invalid_field"}},
		"values that are no objects":   {plain, `[1, "x", null, true, [], [{}], {}, -0.5e+3]`, append(append(repeat("invalid - malformed", 6), "invalid - invalid_field"), "invalid - malformed")},
		"a name twice":                 {plain, "[" + eventText("k1", `"agent":"inbox"`) + "," + eventText("k2") + "]", []string{"invalid - malformed", "accepted k2"}},
		"a name twice, alone":          {plain, eventText("k1", `"agent":"inbox"`), []string{"invalid - malformed"}},
		"a lone surrogate":             {plain, "[" + eventText("k1", `"x":"\ud800"`) + "," + eventText("k2") + "]", []string{"invalid - malformed", "accepted k2"}},
		"U+0000":                       {plain, "[" + eventText("k1", `"x":"\u0000"`) + "," + eventText("k2") + "]", []string{"invalid - malformed", "accepted k2"}},
		"bytes that are no UTF-8":      {plain, "[" + eventText("k1", `"x":"`+"\xff"+`"`) + "," + eventText("k2") + "]", []string{"invalid - malformed", "accepted k2"}},
		"too deep":                     {plain, "[" + eventText("k1", `"x":`+deep) + "," + eventText("k2") + "]", []string{"invalid - malformed", "accepted k2"}},
		"metadata too deep":            {plain, "[" + eventText("k1", `"metadata":{"x":`+strings.Repeat("[", 40)+strings.Repeat("]", 40)+"}") + "]", []string{"invalid k1 invalid_field"}},
		"too large":                    {plain, "[" + eventText("k1") + "," + large + "]", []string{"accepted k1", "invalid - malformed"}},
		"too large, on a line":         {ndjson, large + "\n" + eventText("k1"), []string{"invalid - malformed", "accepted k1"}},
		"too old":                      {plain, eventText("k1", `"occurred_at":"2020-01-01T00:00:00Z"`), []string{"invalid k1 too_old"}},
		"in the future":                {ndjson, eventText("k1", `"occurred_at":"`+time.Now().Add(time.Hour).Format(time.RFC3339)+`"`), []string{"invalid k1 in_future"}},
		"brackets and quotes in texts": {plain, `[` + eventText(`a]}\"\\`, `"x":["\\\"",{"]":"}"}]`) + `]`, []string{`accepted a]}"\`}},
		"a byte order mark on a line":  {ndjson, "\xef\xbb\xbf" + eventText("k1"), []string{"invalid - malformed"}},
		"as many as there may be":      {ndjson, strings.Repeat("x\n", maxEvents), repeat("invalid - malformed", maxEvents)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := open(t, nil)
			a := accepted(t, h.post(t, c.body, c.types))
			stored, counts := map[uint64]bool{}, map[Status]int{}
			for i, r := range a.Results {
				if r.Index != i || i >= len(c.want) || summary(r) != c.want[i] {
					t.Errorf("result %d: %s %v, want %q", i, summary(r), detail(r), c.want)
					break
				}
				counts[r.Status]++
				if (r.StreamSeq == nil) != (r.Status == Invalid) || (r.Reason == nil) != (r.Status != Invalid) || (r.Detail == nil) != (r.Status != Invalid) {
					t.Errorf("result %d: %+v", i, r)
				} else if r.StreamSeq != nil {
					stored[*r.StreamSeq] = true
					if e, _ := h.env.Stored(*r.StreamSeq); e.Key != *r.IdempotencyKey || e.Tenant != tenant || e.Agent != "inbox" {
						t.Errorf("result %d: stored %+v", i, e)
					}
				}
			}
			if len(a.Results) != len(c.want) || a.Accepted != counts[Accepted] || a.Duplicate != counts[Duplicate] || a.Invalid != counts[Invalid] {
				t.Errorf("%d results, %d accepted, %d duplicates, %d invalid; want %q", len(a.Results), a.Accepted, a.Duplicate, a.Invalid, c.want)
			}
			if n := h.env.Messages(); n != len(stored) {
				t.Errorf("%d messages are stored, %d were acknowledged", n, len(stored))
			}
		})
	}
}

func detail(r Result) string {
	if r.Detail == nil {
		return ""
	}
	return *r.Detail
}

func repeat(text string, n int) (all []string) {
	for range n {
		all = append(all, text)
	}
	return all
}

func TestEventsOwnBytesAreStored(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	first, second := `{ "agent":"inbox" ,"more":[1, 2] , "idempotency_key":"k1","action_type":"a"}`, eventText("k2", `"x": " ] "`)
	accepted(t, h.post(t, " [ "+first+" ,\n"+second+" ] ", plain))
	accepted(t, h.post(t, " \t"+strings.Replace(first, "k1", "k3", 1)+" \r\n\n"+eventText("k4"), ndjson))
	accepted(t, h.post(t, " "+cloudText("k5", `"data": {}`)+" ", cloud))
	for i, want := range []string{first, second, strings.Replace(first, "k1", "k3", 1), eventText("k4"), cloudText("k5", `"data": {}`)} {
		if _, text := h.env.Stored(uint64(i + 1)); text != want {
			t.Errorf("stored %s\n  want %s", text, want)
		}
	}
}

func TestUnreadableBodyIsRefusedAsAWhole(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	many := strings.Repeat(eventText("k")+"\n", maxEvents+1)
	for name, c := range map[string]struct {
		types, body string
		header      []string
		want, word  string
	}{
		"no body":                      {plain, "", nil, "400 invalid-request", "empty"},
		"white space":                  {plain, " \r\n\t", nil, "400 invalid-request", "empty"},
		"blank lines":                  {ndjson, "\n\n", nil, "400 invalid-request", "empty"},
		"no JSON":                      {plain, "hello", nil, "400 invalid-request", "hello"},
		"a number":                     {plain, "5", nil, "400 invalid-request", "5"},
		"a text":                       {plain, `"x"`, nil, "400 invalid-request", ""},
		"a byte order mark":            {plain, "\xef\xbb\xbf" + eventText("k"), nil, "400 invalid-request", ""},
		"an object that is cut off":    {plain, eventText("k")[:30], nil, "400 invalid-request", "at byte offset 30: unexpected EOF"},
		"an array that is cut off":     {plain, "[" + eventText("k") + ",", nil, "400 invalid-request", "at byte offset 73: unexpected EOF"},
		"an array without its end":     {plain, "[" + eventText("k"), nil, "400 invalid-request", "at byte offset 72: unexpected EOF"},
		"two objects":                  {plain, eventText("k") + eventText("l"), nil, "400 invalid-request", `at byte offset 71: invalid character '{' after top-level value`},
		"lines as JSON":                {plain, eventText("k") + "\n" + eventText("l"), nil, "400 invalid-request", ""},
		"something behind the array":   {plain, "[" + eventText("k") + "] x", nil, "400 invalid-request", ""},
		"no comma":                     {plain, "[" + eventText("k") + " " + eventText("l") + "]", nil, "400 invalid-request", `at byte offset 73: invalid character '{' after array value (expecting ',' or ']')`},
		"a comma too many":             {plain, " [" + eventText("k") + ",]", nil, "400 invalid-request", `at byte offset 74, in its value 2: invalid character ']' at start of value`},
		"an element that is not JSON":  {plain, "[" + eventText("k") + `,{"a":tru}]`, nil, "400 invalid-request", `in its value 2: invalid character '}' in literal true (expecting 'e')`},
		"brackets that do not pair":    {plain, "[" + eventText("k") + `,{"a":[}]]`, nil, "400 invalid-request", "value 2"},
		"a line break in a text":       {plain, "[" + eventText("k") + ",\"\n\"]", nil, "400 invalid-request", "value 2"},
		"too large and not JSON":       {plain, "[" + eventText("k") + `,{"a":"` + strings.Repeat("x", odometer.MaxPayloadBytes) + `" "b"}]`, nil, "400 invalid-request", "value 2"},
		"several as a CloudEvent":      {cloud, "[" + cloudText("k") + "]", nil, "400 invalid-request", clouds},
		"one as a batch":               {clouds, cloudText("k"), nil, "400 invalid-request", cloud},
		"no type":                      {"", eventText("k"), nil, "415 unsupported-media-type", "Content-Type is missing: send one of " + plain + ", " + ndjson},
		"a CloudEvent in headers":      {plain, "{}", []string{"ce-specversion", "1.0", "ce-id", "k", "ce-type", "inbox.email_processed"}, "415 unsupported-media-type", "binary mode, which is not accepted: send it in structured mode"},
		"headers and nothing else":     {"", "", []string{"ce-id", "k"}, "415 unsupported-media-type", cloud},
		"headers with another type":    {"text/plain", "x", []string{"ce-type", "inbox.email_processed"}, "415 unsupported-media-type", clouds},
		"another type":                 {"text/plain", eventText("k"), nil, "415 unsupported-media-type", "text/plain"},
		"a form":                       {"application/x-www-form-urlencoded", "a=b", nil, "415 unsupported-media-type", ""},
		"no such type":                 {"application/json+x", eventText("k"), nil, "415 unsupported-media-type", ""},
		"a type that is not one":       {"json;;", eventText("k"), nil, "415 unsupported-media-type", ""},
		"two types":                    {plain, eventText("k"), []string{"Content-Type", ndjson}, "415 unsupported-media-type", "2 times"},
		"another charset":              {plain + "; charset=latin1", eventText("k"), nil, "415 unsupported-media-type", "latin1"},
		"compressed":                   {plain, "x", []string{"Content-Encoding", "gzip"}, "415 unsupported-media-type", "gzip"},
		"too many lines":               {ndjson, many, nil, "413 too-large", "1000 events"},
		"too many elements":            {plain, "[" + strings.Repeat("1,", maxEvents) + "1]", nil, "413 too-large", "1000 events"},
		"too many elements, then none": {plain, "[" + strings.Repeat("1,", maxEvents+1), nil, "413 too-large", "1000 events"},
		"too large":                    {ndjson, eventText("k") + strings.Repeat("\n", maxBody), nil, "413 too-large", "1048576 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			detail := apitest.WantProblem(t, h.post(t, c.body, c.types, c.header...), c.want)
			if !strings.Contains(detail, c.word) {
				t.Errorf("%q does not say %q", detail, c.word)
			}
		})
	}
	if n := h.env.Messages(); n != 0 {
		t.Errorf("%d messages were stored", n)
	}
	accepted(t, h.post(t, eventText("k"), plain, "Content-Encoding", "identity"))
	// In structured mode an event's attributes may be repeated as headers.
	accepted(t, h.post(t, cloudText("k"), cloud, "ce-specversion", "1.0", "ce-id", "k"))
}

// A client of HTTP has a token and no subject.
func TestForeignTenantIsComparedWithTheToken(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	a := accepted(t, h.post(t, eventText("k1", `"tenant_id":"other"`), plain))
	if got, want := detail(a.Results[0]), `tenant_id is "other"; allowed: the token's tenant, `+tenantToken; summary(a.Results[0]) != "invalid k1 subject_mismatch" || got != want {
		t.Errorf("%s: %s", summary(a.Results[0]), got)
	}
}

func TestTokenWithoutWriteScopeIsRefused(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	good := h.token
	h.token = "rubbish"
	apitest.WantProblem(t, h.post(t, eventText("k"), plain), "401 unauthorized")
	h.token = readToken(t)
	if detail := apitest.WantProblem(t, h.post(t, eventText("k"), plain), "403 forbidden"); !strings.Contains(detail, "usage:write") {
		t.Error(detail)
	}
	h.token = good
	accepted(t, h.post(t, eventText("k"), plain))
	r, err := http.Get(h.URL + Path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if r.StatusCode == http.StatusOK || r.StatusCode == http.StatusAccepted {
		t.Errorf("GET: status %d", r.StatusCode)
	}
	if n := h.env.Messages(); n != 1 {
		t.Errorf("%d messages", n)
	}
}

// A repeat is a duplicate, in whatever request and form it was sent before.
func TestRepeatWithinTheStreamsWindowIsADuplicate(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	accepted(t, h.post(t, "["+eventText("k1")+","+eventText("k2")+"]", plain))
	a := accepted(t, h.post(t, eventText("k3")+"\n"+eventText("k2")+"\nx\n"+eventText("k1"), ndjson))
	for i, want := range []string{"accepted k3", "duplicate k2", "invalid - malformed", "duplicate k1"} {
		if got := summary(a.Results[i]); got != want {
			t.Errorf("result %d: %s, want %s", i, got, want)
		}
	}
	if *a.Results[1].StreamSeq != 2 || *a.Results[3].StreamSeq != 1 || h.env.Messages() != 3 {
		t.Errorf("%+v", a)
	}
	if a := accepted(t, h.post(t, eventText("k1"), plain)); a.Duplicate != 1 || *a.Results[0].StreamSeq != 1 {
		t.Errorf("alone: %+v", a)
	}
}

func TestLargestRequestIsStored(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	lines := make([]string, maxEvents)
	for i := range lines {
		lines[i] = eventText(fmt.Sprint("k", i))
	}
	body := strings.Join(lines, "\n")
	body += strings.Repeat(" ", maxBody-len(body))
	if a := accepted(t, h.post(t, body, ndjson)); a.Accepted != maxEvents {
		t.Errorf("%d accepted, %d duplicate, %d invalid", a.Accepted, a.Duplicate, a.Invalid)
	}
	if n := h.env.Messages(); n != maxEvents {
		t.Errorf("%d messages", n)
	}
}

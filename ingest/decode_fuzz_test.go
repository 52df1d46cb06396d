package ingest_test

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"odometer"
	"odometer/ingest"
)

// FuzzDecode holds Decode to its promise: it never panics, and what it takes
// keeps every limit.
func FuzzDecode(f *testing.F) {
	for _, m := range []struct {
		m      *ingest.Message
		adjust bool
		cloud  bool
	}{
		{m: stored(ordinary)}, {m: stored(with(`"quantity":5,"metadata":{"a":[0e-5,1e30,"\u00e9"]}`))}, {m: stored(with(`"x":"\ud83d\ude00\\u0000"`))},
		{m: stored(adjust(`"quantity":-5`)), adjust: true}, {m: stored(validCloud(`,"time":"2026-11-23T07:15:33.5+01:00","data":{"quantity":2}`)), cloud: true},
		{m: stored(with(`"a":"\u0000"`))}, {m: stored(with(`"a":"\ud800"`))}, {m: stored(with(`"metadata":` + nested(33)))},
	} {
		f.Add(m.m.Data, m.m.TenantToken, m.m.AgentToken, m.adjust, m.cloud)
	}
	f.Fuzz(func(t *testing.T, data []byte, tenant, agent string, adjustment, cloudEvent bool) {
		m := stored(string(data))
		if cloudEvent {
			m = storedCloudEvent(string(data))
		}
		if adjustment {
			m.Kind = odometer.Adjustment
		}
		m.TenantToken, m.AgentToken = tenant, agent
		event, rejection := ingest.Decode(m)
		if string(m.Data) != string(data) {
			t.Error("the payload was changed")
		}
		if rejection == nil {
			rejection = ingest.CheckAge(&event)
		}
		if rejection != nil {
			wantRejected(t, "", rejection, rejection.Reason, "")
			return
		}
		checkLimits(t, m, &event)
	})
}

func checkLimits(t *testing.T, m *ingest.Message, e *odometer.Event) {
	t.Helper()
	if len(m.Data) > odometer.MaxPayloadBytes || !utf8.Valid(m.Data) || !json.Valid(m.Data) {
		t.Error("payload")
	}
	if e.Tenant.String() != m.TenantToken || e.Agent != m.AgentToken || !odometer.ValidAgent(e.Agent) {
		t.Error("subject")
	}
	if n := utf8.RuneCountInString(e.Key); n < 1 || n > odometer.MaxKeyRunes || strings.ContainsFunc(e.Key, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("key %q", e.Key)
	}
	if e.Action == "" || (e.Kind == odometer.Adjustment) != (e.Action == odometer.AdjustmentAction) && e.Kind == odometer.Adjustment {
		t.Errorf("action %q", e.Action)
	}
	if e.Quantity > odometer.MaxQuantity || e.Quantity < -odometer.MaxQuantity || e.Quantity == 0 || e.Kind == odometer.Usage && e.Quantity < 1 {
		t.Errorf("quantity %d", e.Quantity)
	}
	if e.Resource != nil && utf8.RuneCountInString(*e.Resource) > odometer.MaxResourceRunes {
		t.Errorf("resource %q", *e.Resource)
	}
	for _, text := range []string{e.Key, e.Action, string(e.Metadata)} {
		if strings.ContainsRune(text, 0) || !utf8.ValidString(text) {
			t.Errorf("text %q", text)
		}
	}
	if e.OccurredAt.Truncate(time.Microsecond) != e.OccurredAt || e.OccurredAt.Location() != time.UTC {
		t.Errorf("occurred at %s", e.OccurredAt)
	}
	if e.Metadata != nil {
		checkMetadata(t, e.Metadata)
	}
}

func checkMetadata(t *testing.T, raw []byte) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.UseNumber()
	var object map[string]any
	if err := d.Decode(&object); err != nil || len(raw) > odometer.MaxMetadataBytes {
		t.Fatalf("metadata %q: %v", raw, err)
	}
	var walk func(v any, depth int)
	walk = func(v any, depth int) {
		if depth > odometer.MaxMetadataDepth {
			t.Errorf("metadata is %d deep", depth)
		}
		switch v := v.(type) {
		case map[string]any:
			for name, member := range v {
				walk(name, depth)
				walk(member, depth+nests(member))
			}
		case []any:
			for _, member := range v {
				walk(member, depth+nests(member))
			}
		case string:
			if strings.ContainsRune(v, 0) || !utf8.ValidString(v) {
				t.Errorf("metadata holds %q", v)
			}
		case json.Number:
			checkNumber(t, v.String())
		}
	}
	walk(object, 1)
}

func nests(v any) int {
	switch v.(type) {
	case map[string]any, []any:
		return 1
	}
	return 0
}

func checkNumber(t *testing.T, number string) {
	t.Helper()
	f, err := strconv.ParseFloat(number, 64)
	mantissa, exponent, _ := strings.Cut(strings.ToLower(number), "e")
	if err != nil || f == 0 && strings.ContainsAny(mantissa, "123456789") {
		t.Errorf("metadata holds the number %s", number)
	}
	if n, err := strconv.Atoi(exponent); exponent != "" && f == 0 && (err != nil || n < -10_000 || n > 10_000) {
		t.Errorf("metadata holds the zero %s", number)
	}
}

package ingest_test

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/uuid"

	"odometer"
	"odometer/ingest"
)

func TestMalformedPrecedesEveryOtherReason(t *testing.T) {
	t.Parallel()
	for name, payload := range map[string]string{
		"empty":                   "",
		"white space":             " \n",
		"array":                   `[{"idempotency_key":"k1"}]`,
		"string":                  `"x"`,
		"null":                    `null`,
		"text":                    `hello`,
		"cut":                     `{"quantity":"5","a":`,
		"byte order mark":         "\ufeff" + with(`"quantity":1`),
		"trailing data":           with(`"quantity":1`) + `{}`,
		"trailing comma":          with(`"quantity":1,`),
		"trailing letter":         with(`"quantity":"5"`) + `x`,
		"name twice":              with(`"quantity":"5","quantity":2`),
		"name twice, null":        with(`"quantity":null,"quantity":2`),
		"name twice, escaped":     with(`"quantity":0,"quantit\u0079":2`),
		"unknown name twice":      with(`"quantity":0,"x":1,"x":1`),
		"name twice in metadata":  with(`"quantity":0,"metadata":{"a":{"b":1,"b":2}}`),
		"name twice in an array":  with(`"quantity":0,"x":[{"b":1,"b":2}]`),
		"NUL in a value":          with(`"quantity":0,"resource_id":"a\u0000b"`),
		"NUL in a name":           with(`"quantity":0,"a\u0000":1`),
		"NUL in metadata":         with(`"quantity":0,"metadata":{"a":["\u0000"]}`),
		"NUL after a backslash":   with(`"quantity":0,"x":"\\\u0000"`),
		"NUL after its text":      with(`"quantity":0,"x":"\\u0000\u0000"`),
		"raw NUL":                 with("\"quantity\":0,\"x\":\"\x00\""),
		"lone high surrogate":     with(`"quantity":0,"x":"\ud800"`),
		"lone low surrogate":      with(`"quantity":0,"x":"\udc00 "`),
		"surrogates turned round": with(`"quantity":0,"x":"\udc00\ud800"`),
		"surrogate in a name":     with(`"quantity":0,"\ud800x":1`),
		"surrogate in metadata":   with(`"quantity":0,"metadata":{"a":"\uDBFF\u0041"}`),
		"invalid UTF-8":           with("\"quantity\":0,\"x\":\"\xff\""),
		"UTF-8 surrogate":         with("\"quantity\":0,\"x\":\"\xed\xa0\x80\""),
		"control character":       with("\"quantity\":0,\"x\":\"\n\""),
		"comment":                 with(`"quantity":0/**/`),
		"single quotes":           `{'a':1}`,
		"NaN":                     with(`"x":NaN`),
		"leading zero":            with(`"quantity":05`),
		"plus sign":               with(`"quantity":+5`),
		"64 KiB and a byte":       pad(with(`"x":"%s"`), 64<<10+1),
	} {
		m := stored(payload)
		m.TenantToken = "no-uuid"
		event, rejection := ingest.Decode(m)
		wantRejected(t, name, rejection, odometer.Malformed, "")
		if event.Tenant != uuid.Nil || event.Position != m.Position {
			t.Errorf("%s: event is %+v", name, event)
		}
	}
}

// wantRejected checks the reason, and that the detail names a word, can be
// stored anywhere and says what is allowed.
func wantRejected(t *testing.T, name string, got *odometer.Rejection, reason odometer.Reason, word string) {
	t.Helper()
	switch {
	case got == nil:
		t.Errorf("%s: taken, want %s", name, reason)
	case got.Reason != reason || !strings.Contains(got.Detail, word):
		t.Errorf("%s: %v; want %s of %q", name, got, reason, word)
	case !strings.Contains(got.Detail, "allowed: ") || !utf8.ValidString(got.Detail) || strings.ContainsRune(got.Detail, 0) || len(got.Detail) > 1000:
		t.Errorf("%s: detail %q", name, got.Detail)
	}
}

func TestInvalidFieldIsNamed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		field string
		m     *ingest.Message
	}{
		{"idempotency_key is missing", stored(`{"action_type":"a"}`)},
		{"idempotency_key is missing", stored(`{"idempotency_key":null,"action_type":"a"}`)},
		{"idempotency_key is missing", stored(`{"Idempotency_Key":"k","action_type":"a"}`)},
		{"idempotency_key is 5", stored(`{"idempotency_key":5,"action_type":"a"}`)},
		{`idempotency_key is ""`, stored(`{"idempotency_key":"","action_type":"a"}`)},
		{"idempotency_key", stored(`{"idempotency_key":"` + strings.Repeat("é", 256) + `","action_type":"a"}`)},
		{`idempotency_key is "a\n"`, stored(`{"idempotency_key":"a\n","action_type":"a"}`)},
		{"idempotency_key", stored(`{"idempotency_key":"a\u007f","action_type":"a"}`)},
		{"idempotency_key", stored(`{"idempotency_key":"a\u200b","action_type":"a"}`)},
		{"idempotency_key", stored(`{"idempotency_key":"a` + "\u00a0" + `","action_type":"a"}`)},
		{"action_type is missing", stored(`{"idempotency_key":"k"}`)},
		{"action_type is []", stored(`{"idempotency_key":"k","action_type":[]}`)},
		{`action_type is ""`, stored(`{"idempotency_key":"k","action_type":""}`)},
		{"action_type", stored(`{"idempotency_key":"k","action_type":"` + strings.Repeat("a", 256) + `"}`)},
		{"quantity is 0", stored(with(`"quantity":0`))},
		{"quantity is -1", stored(with(`"quantity":-1`))},
		{"quantity is 5.0", stored(with(`"quantity":5.0`))},
		{"quantity is 1e3", stored(with(`"quantity":1e3`))},
		{`quantity is "5"`, stored(with(`"quantity":"5"`))},
		{"quantity is true", stored(with(`"quantity":true`))},
		{"quantity is 1000000001", stored(with(`"quantity":1000000001`))},
		{"quantity", stored(with(`"quantity":` + strings.Repeat("9", 400)))},
		{"quantity is 1e400000", stored(with(`"quantity":1e400000`))},
		{"resource_id is 7", stored(with(`"resource_id":7`))},
		{"resource_id", stored(with(`"resource_id":"` + strings.Repeat("é", 256) + `"`))},
		{"occurred_at is 1700000000", stored(with(`"occurred_at":1700000000`))},
		{"occurred_at", stored(with(`"occurred_at":""`))},
		{"occurred_at", stored(with(`"occurred_at":"2026-11-23"`))},
		{"occurred_at", stored(with(`"occurred_at":"2026-11-23T07:15:33"`))},
		{"occurred_at", stored(with(`"occurred_at":"2026-11-23T07:15:33."`))},
		{"occurred_at", stored(with(`"occurred_at":"2026-11-23T07:15:33.Z"`))},
		{"occurred_at", stored(with(`"occurred_at":"2026-11-23T07:15:33,5Z"`))},
		{"occurred_at", stored(with(`"occurred_at":"2026-11-23 07:15:33Z"`))},
		{"occurred_at", stored(with(`"occurred_at":"2026-11-23t07:15:33z"`))},
		{"occurred_at", stored(with(`"occurred_at":"2026-11-23T7:15:33Z"`))},
		{"occurred_at", stored(with(`"occurred_at":"2026-11-23T24:00:00Z"`))},
		{"occurred_at", stored(with(`"occurred_at":"2026-02-29T00:00:00Z"`))},
		{"occurred_at", stored(with(`"occurred_at":"2026-11-23T07:15:33+24:00"`))},
		{"occurred_at", stored(with(`"occurred_at":"2026-11-23T07:15:33+01:60"`))},
		{"occurred_at", stored(with(`"occurred_at":"2026-11-23T07:15:33+0100"`))},
		{"occurred_at", stored(with(`"occurred_at":"2026-11-23T07:15:33Z "`))},
		{"metadata is []", stored(with(`"metadata":[]`))},
		{`metadata is "{}"`, stored(with(`"metadata":"{}"`))},
		{"metadata has 8193 bytes", stored(with(`"metadata":{"a":"` + strings.Repeat("x", 8<<10-7) + `"}`))},
		{"metadata has 8193 bytes", stored(with(`"metadata":{` + strings.Repeat(" ", 8<<10-1) + `}`))},
		{"deeper than 32", stored(with(`"metadata":` + nested(33)))},
		{"deeper than 32", stored(with(`"metadata":{"a":` + strings.Repeat("[", 32) + strings.Repeat("]", 32) + `}`))},
		{"the number 1e400000", stored(with(`"metadata":{"a":[1e400000]}`))},
		{"the number -1e-400000", stored(with(`"metadata":{"a":-1e-400000}`))},
		{"the number 2e308", stored(with(`"metadata":{"a":2e308}`))},
		{"the number 1e-324", stored(with(`"metadata":{"a":1e-324}`))},
		{"the number 0e-400000", stored(with(`"metadata":{"a":0e-400000}`))},
		{"the number 0.0E+99999999999999999999", stored(with(`"metadata":{"a":0.0E+99999999999999999999}`))},
		{"the number", stored(with(`"metadata":{"a":` + strings.Repeat("9", 310) + `}`))},
		{"tenant_id is 5", stored(with(`"tenant_id":5`))},
		{"agent is {}", stored(with(`"agent":{}`))},
		{"agent is {}", stored(with(`"tenant_id":"other","agent":{}`))},
		{"quantity is 0", stored(with(`"tenant_id":"other","quantity":0`))},

		{"quantity is missing", storedAdjustment(`{"idempotency_key":"k"}`)},
		{"quantity is missing", storedAdjustment(adjust(`"quantity":null`))},
		{"quantity is 0", storedAdjustment(adjust(`"quantity":0`))},
		{"quantity is -0", storedAdjustment(adjust(`"quantity":-0`))},
		{"quantity is -1000000001", storedAdjustment(adjust(`"quantity":-1000000001`))},
		{"quantity is 1.0", storedAdjustment(adjust(`"quantity":1.0`))},
		{`action_type is "email"`, storedAdjustment(adjust(`"quantity":1,"action_type":"email"`))},
		{`action_type is ""`, storedAdjustment(adjust(`"quantity":1,"action_type":""`))},

		{"id is missing", storedCloudEvent(`{"source":"s","specversion":"1.0","type":"inbox.a"}`)},
		{"id is 5", storedCloudEvent(cloud(`5`, `"s"`, `"1.0"`, `"inbox.a"`, ""))},
		{`id is ""`, storedCloudEvent(cloud(`""`, `"s"`, `"1.0"`, `"inbox.a"`, ""))},
		{"source is missing", storedCloudEvent(cloud(`"k"`, `null`, `"1.0"`, `"inbox.a"`, ""))},
		{`source is ""`, storedCloudEvent(cloud(`"k"`, `""`, `"1.0"`, `"inbox.a"`, ""))},
		{"specversion is missing", storedCloudEvent(cloud(`"k"`, `"s"`, `null`, `"inbox.a"`, ""))},
		{`specversion is "0.3"`, storedCloudEvent(cloud(`"k"`, `"s"`, `"0.3"`, `"inbox.a"`, ""))},
		{"specversion is 1.0", storedCloudEvent(cloud(`"k"`, `"s"`, `1.0`, `"inbox.a"`, ""))},
		{"type is missing", storedCloudEvent(cloud(`"k"`, `"s"`, `"1.0"`, `null`, ""))},
		{`type is "inbox"`, storedCloudEvent(cloud(`"k"`, `"s"`, `"1.0"`, `"inbox"`, ""))},
		{`type is "inbox."`, storedCloudEvent(cloud(`"k"`, `"s"`, `"1.0"`, `"inbox."`, ""))},
		{`type is ".a"`, storedCloudEvent(cloud(`"k"`, `"s"`, `"1.0"`, `".a"`, ""))},
		{"time is 5", storedCloudEvent(validCloud(`,"time":5`))},
		{"data is []", storedCloudEvent(validCloud(`,"data":[]`))},
		{`data is "{}"`, storedCloudEvent(validCloud(`,"data":"{}"`))},
		{"data_base64 is", storedCloudEvent(validCloud(`,"data_base64":"e30="`))},
		{"quantity is 0", storedCloudEvent(validCloud(`,"data":{"quantity":0}`))},
		{"quantity is 0", storedCloudEvent(cloud(`"k"`, `"s"`, `"1.0"`, `"invoice.a"`, `,"data":{"quantity":0}`))},
		{"metadata", storedCloudEvent(validCloud(`,"data":{"metadata":{"a":1e999}}`))},
	} {
		_, rejection := ingest.Decode(c.m)
		wantRejected(t, fmt.Sprintf("%.200s", c.m.Data), rejection, odometer.InvalidField, c.field)
	}
}

func TestInvalidSubjectHasNoTenant(t *testing.T) {
	t.Parallel()
	valid := with(`"tenant_id":"other"`)
	for _, c := range []struct{ tenant, agent, word string }{
		{"0B6E1A52-7F3C-4A60-9D0A-61A3F0B7C2D5", "inbox", "tenant"},
		{"0b6e1a527f3c4a609d0a61a3f0b7c2d5", "inbox", "tenant"},
		{"{" + tenantToken + "}", "inbox", "tenant"},
		{"acme\u0001", "inbox", "tenant"},
		{tenantToken, "Inbox", "agent"}, {tenantToken, "1nbox", "agent"}, {tenantToken, strings.Repeat("a", 33), "agent"}, {tenantToken, "inböx", "agent"},
	} {
		m := stored(valid)
		m.TenantToken, m.AgentToken = c.tenant, c.agent
		event, rejection := ingest.Decode(m)
		wantRejected(t, c.tenant+"."+c.agent, rejection, odometer.InvalidField, "the subject's "+c.word)
		if event.Tenant != uuid.Nil {
			t.Errorf("%s.%s: tenant is %s", c.tenant, c.agent, event.Tenant)
		}
	}
}

func TestPayloadThatContradictsTheSubjectIsRejected(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		word string
		m    *ingest.Message
	}{
		{"tenant_id", stored(with(`"tenant_id":"` + uuid.Max.String() + `"`))},
		{"tenant_id", stored(with(`"tenant_id":"` + strings.ToUpper(tenantToken) + `"`))},
		{"tenant_id", stored(with(`"tenant_id":""`))},
		{"agent", stored(with(`"agent":"invoice"`))},
		{"agent", stored(with(`"tenant_id":"` + tenantToken + `","agent":""`))},
		{"type names the agent", storedCloudEvent(cloud(`"k"`, `"s"`, `"1.0"`, `"invoice.a"`, ""))},
		{"type names the agent", storedCloudEvent(cloud(`"k"`, `"s"`, `"1.0"`, `"com.example.inbox.a"`, ""))},
	} {
		event, rejection := ingest.Decode(c.m)
		wantRejected(t, string(c.m.Data), rejection, odometer.SubjectMismatch, c.word)
		if event.Tenant.String() != tenantToken || event.Agent != "inbox" {
			t.Errorf("%s: the dead letter would not belong to the subject's tenant: %+v", c.m.Data, event)
		}
	}
}

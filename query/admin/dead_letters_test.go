package admin

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"

	"odometer"
	"odometer/api/apitest"
)

// deadLetter inserts an open dead letter at 1-seq.
func (b *testEnv) deadLetter(seq int, tenant uuid.UUID, reason odometer.Reason, payload string) {
	b.Helper()
	b.exec(`insert into dead_letters (stream_epoch, stream_seq, subject, tenant_id, agent, reason, detail, payload, headers, received_at)
		values (1, $1, 'usage.' || $2::text || '.inbox', nullif($2::uuid, $5), 'inbox', $3, 'detail', $4, '{"K":["v"]}', now())`,
		seq, tenant, reason, []byte(payload), uuid.Nil)
}

func TestOnlyHarmlessPayloadsAreText(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", maxShownBytes-1)
	for payload, want := range map[string]string{
		"":                        "",
		"{\"a\": 1}\r\n\t":        "{\"a\": 1}\r\n\t",
		"grüße 你好 🙂":              "grüße 你好 🙂",
		"a\x00b":                  "-",
		"a\x1b[31mb":              "-",
		"a\x7fb":                  "-",
		"a\u0085b":                "-",
		"user\u202egnp.exe":       "-",
		"a\u2066b":                "-",
		"\xff\xfe":                "-",
		"half \xf0\x9f":           "-",
		long + "xmore":            long + "x",
		long + "🙂more":            long,
		long[1:] + "ü" + "more":   long[1:] + "ü",
		long + "\xff" + "more":    long, // it may be half a character
		"\xff" + long + "🙂 more":  "-",
		strings.Repeat("🙂", 2000): strings.Repeat("🙂", maxShownBytes/4),
	} {
		b := []byte(payload)
		shown := b[:min(len(b), maxShownBytes)]
		got := "-"
		if text := harmlessText(shown, len(shown) < len(b)); text != nil {
			got = *text
		}
		if got != want {
			t.Errorf("%.20q of %d bytes is shown as %.20q of %d, want %.20q of %d", payload, len(payload), got, len(got), want, len(want))
		}
	}
}

// A list stays small whatever agents have sent; one dead letter is shown complete.
func TestADeadLetterIsShownCompleteByItsID(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := uuid.New()
	payload := strings.Repeat("x", maxShownBytes) + "\x00end"
	b.deadLetter(1, tenant, odometer.Malformed, payload)
	b.deadLetter(2, uuid.Nil, odometer.InvalidField, "{}")
	b.exec(`update dead_letters set headers = jsonb_build_object('K', jsonb_build_array(repeat('v', 5000))) where stream_seq = 2`)
	h := b.newAPI(&acted{})
	list := apitest.Decode[DeadLetterList](t, apitest.Get(h, base+"dead-letters", operator(t)))
	if len(list.Letters) != 2 || list.Letters[0].ID != "1-2" || list.Total != 2 {
		t.Fatalf("%+v", list)
	}
	cut, many := list.Letters[1], list.Letters[0]
	if !cut.Truncated || string(cut.PayloadBase64) != payload[:maxShownBytes] || *cut.Payload != payload[:maxShownBytes] || cut.PayloadBytes != len(payload) ||
		*cut.TenantID != tenant || cut.Headers["K"][0] != "v" {
		t.Errorf("the payload: %+v", cut)
	}
	if !many.Truncated || len(many.Headers) != 0 || *many.Payload != "{}" || many.TenantID != nil {
		t.Errorf("the headers: %+v", many)
	}
	whole := apitest.Decode[DeadLetterList](t, apitest.Get(h, base+"dead-letters?id=1-1&state=discarded", operator(t)))
	if d := whole.Letters[0]; d.Truncated || string(d.PayloadBase64) != payload || d.Payload != nil || whole.Total != 1 || whole.Groups[0].Reason != odometer.Malformed {
		t.Errorf("by id: %+v", whole)
	}
	whole = apitest.Decode[DeadLetterList](t, apitest.Get(h, base+"dead-letters?id=1-2", operator(t)))
	if d := whole.Letters[0]; d.Truncated || len(d.Headers["K"][0]) != 5000 {
		t.Errorf("by id: %+v", whole)
	}
}

func TestDeadLettersAreFilteredAndCounted(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	one, two := uuid.New(), uuid.New()
	for i := range 10 {
		b.deadLetter(10+i, one, odometer.UnknownAction, "{}")
		b.deadLetter(30+i, two, odometer.Malformed, "{}")
	}
	b.exec(`update dead_letters set state = 'discarded', decided_at = now(), decided_by = 'me', why = 'a test' where stream_seq >= 35`)
	for query, want := range map[string]string{
		"":                              "15 15 [10 unknown_action open][5 malformed open] 1-34",
		"?limit=3":                      "15 3 [10 unknown_action open][5 malformed open] 1-34",
		"?state=all":                    "20 20 [10 unknown_action open][5 malformed discarded][5 malformed open] 1-39",
		"?state=discarded":              "5 5 [5 malformed discarded] 1-39",
		"?reason=unknown_action":        "10 10 [10 unknown_action open] 1-19",
		"?tenant_id=" + two.String():    "5 5 [5 malformed open] 1-34",
		"?state=retried&reason=too_old": "0 0 ",
	} {
		l := apitest.Decode[DeadLetterList](t, apitest.Get(b.newAPI(&acted{}), base+"dead-letters"+query, operator(t)))
		got := fmt.Sprintf("%d %d ", l.Total, len(l.Letters))
		for _, g := range l.Groups {
			got += fmt.Sprintf("[%d %s %s]", g.Count, g.Reason, g.State)
		}
		if len(l.Letters) > 0 {
			got += " " + l.Letters[0].ID
		}
		if got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
}

// Page by page each letter comes once, the newest first, whatever arrives or is
// decided meanwhile.
func TestPagesHoldEachDeadLetterOnce(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	b.exec(`insert into dead_letters (stream_epoch, stream_seq, subject, tenant_id, agent, reason, detail, payload, headers, received_at)
		select 1 + n % 2, n, 'usage.x.inbox', null, 'inbox', case when n % 3 = 0 then 'malformed' else 'unknown_action' end, '', '\x7b7d', '{}', now()
		from generate_series(1, 90) n`)
	h := b.newAPI(&acted{})
	var all []odometer.Position
	path := base + "dead-letters?reason=unknown_action&limit=7"
	for cursor := ""; ; {
		page := apitest.Decode[DeadLetterList](t, apitest.Get(h, path+cursor, operator(t)))
		for _, d := range page.Letters {
			all = append(all, get[odometer.Position](t)(parseDeadLetterID(d.ID)))
		}
		if page.NextCursor == nil {
			break
		}
		if len(page.Letters) != 7 || page.Total < int64(len(all)) {
			t.Fatalf("a page of %d, of %d in all", len(page.Letters), page.Total)
		}
		cursor = "&cursor=" + *page.NextCursor
		last := all[len(all)-1]
		b.exec(`update dead_letters set state = 'discarded' where (stream_epoch, stream_seq) = ($1, $2)`, last.Epoch, last.Seq)
		b.deadLetter(1000+len(all), uuid.Nil, odometer.UnknownAction, "{}")
		b.exec(`update dead_letters set stream_epoch = 3 where stream_seq > 1000`)
	}
	if len(all) != 60 {
		t.Errorf("%d letters, want 60", len(all))
	}
	for i := 1; i < len(all); i++ {
		if !all[i-1].After(all[i]) {
			t.Fatalf("%v before %v", all[i-1], all[i])
		}
	}
	other := apitest.Decode[DeadLetterList](t, apitest.Get(h, base+"dead-letters?limit=7", operator(t)))
	for _, cursor := range []string{"x", *other.NextCursor} {
		if r := apitest.Get(h, path+"&cursor="+cursor, operator(t)); r.StatusCode != http.StatusBadRequest {
			t.Errorf("cursor %s: status %d", cursor, r.StatusCode)
		}
	}
}

// However many letters there are and whatever becomes of them, calls that
// follow the cursor retry each once, in the order of the stream.
func TestARetryOfManyContinuesByCursor(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	b.exec(`insert into dead_letters (stream_epoch, stream_seq, subject, tenant_id, agent, reason, detail, payload, headers, received_at)
		select 1 + n % 2, n, 'usage.x.inbox', null, 'inbox', case when n % 3 = 0 then 'malformed' else 'unknown_action' end, '', '\x7b7d', '{}', now()
		from generate_series(1, 3600) n`)
	did := &acted{}
	h := b.newAPI(did)
	var retried []odometer.Position
	body := `{"reason":"unknown_action"}`
	for calls := 1; ; calls++ {
		did.letters = nil
		r := apitest.Decode[RetryResult](t, apitest.Do(h, http.MethodPost, base+"dead-letters/retry", operator(t), body))
		retried = append(retried, did.letters...)
		if r.Counts.Retried != len(did.letters) || len(r.Letters) != len(did.letters) || len(did.letters) > maxRetried {
			t.Fatalf("counted %+v of %d", r.Counts, len(did.letters))
		}
		for i, at := range did.letters {
			if r.Letters[i].ID != deadLetterID(at) {
				t.Fatalf("letter %d is %s, want %s", i, r.Letters[i].ID, deadLetterID(at))
			}
		}
		if r.NextCursor == nil {
			if calls != 3 {
				t.Errorf("%d calls", calls)
			}
			break
		}
		body = fmt.Sprintf(`{"reason":"unknown_action","cursor":%q}`, *r.NextCursor)
	}
	if len(retried) != 2400 {
		t.Errorf("%d letters were retried, want 2400", len(retried))
	}
	for i := 1; i < len(retried); i++ {
		if !retried[i].After(retried[i-1]) {
			t.Fatalf("%v after %v", retried[i], retried[i-1])
		}
	}
}

func TestDeadLettersNamedByIDHaveAnOutcomeInAnyState(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	one, two := uuid.New(), uuid.New()
	b.deadLetter(1, one, odometer.UnknownAction, "{}")
	b.deadLetter(2, two, odometer.UnknownAction, "{}")
	b.deadLetter(3, one, odometer.Malformed, "{}")
	b.exec(`update dead_letters set state = 'discarded' where stream_seq = 1`)
	for body, want := range map[string]string{
		`{"ids":["1-3","1-1"]}`:                                          "[{1 1} {1 3}]",
		`{"ids":["1-3","1-1"],"reason":"malformed"}`:                     "[{1 3}]",
		`{"tenant_id":"` + one.String() + `"}`:                           "[{1 3}]",
		`{"reason":"unknown_action"}`:                                    "[{1 2}]",
		`{"reason":"unknown_action","tenant_id":"` + one.String() + `"}`: "[]",
	} {
		did := &acted{}
		apitest.Decode[RetryResult](t, apitest.Do(b.newAPI(did), http.MethodPost, base+"dead-letters/retry", operator(t), body))
		if got := fmt.Sprint(did.letters); got != want {
			t.Errorf("%s: %s, want %s", body, got, want)
		}
	}
	if text := apitest.Body(t, apitest.Do(b.newAPI(&acted{}), http.MethodPost, base+"dead-letters/retry", operator(t), `{"reason":"too_old"}`)); !bytes.Contains([]byte(text), []byte(`"letters":[]`)) {
		t.Error(text)
	}
}

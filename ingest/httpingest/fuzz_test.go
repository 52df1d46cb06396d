package httpingest

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

// FuzzSplit holds the splitter to encoding/json: they agree on what is JSON,
// and on each element's bytes.
func FuzzSplit(f *testing.F) {
	for _, body := range []string{
		`[]`, `[1]`, ` [ 1 , "a" ] `, `[{"a":"]\""},[[]],null]`, `[1,]`, `[,1]`, `[1 2]`, `[1]x`, `[`, `["`, `["\`, `["\u12"]`, `[tru]`, `[-]`, `[01]`,
		`[1.]`, `[1e]`, `[1e+5,-0.5E-3]`, `[{"a":[}]`, `[{"a" 1}]`, `[{a:1}]`, `[{"a":1,}]`, `{}`, `{"a":{"b":[]}} `, `{}{}`, `{"a":1`, "[\"\n\"]", "[\"\x7f\"]",
		"[\"\xff\"]", `["\ud800"]`, "[1\v]", `[true,false,null]`, `[truefalse]`, `["a""b"]`, `[}`, `{]`, `["\\",1]`, `["\\\"",1]`,
		"{\"a\":\"\n5,\"b\":\"\n5}",
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		whole := bytes.Trim(body, jsonSpace)
		if len(whole) == 0 || whole[0] != '[' && whole[0] != '{' || bytes.Count(whole, []byte{','}) >= maxEvents {
			return
		}
		var parts [][]byte
		var err error
		if whole[0] == '[' {
			parts, err = splitArray(whole)
		} else {
			parts, err = splitOne(whole)
		}
		good := err == nil
		for _, part := range parts {
			good = good && isJSON(part)
		}
		if good != json.Valid(whole) {
			t.Fatalf("JSON: %v, %v; encoding/json says %v", good, err, json.Valid(whole))
		}
		if detail := notJSON(whole).Detail; !good && !strings.Contains(detail, "at byte offset ") {
			t.Fatalf("%q", detail)
		}
		if good && whole[0] == '[' {
			sameElements(t, whole, parts)
		}
	})
}

func sameElements(t *testing.T, whole []byte, parts [][]byte) {
	t.Helper()
	var want []json.RawMessage
	if err := json.Unmarshal(whole, &want); err != nil {
		t.Fatal(err)
	}
	if len(parts) != len(want) {
		t.Fatalf("%d elements, want %d", len(parts), len(want))
	}
	for i := range want {
		if !bytes.Equal(parts[i], want[i]) {
			t.Errorf("element %d is %q, want %q", i, parts[i], want[i])
		}
	}
}

// FuzzLines holds the splitter of lines to package bytes.
func FuzzLines(f *testing.F) {
	for _, body := range []string{"", "a", "a\nb", "\n\r\n a \r\nb\n\n", "\r", "a\rb", strings.Repeat("\n", 2000)} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var want [][]byte
		for line := range bytes.SplitSeq(body, []byte("\n")) {
			if line = bytes.Trim(line, jsonSpace); len(line) > 0 {
				want = append(want, line)
			}
		}
		parts, err := splitLines(body)
		if (err != nil) != (len(want) > maxEvents) {
			t.Fatalf("%d lines: %v", len(want), err)
		}
		for i := range parts {
			if !bytes.Equal(parts[i], want[i]) {
				t.Errorf("line %d is %q, want %q", i, parts[i], want[i])
			}
		}
		if err == nil && len(parts) != len(want) {
			t.Errorf("%d lines, want %d", len(parts), len(want))
		}
	})
}

func TestIsJSON(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("[", 1<<20)
	for text, want := range map[string]bool{
		`{"a":1,"a":1}`: true, `"\ud800"`: true, "\"\xff\"": true, `"\u0000"`: true, `{"a":{"b":[1,{}]}}`: true, ` [ ] `: true,
		deep + strings.ReplaceAll(deep, "[", "]"): true,
		"{\"a\":\"\n5,\"b\":\"\n5}":               false,
		``:                                        false, ` `: false, `{`: false, `{}}`: false, `{"a"}`: false, `{"a":}`: false, `{"a":1 "b":2}`: false, `{,}`: false, `[}`: false,
		`"\x"`: false, `"\u12g4"`: false, "\"\t\"": false, `tru`: false, `nul`: false, `-`: false, `+1`: false, `.5`: false, `1.`: false, `1e`: false, `00`: false,
	} {
		if got := isJSON([]byte(text)); got != want {
			t.Errorf("%.40q: %v", text, got)
		}
	}
}

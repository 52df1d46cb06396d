package audit

import "testing"

// Postgres writes a document in its own way; only its meaning counts.
func TestJSONIsComparedByMeaning(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		a, b string
		same bool
	}{
		{`{"a": 1, "b": [1.50, true]}`, `{"b":[1.5,true],"a":1}`, true},
		{`{"a": 1000}`, `{"a":1e3}`, true},
		{`{"a": 0.0000001}`, `{"a":1E-7}`, true},
		{`{"a": 12345678901234567890.000000000001}`, `{"a":12345678901234567890.000000000002}`, false},
		{`{"a": "\u00e9"}`, `{"a":"é"}`, true},
		{`{"a": 1}`, `{"a":"1"}`, false},
		{`{"a": null}`, `{}`, false},
		{`[1, 2]`, `[2,1]`, false},
		{`{"a": [{"b": 2.0}]}`, `{"a":[{"b":2}]}`, true},
	} {
		if same := sameJSON([]byte(row.a), []byte(row.b)); same != row.same {
			t.Errorf("sameJSON(%s, %s) = %v, want %v", row.a, row.b, same, row.same)
		}
	}
	if sameJSON(nil, []byte(`{}`)) || !sameJSON(nil, nil) {
		t.Error("no document is only the same as no document")
	}
}

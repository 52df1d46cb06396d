package query

import (
	"strings"
	"testing"
)

// A media type is rated by the most specific range that it falls in; what is
// rated alike is the one that is named, else JSON.
func TestTheHighestRatedTypeIsAnswered(t *testing.T) {
	t.Parallel()
	for accept, want := range map[string]string{
		"":                                      jsonType,
		"*/*":                                   jsonType,
		"text/*":                                csvType,
		"application/*":                         jsonType,
		"text/*, application/json":              jsonType,
		"text/csv, */*":                         csvType,
		"text/*, */*":                           csvType,
		"text/csv, application/*":               csvType,
		"text/csv, application/json":            jsonType,
		"text/*, */*;q=0.5":                     csvType,
		"text/*;q=0.5, */*":                     jsonType,
		"*/*, application/json;q=0.5":           csvType,
		"*/*, application/json;q=0":             csvType,
		"text/csv;q=0, */*":                     jsonType,
		"text/csv;q=0.1, text/*":                csvType,
		"text/csv;q=0.1, text/*, */*;q=0.2":     jsonType,
		"text/csv":                              csvType,
		"TEXT/CSV":                              csvType,
		"text/csv; header=present; q=0.5":       csvType,
		"text/csv;header=present;Q=0.5, */*":    jsonType,
		"application/json;q=0.1\ntext/csv;q=.2": csvType,
		"text/html":                             jsonType,
		"text/html, */*;q=0.8":                  jsonType,
		"*/*;q=0":                               jsonType,
		"text/csv;q=0":                          jsonType,
		"text/csv;q=2, */*":                     jsonType,
		"text/csv;q=NaN":                        jsonType,
		"text/csvx, text":                       jsonType,
		",;, ;q=1,=":                            jsonType,
	} {
		if got := preferred(strings.Split(accept, "\n"), jsonType, csvType); got != want {
			t.Errorf("%q: %s, want %s", accept, got, want)
		}
	}
}

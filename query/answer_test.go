package query

import (
	"strings"
	"testing"
	"time"
)

func TestETagCoversEverythingButAsOf(t *testing.T) {
	t.Parallel()
	tag := func(a Answer) string {
		text, err := etag(&a)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	base := Answer{Currency: "usd", AsOf: Instant{time.Now()}}
	later := base
	later.AsOf = Instant{base.AsOf.Add(time.Hour)}
	if tag(base) != tag(later) {
		t.Error("as_of changes the tag")
	}
	other := base
	other.Usage = Ordered[AgentUsage]{{"inbox", AgentUsage{Count: 1}}}
	if tag(base) == tag(other) {
		t.Error("a count does not change the tag")
	}
}

func TestIfNoneMatchFollowsRFC9110(t *testing.T) {
	t.Parallel()
	const tag = `W/"abc"`
	tests := []struct {
		lines []string
		want  bool
	}{
		{nil, false},
		{[]string{""}, false},
		{[]string{`W/"abc"`}, true},
		{[]string{`"abc"`}, true}, // weak comparison
		{[]string{`*`}, true},
		{[]string{` * `}, true},
		{[]string{`"x", W/"abc"`}, true},
		{[]string{`"x"`, `"abc"`}, true},
		{[]string{`"x,y",,	"abc"`}, true},
		{[]string{`"a,"abc","`}, false}, // "a," is a tag, what follows is none
		{[]string{`abc`}, false},
		{[]string{`"abc`}, false},
		{[]string{`"abcd"`, `"ab"`}, false},
		{[]string{`w/"abc"`}, false}, // the W is case-sensitive
	}
	for _, test := range tests {
		if got := matches(test.lines, tag); got != test.want {
			t.Errorf("matches(%q) = %v", test.lines, got)
		}
	}
}

// A media type is rated by the most specific range that it falls in; what is
// rated alike is the one that is named, else JSON.
func TestAcceptPrefersTheHighestWeight(t *testing.T) {
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

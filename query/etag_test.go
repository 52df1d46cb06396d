package query

import (
	"testing"
	"time"
)

func TestTagIsOverEverythingButAsOf(t *testing.T) {
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

func TestIfNoneMatchIsReadAsHTTPMeansIt(t *testing.T) {
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

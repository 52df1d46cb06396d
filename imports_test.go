package odometer_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// allowedImports lists, for each package, which of our packages it may import.
// Stages meet in data, not in imports. The exceptions: a reader of the stream
// imports ingest, which defines its format, and what counts by plans and periods
// imports billing, which owns them.
var allowedImports = map[string][]string{
	"":                  {},
	"ingest":            {"", "ingest/publisher"},
	"ingest/publisher":  {}, // becomes the Go SDK
	"ingest/httpingest": {"", "ingest", "ingest/publisher", "api"},
	"billing":           {""},
	"aggregator":        {"", "ingest", "billing", "aggregator/position", "aggregator/apply"},

	// Parts of the aggregator's stage. The live reader, replay and the retry of
	// dead letters are three callers of apply, which counts.
	"aggregator/position":   {"", "ingest"},
	"aggregator/apply":      {"", "ingest", "billing"},
	"aggregator/replay":     {"", "ingest", "aggregator/position", "aggregator/apply"},
	"aggregator/deadletter": {"", "aggregator/position", "aggregator/apply"},

	"audit/findings":     {},
	"reporter":           {"", "ingest", "billing", "audit/findings"},
	"api":                {""},
	"query":              {"", "api"},
	"query/admin":        {"", "query", "api", "audit/findings"},
	"audit":              {"", "ingest", "aggregator/position", "aggregator/apply", "billing", "audit/findings"},
	"migrations":         {},
	"migrations/localpg": {},
	"cmd/internal/jobs":  {"", "query/admin", "cmd/internal/cli"},
	"cmd/odometer": {
		"cmd/internal/cli", "cmd/internal/app", "cmd/internal/jobs", "cmd/internal/demo", "cmd/internal/bench",
		"", "ingest", "ingest/publisher", "billing", "aggregator", "reporter", "reporter/subscriptions", "reporter/alerts", "reporter/stripetest",
		"aggregator/position", "aggregator/apply", "aggregator/replay", "aggregator/deadletter", "aggregator/retention", "api", "query", "query/admin", "query/web", "ingest/httpingest", "audit", "migrations", "migrations/localpg",
	},

	// What the commands share. Nothing of the product depends on the demo or on
	// the benchmarks, and neither of these depends on the other.
	"cmd/internal/cli": {"", "ingest", "ingest/publisher", "billing", "aggregator", "aggregator/position", "aggregator/replay", "reporter", "query", "migrations", "api"},
	"cmd/internal/app": {
		"cmd/internal/cli", "cmd/internal/jobs",
		"", "ingest", "ingest/publisher", "billing", "aggregator", "aggregator/retention", "aggregator/apply", "aggregator/deadletter", "reporter", "reporter/subscriptions", "reporter/alerts", "api", "query", "query/admin", "query/web", "ingest/httpingest", "audit", "migrations",
	},
	"cmd/internal/bench": {
		"cmd/internal/cli", "cmd/internal/app",
		"", "ingest", "ingest/publisher", "ingest/httpingest", "billing", "aggregator", "api", "query", "audit", "migrations", "migrations/localpg",
	},
	"cmd/internal/demo": {
		"cmd/internal/cli", "cmd/internal/app",
		"", "ingest", "ingest/publisher", "billing", "reporter", "reporter/stripetest", "api", "query", "query/web", "audit", "migrations", "migrations/localpg",
	},

	// What people see: pages and scripts that ask the API like any client.
	"query/web": {},

	// Parts of the reporter's stage.
	"reporter/subscriptions": {"", "billing", "audit/findings"},
	"reporter/alerts":        {"", "audit/findings"},
	"aggregator/retention":   {"", "billing"},

	// For tests only.
	"internal/soak":                  {},
	"migrations/pgtest":              {"migrations", "migrations/localpg"},
	"migrations/pgtest/withpostgres": {"migrations/pgtest"},
	"ingest/natstest":                {},
	"api/apitest":                    {},
	"deploy/examples":                {"", "ingest", "ingest/publisher"},
	"internal/testenv":               {"", "ingest", "ingest/publisher", "billing", "ingest/natstest", "migrations/pgtest"},
	"aggregator/internal/aggtest":    {"", "ingest/publisher", "billing", "internal/testenv"},

	// A module of its own: what go generate runs.
	"tools/bundle": {},
	"tools/notice": {},

	// For tests, the demo and the bench.
	"reporter/stripetest": {},
}

// anyTest may import these: the real servers, and what creates and fills the stream.
var anyTest = []string{"", "ingest", "ingest/publisher", "internal/testenv", "aggregator/internal/aggtest", "internal/soak", "migrations/pgtest", "migrations/localpg", "ingest/natstest", "reporter/stripetest", "api/apitest"}

// testImports lists what the tests of a package may import besides.
var testImports = map[string][]string{
	"aggregator/replay":     {"aggregator", "aggregator/deadletter"},
	"aggregator/deadletter": {"aggregator"},
	"audit":                 {"aggregator"},
}

func TestImportsPointOneWay(t *testing.T) {
	t.Parallel()
	found := 0
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		found++
		checkImports(t, path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if found < 50 {
		t.Fatalf("only %d files found: the walk misses most of the tree", found)
	}
}

func checkImports(t *testing.T, path string) {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	from := filepath.ToSlash(filepath.Dir(path))
	if from == "." {
		from = ""
	}
	allowed, known := allowedImports[from]
	if !known {
		t.Errorf("%s: package %q is not listed in allowedImports: add it", path, from)
	}
	for _, spec := range file.Imports {
		imported, _ := strconv.Unquote(spec.Path.Value)
		if imported != "odometer" && !strings.HasPrefix(imported, "odometer/") {
			continue
		}
		to := strings.TrimPrefix(strings.TrimPrefix(imported, "odometer"), "/")
		test := strings.HasSuffix(path, "_test.go") && (to == from || slices.Contains(anyTest, to) || slices.Contains(testImports[from], to) || from == "")
		if !test && !slices.Contains(allowed, to) {
			t.Errorf("%s imports %s: allowedImports[%q] has only %q", path, imported, from, allowed)
		}
	}
}

# Each target prints what it runs. CONTRIBUTING.md says when to use which.
.PHONY: test short lint generate soak bench

TOOL = go tool -modfile=tools/go.mod

# What the README promises. Each package starts a Postgres of its own, unless
# ODOMETER_TEST_DATABASE_URL names one.
test:
	go test -timeout 20m ./...

# Fewer random rounds, and no browser, bundle or benchmark: under 90 s on two cores.
short:
	go test -short ./...

# Prints nothing but the commands when all is well.
lint:
	test -z "$$(gofmt -l .)"
	go vet ./...
	go -C tools vet ./...
	$(TOOL) golangci-lint run ./...
	cd tools && go tool golangci-lint run ./...
	$(TOOL) deadcode -test ./...

# What is made from sources and committed: the web pages and NOTICE.
generate:
	go generate ./...

# Hours instead of minutes: every test with SOAK times as many random rounds,
# then the rapid properties with CHECKS cases each, then every fuzz test.
SOAK = 20
CHECKS = 5000
FUZZTIME = 5m
RAPID = $(shell go list -f '{{$$p := .ImportPath}}{{range .TestImports}}{{if eq . "pgregory.net/rapid"}}{{$$p}} {{end}}{{end}}{{range .XTestImports}}{{if eq . "pgregory.net/rapid"}}{{$$p}}{{end}}{{end}}' ./...)
soak:
	ODOMETER_SOAK=$(SOAK) go test -count=1 -timeout 12h ./...
	go test -count=1 -timeout 12h $(RAPID) -rapid.checks=$(CHECKS)
	set -e; grep -rE '^func Fuzz[A-Za-z]+\(f \*testing' --include='*_test.go' . | sed -E 's|/[^/]*:func (Fuzz[A-Za-z]+).*| \1|' | \
	while read -r dir name; do set -x; go test -run '^$$' -fuzz "^$$name$$" -fuzztime $(FUZZTIME) "$$dir"; { set +x; } 2>/dev/null; done

# Compares the product against simpler ways of counting on this machine; needs it quiet.
bench:
	go run ./cmd/odometer bench

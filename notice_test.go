package odometer_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestNoticeNamesEveryModuleOfTheProgram(t *testing.T) {
	t.Parallel()
	notice, err := os.ReadFile("NOTICE")
	if err != nil {
		t.Fatal(err)
	}
	linked, err := exec.CommandContext(t.Context(), "go", "list", "-deps",
		"-f", "{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}}{{end}}{{end}}", "./cmd/odometer").Output()
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{} // "module version"
	for line := range strings.Lines(string(notice)) {
		if part := strings.Fields(line); len(part) >= 3 && strings.HasPrefix(line, "  ") {
			named[part[0]+" "+part[1]] = true
		}
	}
	for line := range strings.Lines(string(linked)) {
		if module := strings.TrimSpace(line); module != "" && !named[module] {
			t.Errorf("NOTICE does not name %s; run: go generate .", module)
		}
	}
}

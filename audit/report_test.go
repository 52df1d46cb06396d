package audit

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The text is for people; programs run the arguments.
func TestRepairIsTextAndArguments(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		repair Repair
		text   string
		args   []string
	}{
		{command("replay", "--tenant", "t"), "odometer replay --tenant t", []string{"replay", "--tenant", "t"}},
		{command("jobs", "run", "verify").note(" (compares it)"), "odometer jobs run verify (compares it)", []string{"jobs", "run", "verify"}},
		{command("deadletters", "discard", "1-2", "--why", "it is an event"), `odometer deadletters discard 1-2 --why "it is an event"`,
			[]string{"deadletters", "discard", "1-2", "--why", "it is an event"}},
		{byHand("no repair is defined: restore %s", "it"), "no repair is defined: restore it", nil},
	} {
		text, err := json.Marshal(Difference{Kind: EventMissing, Repair: row.repair})
		if err != nil {
			t.Fatal(err)
		}
		var shape map[string]any
		var d Difference
		if err := json.Unmarshal(text, &shape); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &d); err != nil {
			t.Fatal(err)
		}
		if shape["repair"] != row.text {
			t.Errorf("repair is %q in %s, want %q", shape["repair"], text, row.text)
		}
		if diff := cmp.Diff(row.args, d.Repair.Args); diff != "" {
			t.Errorf("arguments of %q: %s", row.text, diff)
		}
	}
}

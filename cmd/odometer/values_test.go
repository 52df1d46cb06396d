package main

import (
	"odometer/cmd/internal/cli"
	"strings"
	"testing"
)

// An error for a value that cannot be read names its flag, the value, and what one
// looks like; how the program reads it is nobody's concern.
func TestInvalidFlagValuesAreExplained(t *testing.T) {
	t.Parallel()
	const aTime, aSpan = "RFC 3339, as 2026-11-01T00:00:00Z", "as 90s, 15m or 1h30m"
	for line, says := range map[string]string{
		"publish --occurred-at yesterday":                   `--occurred-at: "yesterday" is no time: give it by ` + aTime,
		"publish --occurred-at=":                            `--occurred-at: "" is no time`,
		"adjust --occurred-at 2026-11-01":                   `--occurred-at: "2026-11-01" is no time`,
		"replay --since 5m":                                 `--since: "5m" is no time`,
		"audit --since now":                                 `--since: "now" is no time`,
		"subscription set --period-start x":                 `--period-start: "x" is no time`,
		"subscription set --trial-ends-at 2026-11-01 00:00": `--trial-ends-at: "2026-11-01" is no time`,
		"adjust --wait soon":                                `--wait: "soon" is no duration: give numbers with units, ` + aSpan,
		"demo --for 20":                                     `--for: "20" is no duration`,
		"run --close-grace 15min":                           `--close-grace: "15min" is no duration`,
		"token --ttl 1x":                                    `--ttl: "1x" is no duration: give numbers with units, as 35d, 12h or 1h30m`,
		"token --ttl 1xd":                                   `--ttl: "1xd" is no duration`,
		"token --ttl NaNd":                                  `--ttl: "NaNd" is no duration`,
		"token --ttl 1e300d":                                `--ttl: "1e300d" is no duration`,
		"publish --quantity many":                           `--quantity: "many" is no whole number`,
		"run --partitions 1.5":                              `--partitions: "1.5" is no whole number`,
		"run --stream-max-bytes 99999999999999999999":       `--stream-max-bytes: "99999999999999999999" is no whole number, or too large for one`,
		"publish --tenant X":                                `--tenant: "X" is not a UUID`,
		"publish --occurred-at":                             "--occurred-at: its value is missing",
		"publish --agent --action a":                        `--agent: its value is missing, "--action" comes next`,
	} {
		got := odometerDoes(t, strings.Fields(line)...)
		if got.code != cli.ExitUsage || !strings.Contains(got.err, says) {
			t.Errorf("odometer %s: exit %d; said %q, want a word of %q", line, got.code, got.err, says)
		}
		for _, inside := range []string{"parsing", "2006", "time: invalid", "bit int", "EOL", "expected"} {
			if strings.Contains(got.err, inside) {
				t.Errorf("odometer %s: %q shows internals: %s", line, inside, got.err)
			}
		}
	}
}

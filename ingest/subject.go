package ingest

import (
	"strconv"
	"strings"

	"github.com/google/uuid"

	"odometer"
)

// First tokens of the subjects, one for each kind of event.
const (
	usageToken  = "usage"
	adjustToken = "adjust"
)

// Subject is where an event of this kind, tenant and agent is published:
// `usage.<tenant>.<agent>`, or `adjust.<tenant>.<agent>` for a correction.
// The agent must have the form odometer.ValidAgent asks for.
func Subject(kind odometer.Kind, tenant uuid.UUID, agent string) string {
	return subjectOf(kind, tenant.String(), agent)
}

func subjectOf(kind odometer.Kind, tenantToken, agentToken string) string {
	first := usageToken
	if kind == odometer.Adjustment {
		first = adjustToken
	}
	return first + "." + tenantToken + "." + agentToken
}

// ParseStored takes a subject apart as the stream stores it,
// `usage.<partition>.<tenant>.<agent>` or `adjust.…`. The tokens of tenant and
// agent are returned as they are; whether they are well-formed is for Decode to
// validate. A literal wildcard (`usage.*.inbox`) the server stores without the
// transform: such a message, whose tokens no tenant or agent can have, belongs
// to partition 0. It is not ok for any other form: a message that came into the
// stream some other way.
func ParseStored(subject string) (kind odometer.Kind, partition int, tenantToken, agentToken string, ok bool) {
	first, rest, _ := strings.Cut(subject, ".")
	number := "0"
	if strings.Count(rest, ".") > 1 {
		number, rest, _ = strings.Cut(rest, ".")
	}
	tenantToken, agentToken, ok = strings.Cut(rest, ".")
	if !ok || tenantToken == "" || agentToken == "" || strings.Contains(agentToken, ".") {
		return "", 0, "", "", false
	}
	switch first {
	case usageToken:
		kind = odometer.Usage
	case adjustToken:
		kind = odometer.Adjustment
	default:
		return "", 0, "", "", false
	}
	n, err := strconv.ParseUint(number, 10, 31)
	if err != nil {
		return "", 0, "", "", false
	}
	return kind, int(n), tenantToken, agentToken, true
}

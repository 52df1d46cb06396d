package ingest

import (
	"cmp"
	"strings"

	"odometer"
)

// decodeCloudEvent reads a CloudEvent 1.0 in structured JSON mode: id is the
// idempotency key, type is `<agent>.<action_type>`, time is occurred_at, and
// data holds quantity, resource_id and metadata.
func (d *document) decodeCloudEvent(m *Message, e *odometer.Event) *odometer.Rejection {
	agent, r := d.readType(e)
	return cmp.Or(
		d.readKey(ceID, e),
		d.checkEnvelope(),
		r,
		d.readOccurred(ceTime, e),
		d.readData(e),
		matchType(agent, m),
	)
}

func (d *document) checkEnvelope() *odometer.Rejection {
	source, r := d.text(ceSource)
	if r != nil {
		return r
	}
	if source == "" {
		return d.reject(ceSource, "a string that is not empty")
	}
	version, r := d.text(ceSpecVersion)
	if r != nil {
		return r
	}
	if version != "1.0" {
		return d.reject(ceSpecVersion, `"1.0"`)
	}
	return nil
}

// readType takes the action from the type, and returns the agent.
func (d *document) readType(e *odometer.Event) (agent string, r *odometer.Rejection) {
	text, r := d.text(ceType)
	if r != nil {
		return "", r
	}
	agent, action, _ := strings.Cut(text, ".")
	if agent == "" || !validAction(action) {
		return "", d.reject(ceType, "<agent>.<action_type>")
	}
	if e.Kind == odometer.Adjustment && action != odometer.AdjustmentAction {
		return "", d.reject(ceType, "<agent>."+odometer.AdjustmentAction+", for a correction")
	}
	e.Action = action
	return agent, nil
}

// readData reads the members of data as those of an event.
func (d *document) readData(e *odometer.Event) *odometer.Rejection {
	var data document
	if d[ceDataBase64] != nil {
		return d.reject(ceDataBase64, "data as a JSON object, not as bytes: its quantity could not be seen")
	}
	if raw := d[ceData]; raw != nil {
		if raw.Kind() != '{' {
			return d.reject(ceData, "an object")
		}
		// Read once more, as a document of its own: it was proven with the whole.
		if r := data.read(raw); r != nil {
			return r
		}
	}
	return cmp.Or(data.readQuantity(e), data.readResource(e), data.readMetadata(e))
}

func matchType(agent string, m *Message) *odometer.Rejection {
	if agent == m.AgentToken {
		return nil
	}
	return mismatch("type names the agent %s; allowed: the subject's agent, %s", shown(agent), m.AgentToken)
}

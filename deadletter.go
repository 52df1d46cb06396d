package odometer

// Reason says why a message became a dead letter. When several apply, the
// first in the order of the constants does.
type Reason string

const (
	Malformed           Reason = "malformed"            // not one JSON object as the contract wants it
	InvalidField        Reason = "invalid_field"        // missing, of the wrong type, out of range
	SubjectMismatch     Reason = "subject_mismatch"     // payload and subject disagree on tenant or agent
	UnknownAgent        Reason = "unknown_agent"        // not in the catalogue
	UnknownAction       Reason = "unknown_action"       // not one of the agent's actions
	TooOld              Reason = "too_old"              // occurred more than MaxAge before it was stored
	InFuture            Reason = "in_future"            // occurred more than MaxAhead after it was stored
	IdempotencyConflict Reason = "idempotency_conflict" // the key belongs to an event with other content
	NoBillingPeriod     Reason = "no_billing_period"    // occurred in no period that could take it
	NegativeBalance     Reason = "negative_balance"     // a correction below zero
)

// Reasons are all of them, in order of precedence.
func Reasons() []Reason {
	return []Reason{
		Malformed, InvalidField, SubjectMismatch, UnknownAgent, UnknownAction, TooOld, InFuture,
		IdempotencyConflict, NoBillingPeriod, NegativeBalance,
	}
}

// Rejection is why a message cannot be an event, with the detail that a person
// needs to fix its sender: which field, which value, what was allowed.
type Rejection struct {
	Reason Reason `json:"reason"`
	Detail string `json:"detail"`
}

func (r *Rejection) Error() string { return string(r.Reason) + ": " + r.Detail }

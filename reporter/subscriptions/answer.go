package subscriptions

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"unicode"

	"github.com/stripe/stripe-go/v76"
)

// refusal is an error that Stripe answered with, for people: its own text is
// all of its JSON.
type refusal struct{ answer *stripe.Error }

func (r *refusal) Error() string {
	text := fmt.Sprintf("Stripe answered %d: %s", r.answer.HTTPStatusCode,
		oneLine(firstOf(r.answer.Msg, http.StatusText(r.answer.HTTPStatusCode), "(no message)")))
	if r.answer.Code != "" {
		text += " (" + oneLine(string(r.answer.Code)) + ")"
	}
	return text
}

func (r *refusal) Unwrap() error { return r.answer }

// readable makes one line of an error of Stripe's and leaves any other.
func readable(err error) error {
	var e *stripe.Error
	if errors.As(err, &e) {
		return &refusal{e}
	}
	return err
}

// isGone reports that Stripe does not have the object, and never will again. A
// 404 is enough: not every stand-in says the code too.
func isGone(err error) bool {
	var e *stripe.Error
	return errors.As(err, &e) && (e.HTTPStatusCode == http.StatusNotFound ||
		e.HTTPStatusCode == http.StatusBadRequest && e.Code == stripe.ErrorCodeResourceMissing)
}

// isAway reports that something failed without an answer, or with one that
// says that Stripe is in trouble. Any other answer proves that it is up.
func isAway(err error) bool {
	if err == nil {
		return false
	}
	var e *stripe.Error
	return !errors.As(err, &e) || e.HTTPStatusCode >= http.StatusInternalServerError
}

// oneLine is text that can be stored and read in one line.
func oneLine(text string) string {
	const longest = 300
	text = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(text, "?"), func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r)
	}), " ")
	if runes := []rune(text); len(runes) > longest {
		text = string(runes[:longest]) + "…"
	}
	return text
}

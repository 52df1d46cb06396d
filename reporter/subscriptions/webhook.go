package subscriptions

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stripe/stripe-go/v76/webhook"
)

const (
	maxBody      = 1 << 20
	storeTimeout = 5 * time.Second
	retryAfter   = "10" // seconds
)

// Handler answers POST /webhooks/stripe: 400 for a body that Stripe did not
// sign or that is no event, 503 when it could not be stored (Stripe repeats it
// for days), 200 once it is stored or is not relevant. The secret may be
// several, separated by commas, while one replaces another; without one every
// hook gets 503, since anybody could sign. received is called after a hook was
// stored for the first time; nil: nothing.
func Handler(pool *pgxpool.Pool, secret string, received func(), log *slog.Logger) http.Handler {
	secrets := strings.FieldsFunc(secret, func(r rune) bool { return r == ',' || r == ' ' })
	if received == nil {
		received = func() {}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(secrets) == 0 {
			log.Error("a Stripe hook came, but no secret is set: --stripe-webhook-secret or ODOMETER_STRIPE_WEBHOOK_SECRET")
			unavailable(w, "Hooks are not accepted yet.")
			return
		}
		h, err := receive(w, r, secrets)
		if err != nil {
			log.Warn("Stripe hook refused", "err", err)
			problem(w, http.StatusBadRequest, "invalid-request", err.Error())
			return
		}
		if !h.isRelevant() {
			w.WriteHeader(http.StatusOK)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), storeTimeout)
		defer cancel()
		first, err := storeHook(ctx, pool, h)
		if err != nil {
			log.Error("Stripe hook not stored", "err", err)
			unavailable(w, "The hook could not be stored. Send it again.")
			return
		}
		if first {
			received()
		}
		w.WriteHeader(http.StatusOK)
	})
}

func receive(w http.ResponseWriter, r *http.Request, secrets []string) (hook, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return hook{}, fmt.Errorf("the body cannot be read (at most %d bytes): %w", maxBody, err)
	}
	if err := checkSignature(body, r.Header.Get("Stripe-Signature"), secrets); err != nil {
		return hook{}, err
	}
	return parseHook(body)
}

func checkSignature(body []byte, header string, secrets []string) (err error) {
	for _, secret := range secrets {
		if err = webhook.ValidatePayload(body, header, secret); err == nil {
			return nil
		}
	}
	return err
}

// event is what we read of a hook. A thin event names its object beside the
// data instead of carrying it.
type event struct {
	ID            string          `json:"id"`
	Type          string          `json:"type"`
	Livemode      bool            `json:"livemode"`
	Data          json.RawMessage `json:"data"`
	RelatedObject json.RawMessage `json:"related_object"`
}

// data is the object of an event that is not thin. Newer API versions nest an
// invoice's subscription deeper.
type data struct {
	Object struct {
		ID           string `json:"id"`
		Customer     ref    `json:"customer"`
		Subscription ref    `json:"subscription"`
		Parent       struct {
			SubscriptionDetails struct {
				Subscription ref `json:"subscription"`
			} `json:"subscription_details"`
		} `json:"parent"`
	} `json:"object"`
}

// ref is an id, or an object with an id; anything else is "".
type ref string

func (r *ref) UnmarshalJSON(data []byte) error {
	var o struct {
		ID string `json:"id"`
	}
	if json.Unmarshal(data, (*string)(r)) != nil && json.Unmarshal(data, &o) == nil {
		*r = ref(o.ID)
	}
	return nil
}

func parseHook(body []byte) (hook, error) {
	var e event
	if err := json.Unmarshal(body, &e); err != nil {
		return hook{}, fmt.Errorf("the body is not an event: %w", err)
	}
	h := hook{id: e.ID, kind: e.Type, livemode: e.Livemode}
	if !isID(h.id) || !isID(h.kind) {
		return hook{}, errors.New("the body is not an event: it has no readable id and type")
	}
	if h.isRelevant() {
		h.object = e.object()
	}
	return h, nil
}

// object is the id to fetch later; "" when the event names none that we can
// read. An upcoming invoice cannot be fetched, so its subscription stands for
// it, else its customer.
func (e *event) object() string {
	var d data
	var related ref
	_ = json.Unmarshal(e.Data, &d) // if it cannot be read, Compare finds what it was about
	_ = json.Unmarshal(e.RelatedObject, &related)
	o := &d.Object
	id := cmp.Or(o.ID, string(related))
	if e.Type == invoiceUpcoming {
		id = cmp.Or(string(o.Subscription), string(o.Parent.SubscriptionDetails.Subscription), string(o.Customer))
	}
	if !isID(id) {
		return ""
	}
	return id
}

// isID rejects what is no identifier of Stripe and what Postgres would refuse.
func isID(s string) bool {
	for _, r := range s {
		if r <= ' ' || r > '~' {
			return false
		}
	}
	return s != "" && len(s) <= 255
}

func unavailable(w http.ResponseWriter, detail string) {
	w.Header().Set("Retry-After", retryAfter)
	problem(w, http.StatusServiceUnavailable, "unavailable", detail)
}

// problem answers with a problem document (RFC 9457), like every other route.
func problem(w http.ResponseWriter, status int, kind, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{ // a caller that has gone does not read it
		"type": "/problems/" + kind, "title": http.StatusText(status), "status": status, "detail": detail,
	})
}

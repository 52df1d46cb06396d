package alerts

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// slackError is Slack's answer when it did not accept a message.
type slackError struct {
	status int
	code   string        // Slack's own, as invalid_payload; "" for none
	after  time.Duration // how long it asks to wait
}

func (e *slackError) Error() string {
	text := fmt.Sprintf("Slack answered %d", e.status)
	if e.code != "" {
		text += " " + e.code
	}
	return text
}

// throttled means that Slack accepts no message now.
func (e *slackError) throttled() bool { return e.status == http.StatusTooManyRequests }

// refused means that Slack does not accept this message, but may accept another.
func (e *slackError) refused() bool {
	return e.status == http.StatusBadRequest || e.status == http.StatusRequestEntityTooLarge
}

// slackCode is the form of Slack's codes. Anything else is left out of errors: a
// proxy's page may contain the webhook's address, which is a secret.
var slackCode = regexp.MustCompile(`^[a-z_]{1,40}$`)

// post sends one message to Slack. Its errors never contain the webhook's address.
func (a *Alerts) post(ctx context.Context, text string) error {
	body, err := json.Marshal(map[string]string{"text": text})
	if err != nil {
		return fmt.Errorf("encode a message to Slack: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, a.SlackURL, bytes.NewReader(body))
	if err != nil {
		return errors.New("the Slack webhook is not a valid URL")
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := a.HTTP.Do(request)
	if err != nil {
		var withAddress *url.Error
		if errors.As(err, &withAddress) {
			err = withAddress.Err
		}
		return fmt.Errorf("reach Slack: %w", err)
	}
	defer response.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(response.Body, 1024)) // the status decides
	if response.StatusCode/100 == 2 {
		return nil
	}
	failed := &slackError{status: response.StatusCode, after: retryAfter(response.Header, a.Now())}
	if code := strings.TrimSpace(string(answer)); slackCode.MatchString(code) {
		failed.code = code
	}
	return failed
}

// retryAfter reads the header in both of its forms; a minute without it.
func retryAfter(header http.Header, now time.Time) time.Duration {
	value := header.Get("Retry-After")
	if seconds, err := strconv.Atoi(value); err == nil && seconds >= 0 {
		return min(time.Duration(seconds)*time.Second, time.Hour)
	}
	if at, err := http.ParseTime(value); err == nil {
		return min(max(0, at.Sub(now)), time.Hour)
	}
	return time.Minute
}

var slackEscapes = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

// escaped is text that Slack shows unchanged, on one line and not too long.
func escaped(text string) string {
	const longest = 500
	text = strings.Join(strings.Fields(text), " ")
	if runes := []rune(text); len(runes) > longest {
		text = string(runes[:longest]) + "…"
	}
	return slackEscapes.Replace(text)
}

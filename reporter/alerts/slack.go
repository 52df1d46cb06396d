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

// slackError is Slack's answer when it did not take a message.
type slackError struct {
	status int
	word   string        // Slack's own code, as invalid_payload
	after  time.Duration // for how long it wants to be left alone
}

func (e *slackError) Error() string {
	text := fmt.Sprintf("Slack answered %d", e.status)
	if e.word != "" {
		text += " " + e.word
	}
	return text
}

// throttled means that any message would be refused now.
func (e *slackError) throttled() bool { return e.status == http.StatusTooManyRequests }

// refused means that another message may be taken, this one not.
func (e *slackError) refused() bool {
	return e.status == http.StatusBadRequest || e.status == http.StatusRequestEntityTooLarge
}

// slackWord is the form of Slack's codes. Anything else is not repeated: a
// proxy's page may hold the webhook's address, which is a secret.
var slackWord = regexp.MustCompile(`^[a-z_]{1,40}$`)

// post gives Slack one message. No error of it holds the webhook's address.
func (a *Alerts) post(ctx context.Context, text string) error {
	body, err := json.Marshal(map[string]string{"text": text})
	if err != nil {
		return fmt.Errorf("encode a message to Slack: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, a.SlackURL, bytes.NewReader(body))
	if err != nil {
		return errors.New("the Slack webhook's URL is not one")
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
	if word := strings.TrimSpace(string(answer)); slackWord.MatchString(word) {
		failed.word = word
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

// escaped is text that Slack shows as it is, on one line and not too long.
func escaped(text string) string {
	const longest = 500
	text = strings.Join(strings.Fields(text), " ")
	if runes := []rune(text); len(runes) > longest {
		text = string(runes[:longest]) + "…"
	}
	return slackEscapes.Replace(text)
}

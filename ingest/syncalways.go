package ingest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// SyncAlways asks a NATS server's monitoring address, such as
// http://127.0.0.1:8222, whether the server syncs its disk before it
// acknowledges a message (`sync_interval: always`). Without that, a power
// failure loses what was acknowledged in the last two minutes. The answer is
// that of one server; in a cluster, ask each. An error means unknown, not no.
func SyncAlways(ctx context.Context, monitorURL string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	url := strings.TrimSuffix(monitorURL, "/") + "/jsz?config=1"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false, fmt.Errorf("ask %s whether the server syncs: %w; give the server's monitoring address, such as http://127.0.0.1:8222", url, err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, fmt.Errorf("ask whether the server syncs: %w; give the server's monitoring address, such as http://127.0.0.1:8222", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return false, fmt.Errorf("ask %s whether the server syncs: status %s; give the server's monitoring address, such as http://127.0.0.1:8222", url, resp.Status)
	}
	var answer struct {
		Disabled bool `json:"disabled"`
		Config   *struct {
			SyncAlways bool `json:"sync_always"`
		} `json:"config"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return false, fmt.Errorf("ask %s whether the server syncs: %w; is it a NATS server's monitoring address?", url, err)
	}
	if answer.Disabled || answer.Config == nil {
		return false, fmt.Errorf("ask %s whether the server syncs: JetStream is off there; ask a server that holds the stream", url)
	}
	return answer.Config.SyncAlways, nil
}

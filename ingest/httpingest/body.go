package httpingest

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"odometer/api"
)

const (
	maxBody   = 1 << 20 // bytes of a request
	maxEvents = 1000    // of a request

	// firstRead is the memory that a body begins with, whatever length it
	// announces.
	firstRead = 16 << 10

	// maxKept bounds the memory that waits for the next body.
	maxKept = 512 << 10
)

// readBody appends the request's body to buf. The whole of it must arrive in
// time. Afterwards the connection may be silent as long as it likes: a read
// that failed then would look as if the client had gone.
func readBody(w http.ResponseWriter, r *http.Request, buf []byte, within time.Duration) ([]byte, error) {
	if r.ContentLength > maxBody {
		return buf, tooLarge()
	}
	connection := http.NewResponseController(w)
	if err := connection.SetReadDeadline(time.Now().Add(within)); err != nil {
		return buf, fmt.Errorf("bound the time of a body: %w", err)
	}
	buf, err := readAll(r.Body, buf)
	switch {
	case err == nil:
	case errors.Is(err, os.ErrDeadlineExceeded):
		return buf, tooSlow(within)
	case errors.Is(err, errTooLarge):
		return buf, tooLarge()
	default:
		return buf, api.NewProblem(api.TooSlow, "The body was cut off. Send the same again.")
	}
	if err := connection.SetReadDeadline(time.Time{}); err != nil {
		return buf, fmt.Errorf("bound the time of a body: %w", err)
	}
	return buf, nil
}

var errTooLarge = errors.New("too large")

func tooSlow(within time.Duration) *api.Problem {
	return api.NewProblem(api.TooSlow, "The body did not arrive within %s. Send the same again.", within)
}

func tooLarge() *api.Problem {
	return api.NewProblem(api.TooLarge, "The body has more than %d bytes: send fewer events at once.", maxBody)
}

// readAll grows buf by what arrives.
func readAll(body io.Reader, buf []byte) ([]byte, error) {
	for {
		if len(buf) == cap(buf) {
			grown := make([]byte, len(buf), min(max(2*cap(buf), firstRead), maxBody+1))
			copy(grown, buf)
			buf = grown
		}
		n, err := body.Read(buf[len(buf):min(cap(buf), maxBody+1)])
		buf = buf[:len(buf)+n]
		switch {
		case len(buf) > maxBody:
			return buf, errTooLarge
		case err == io.EOF:
			return buf, nil
		case err != nil:
			return buf, err
		}
	}
}

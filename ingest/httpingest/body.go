package httpingest

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"time"

	"odometer/api"
)

// media is what a Content-Type says about a body.
type media struct {
	name  string
	lines bool // an event on each line
	array bool // may be an array of events
	one   bool // may be one event
	cloud bool // events are CloudEvents
}

// medias are the types that are accepted.
var medias = []media{
	{name: "application/json", array: true, one: true},
	{name: "application/x-ndjson", lines: true},
	{name: "application/cloudevents+json", one: true, cloud: true},
	{name: "application/cloudevents-batch+json", array: true, cloud: true},
}

// cloudEvents begins the types of CloudEvents in structured mode, which may
// repeat their attributes as headers.
const cloudEvents = "application/cloudevents"

// binaryMode is a header that only a CloudEvent in binary mode needs, "" for
// none: read as an event, such a body would lack what is in its headers.
func binaryMode(h http.Header) string {
	for _, name := range []string{"Ce-Specversion", "Ce-Type", "Ce-Id", "Ce-Source"} {
		if len(h[name]) > 0 {
			return strings.ToLower(name)
		}
	}
	return ""
}

// mediaNames lists the types for a problem.
func mediaNames() string {
	var names []string
	for _, m := range medias {
		names = append(names, m.name)
	}
	return strings.Join(names, ", ")
}

// mediaOf reads a request's headers, and refuses a body that is announced in a form
// that is not accepted.
func mediaOf(h http.Header) (*media, error) {
	if coding := strings.Join(h.Values("Content-Encoding"), ", "); coding != "" && !strings.EqualFold(coding, "identity") {
		return nil, api.NewProblem(api.UnsupportedMediaType, "Content-Encoding is %.60q: send the body without one.", coding)
	}
	types := h.Values("Content-Type")
	name, parameters, err := mime.ParseMediaType(strings.Join(types, ", "))
	if binary := binaryMode(h); binary != "" && !strings.HasPrefix(name, cloudEvents) {
		return nil, api.NewProblem(api.UnsupportedMediaType, "The header %s is of a CloudEvent in binary mode, which is not accepted: "+
			"send it in structured mode, whole in the body, as application/cloudevents+json, or several as application/cloudevents-batch+json.", binary)
	}
	switch {
	case len(types) == 0:
		return nil, api.NewProblem(api.UnsupportedMediaType, "Content-Type is missing: send one of %s.", mediaNames())
	case len(types) > 1:
		return nil, api.NewProblem(api.UnsupportedMediaType, "Content-Type is given %d times: send one of %s.", len(types), mediaNames())
	case err != nil:
		return nil, api.NewProblem(api.UnsupportedMediaType, "Content-Type %.60q is not well-formed: send one of %s.", types[0], mediaNames())
	}
	if charset, named := parameters["charset"]; named && !strings.EqualFold(charset, "utf-8") {
		return nil, api.NewProblem(api.UnsupportedMediaType, "The charset is %.60q: events are UTF-8, as JSON is.", charset)
	}
	for i := range medias {
		if medias[i].name == name {
			return &medias[i], nil
		}
	}
	return nil, unknownMedia(name)
}

func unknownMedia(name string) *api.Problem {
	return api.NewProblem(api.UnsupportedMediaType, "Content-Type is %.60q: send one of %s.", name, mediaNames())
}

const (
	maxBody   = 1 << 20 // bytes of a request
	maxEvents = 1000    // of a request

	// firstRead is the memory that a body begins with, whatever length it
	// announces.
	firstRead = 16 << 10
)

// readBody returns the request's body. The whole of it must arrive in
// time. Afterwards the connection may be silent as long as it likes: a read
// that failed then would mean that the client has gone.
func readBody(w http.ResponseWriter, r *http.Request, within time.Duration) ([]byte, error) {
	if r.ContentLength > maxBody {
		return nil, tooLarge()
	}
	connection := http.NewResponseController(w)
	if err := connection.SetReadDeadline(time.Now().Add(within)); err != nil {
		return nil, fmt.Errorf("bound the time of a body: %w", err)
	}
	body, err := readAll(r.Body)
	switch {
	case err == nil:
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, tooSlow(within)
	case errors.Is(err, errTooLarge):
		return nil, tooLarge()
	default:
		return nil, api.NewProblem(api.TooSlow, "The body was cut off. Send the same again.")
	}
	if err := connection.SetReadDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("bound the time of a body: %w", err)
	}
	return body, nil
}

var errTooLarge = errors.New("too large")

func tooSlow(within time.Duration) *api.Problem {
	return api.NewProblem(api.TooSlow, "The body did not arrive within %s. Send the same again.", within)
}

func tooLarge() *api.Problem {
	return api.NewProblem(api.TooLarge, "The body has more than %d bytes: send fewer events at once.", maxBody)
}

// readAll reads a body into memory that grows with what arrives.
func readAll(body io.Reader) (buf []byte, err error) {
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

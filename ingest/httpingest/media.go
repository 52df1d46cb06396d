package httpingest

import (
	"mime"
	"net/http"
	"strings"

	"odometer/api"
)

// media is what a Content-Type says of a body.
type media struct {
	name  string
	lines bool // an event on each line
	array bool // may be an array of events
	one   bool // may be one event
	cloud bool // events are CloudEvents
}

// medias are the types that are taken.
var medias = []media{
	{name: "application/json", array: true, one: true},
	{name: "application/x-ndjson", lines: true},
	{name: "application/cloudevents+json", one: true, cloud: true},
	{name: "application/cloudevents-batch+json", array: true, cloud: true},
}

// mediaNames are the types in the words of a refusal.
func mediaNames() string {
	var names []string
	for _, m := range medias {
		names = append(names, m.name)
	}
	return strings.Join(names, ", ")
}

// mediaOf reads a request's headers, and refuses what they announce and nobody
// here can read.
func mediaOf(h http.Header) (*media, error) {
	if coding := strings.Join(h.Values("Content-Encoding"), ", "); coding != "" && !strings.EqualFold(coding, "identity") {
		return nil, api.Refuse(api.UnsupportedMediaType, "Content-Encoding is %.60q: send the body without one.", coding)
	}
	types := h.Values("Content-Type")
	if len(types) != 1 {
		return nil, api.Refuse(api.UnsupportedMediaType, "Content-Type is given %d times: send one of %s.", len(types), mediaNames())
	}
	name, parameters, err := mime.ParseMediaType(types[0])
	if err != nil {
		return nil, api.Refuse(api.UnsupportedMediaType, "Content-Type %.60q is not well-formed: send one of %s.", types[0], mediaNames())
	}
	if charset, named := parameters["charset"]; named && !strings.EqualFold(charset, "utf-8") {
		return nil, api.Refuse(api.UnsupportedMediaType, "The charset is %.60q: events are UTF-8, as JSON is.", charset)
	}
	for i := range medias {
		if medias[i].name == name {
			return &medias[i], nil
		}
	}
	return nil, api.Refuse(api.UnsupportedMediaType, "Content-Type is %.60q: send one of %s.", name, mediaNames())
}

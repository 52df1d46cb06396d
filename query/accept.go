package query

import (
	"strconv"
	"strings"
)

// preferred is the one of some media types that the lines of an Accept header
// rate highest (RFC 9110, 12.5.1). Of those rated alike it is the one that is
// named the most exactly, then the first; the first also where none is rated: an
// answer of another type is more use than a refusal.
func preferred(lines []string, offered ...string) string {
	best, highest, closest := offered[0], 0.0, 0
	for _, media := range offered {
		q, specific := quality(lines, media)
		if q > highest || q == highest && q > 0 && specific > closest {
			best, highest, closest = media, q, specific
		}
	}
	return best
}

// quality is how a media type is rated by the most specific of the ranges that
// it falls in, and how specific that is. Their parameters narrow down nothing
// that is offered here.
func quality(lines []string, media string) (q float64, specific int) {
	general, _, _ := strings.Cut(media, "/")
	for element := range strings.SplitSeq(strings.Join(lines, ","), ",") {
		name, parameters, _ := strings.Cut(element, ";")
		how := 0
		switch strings.ToLower(strings.TrimSpace(name)) {
		case media:
			how = 3
		case general + "/*":
			how = 2
		case "*/*":
			how = 1
		}
		if weight, ok := weightOf(parameters); ok && how > 0 && (how > specific || how == specific && weight > q) {
			specific, q = how, weight
		}
	}
	return q, specific
}

// weightOf is the weight among a range's parameters, 1 when there is none.
func weightOf(parameters string) (q float64, ok bool) {
	for parameter := range strings.SplitSeq(parameters, ";") {
		name, value, _ := strings.Cut(parameter, "=")
		if strings.EqualFold(strings.TrimSpace(name), "q") {
			q, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			return q, err == nil && q >= 0 && q <= 1
		}
	}
	return 1, true
}

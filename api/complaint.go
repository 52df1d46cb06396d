package api

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/validation"
)

func init() {
	// Huma's own complaints, which are about input that does not fit.
	huma.NewErrorWithContext = func(ctx huma.Context, status int, text string, errs ...error) huma.StatusError {
		if ctx == nil {
			return (&asked{}).refusal(status, text, errs)
		}
		q := asked{op: ctx.Operation()}
		if v := visitOf(ctx.Context()); v != nil {
			q.fields = strings.Join(v.fields, ", ")
		}
		p := q.refusal(status, text, errs)
		u := ctx.URL()
		p.Instance = u.EscapedPath()
		return p
	}
	huma.NewError = func(status int, text string, errs ...error) huma.StatusError {
		return (&asked{}).refusal(status, text, errs)
	}
	// No list of ours is ever null.
	huma.DefaultArrayNullable = false
	// Names are read as they are written: one that is nearly right would pass
	// as being there, and then not be read.
	huma.ValidateStrictCasing = true
	for text, plain := range plainWords {
		*text = plain
	}
}

// isMissing ends what is said of a field that an object lacks.
const isMissing = " is missing"

// plainWords are huma's messages in the words of ours: each goes on after
// "<name> is <value>: ". Where huma adds what a library said, it is not shown.
var plainWords = map[*string]string{
	&validation.MsgUnexpectedProperty:                 "no such field",
	&validation.MsgExpectedRFC3339DateTime:            "it must be a time of RFC 3339, as 2026-11-01T00:00:00Z",
	&validation.MsgExpectedRFC1123DateTime:            "it must be a time of RFC 1123, as Sun, 01 Nov 2026 00:00:00 GMT",
	&validation.MsgExpectedRFC3339Date:                "it must be a date, as 2026-11-01",
	&validation.MsgExpectedRFC3339Time:                "it must be a time of day, as 07:15:33Z",
	&validation.MsgExpectedDuration:                   "it must be a duration, as 90s or 1h30m%.0s",
	&validation.MsgExpectedRFC5322Email:               "it must be an e-mail address%.0s",
	&validation.MsgExpectedRFC5890Hostname:            "it must be a host name",
	&validation.MsgExpectedRFC2673IPv4:                "it must be an IPv4 address",
	&validation.MsgExpectedRFC2373IPv6:                "it must be an IPv6 address",
	&validation.MsgExpectedRFCIPAddr:                  "it must be an IP address",
	&validation.MsgExpectedRFC3986URI:                 "it must be a URI%.0s",
	&validation.MsgExpectedRFC6570URITemplate:         "it must be a URI template",
	&validation.MsgExpectedRFC4122UUID:                "it must be a UUID, as 0b7e4d1c-6f0e-4a53-9d55-3c1c0a3f7e01%.0s",
	&validation.MsgExpectedRFC6901JSONPointer:         "it must be a JSON pointer",
	&validation.MsgExpectedRFC6901RelativeJSONPointer: "it must be a relative JSON pointer",
	&validation.MsgExpectedRegexp:                     "it must be a regular expression%.0s",
	&validation.MsgExpectedMatchAtLeastOneSchema:      "it has none of the forms that the documentation names",
	&validation.MsgExpectedMatchExactlyOneSchema:      "it has none of the forms that the documentation names",
	&validation.MsgExpectedNotMatchSchema:             "it has a form that the documentation rules out",
	&validation.MsgExpectedPropertyNameInObject:       "it does not name its form",
	&validation.MsgExpectedBoolean:                    "it must be true or false",
	&validation.MsgExpectedNumber:                     "it must be a number",
	&validation.MsgExpectedInteger:                    "it must be a whole number",
	&validation.MsgExpectedString:                     "it must be a string",
	&validation.MsgExpectedBase64String:               "it must be written in base64",
	&validation.MsgExpectedArray:                      "it must be an array",
	&validation.MsgExpectedObject:                     "it must be an object",
	&validation.MsgExpectedArrayItemsUnique:           "it must hold nothing twice",
	&validation.MsgExpectedOneOf:                      "it must be one of %s",
	&validation.MsgExpectedConst:                      "it must be %v",
	&validation.MsgExpectedMinimumNumber:              "it must be at least %v",
	&validation.MsgExpectedExclusiveMinimumNumber:     "it must be more than %v",
	&validation.MsgExpectedMaximumNumber:              "it must be at most %v",
	&validation.MsgExpectedExclusiveMaximumNumber:     "it must be less than %v",
	&validation.MsgExpectedNumberBeMultipleOf:         "it must be a multiple of %v",
	&validation.MsgExpectedMinLength:                  "it must have at least %d characters",
	&validation.MsgExpectedMaxLength:                  "it must have at most %d characters",
	&validation.MsgExpectedBePattern:                  "it must be %s",
	&validation.MsgExpectedMatchPattern:               "it must match %s",
	&validation.MsgExpectedMinItems:                   "it must hold at least %d",
	&validation.MsgExpectedMaxItems:                   "it must hold at most %d",
	&validation.MsgExpectedMinProperties:              "it must have at least %d fields",
	&validation.MsgExpectedMaxProperties:              "it must have at most %d fields",
	&validation.MsgExpectedRequiredProperty:           "%s" + isMissing,
	&validation.MsgExpectedDependentRequiredProperty:  "%s" + isMissing + ", where %s is given",
}

// asked is what huma was asked, as far as a complaint tells of it.
type asked struct {
	op     *huma.Operation // nil where it is not known
	fields string          // of the body
}

// refusal is the problem that huma's complaints are.
func (q *asked) refusal(status int, text string, errs []error) *Problem {
	switch {
	case status == http.StatusRequestEntityTooLarge && q.op != nil:
		return Refuse(TooLarge, "The body has %d bytes or more: send a smaller one.", q.op.MaxBodyBytes)
	case status == http.StatusUnsupportedMediaType:
		return Refuse(UnsupportedMediaType, "Send the body as application/json.")
	case status == http.StatusRequestTimeout:
		return Refuse(TooSlow, "The body did not arrive in time. Send the same again.")
	case status >= http.StatusInternalServerError:
		return internalProblem()
	case len(errs) == 0 && text == "request body is required":
		return Refuse(InvalidRequest, "The body is empty: send a JSON object of %s.", q.fields)
	}
	var details []string
	for _, err := range errs {
		var d *huma.ErrorDetail
		if errors.As(err, &d) {
			details = append(details, q.complaint(d))
		}
	}
	if len(details) == 0 {
		details = []string{"The request does not fit what the documentation says of it"}
	}
	return Refuse(InvalidRequest, "%s.", strings.Join(details, "; "))
}

// complaint is huma's detail as a sentence: which parameter or field, which
// value, what is allowed.
func (q *asked) complaint(d *huma.ErrorDetail) string {
	place, name, _ := strings.Cut(d.Location, ".")
	says, _ := strings.CutPrefix(d.Message, "invalid value: ")
	switch {
	case strings.HasPrefix(says, unreadable):
		return says
	case says == validation.MsgUnexpectedProperty:
		return fmt.Sprintf("%q is no field of the body. It has %s", Shown(name), q.fields)
	case strings.Contains(says, isMissing) && place == "body":
		return says
	case strings.HasPrefix(says, "required "):
		return name + isMissing
	case says == "invalid integer":
		says = q.wholeNumber(name, d.Value)
	case says == "invalid float":
		says = validation.MsgExpectedNumber
	case says == "invalid boolean":
		says = validation.MsgExpectedBoolean
	}
	if name == "" {
		name = "The " + place
	}
	return name + " is " + shownJSON(d.Value) + ": " + says
}

// wholeNumber is what a parameter must be that is no number, or one that no
// machine counts with.
func (q *asked) wholeNumber(name string, value any) string {
	if text, _ := value.(string); text != "" && strings.Trim(text, "0123456789") == "" {
		return "it is too large"
	}
	if q.op != nil {
		for _, p := range q.op.Parameters {
			if s := p.Schema; p.Name == name && s != nil && s.Minimum != nil && s.Maximum != nil {
				return fmt.Sprintf("%s from %v to %v", validation.MsgExpectedInteger, *s.Minimum, *s.Maximum)
			}
		}
	}
	return validation.MsgExpectedInteger
}

// Shown is as much of a client's text as a detail repeats.
func Shown(text string) string {
	const most = 60
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return text
}

// shownJSON is as much of a client's value as a detail repeats, as the client
// wrote it.
func shownJSON(value any) string {
	if text, ok := value.(string); ok {
		value = Shown(text)
	}
	text, err := JSON(value)
	if err != nil {
		return "not JSON"
	}
	if _, ok := value.(string); ok {
		return string(text)
	}
	return Shown(string(text))
}

package api

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/validation"
)

// Huma is configured by these variables of its package.
func init() {
	huma.NewErrorWithContext = func(ctx huma.Context, status int, text string, errs ...error) huma.StatusError {
		if ctx == nil {
			return (&requestInfo{}).problem(status, text, errs)
		}
		info := requestInfo{operation: ctx.Operation()}
		if state := stateOf(ctx.Context()); state != nil {
			info.fields = strings.Join(state.fields, ", ")
		}
		p := info.problem(status, text, errs)
		u := ctx.URL()
		p.Instance = u.EscapedPath()
		return p
	}
	huma.NewError = func(status int, text string, errs ...error) huma.StatusError {
		return (&requestInfo{}).problem(status, text, errs)
	}
	huma.DefaultArrayNullable = false // no list of ours is ever null
	huma.ValidateStrictCasing = true  // a name in another case would pass as present, and then not be read
}

// requestInfo is what a problem may say of the request that huma refuses.
type requestInfo struct {
	operation *huma.Operation // nil where it is not known
	fields    string          // that the body may have
}

// problem turns huma's error into a problem document.
func (info *requestInfo) problem(status int, text string, errs []error) *Problem {
	switch {
	case status == http.StatusRequestEntityTooLarge && info.operation != nil:
		return NewProblem(TooLarge, "The body has %d bytes or more: send a smaller one.", info.operation.MaxBodyBytes)
	case status == http.StatusUnsupportedMediaType:
		return NewProblem(UnsupportedMediaType, "Send the body as application/json.")
	case status == http.StatusRequestTimeout:
		return NewProblem(TooSlow, "The body did not arrive in time. Send the same again.")
	case status >= http.StatusInternalServerError:
		return internalProblem()
	case len(errs) == 0 && text == "request body is required":
		return NewProblem(InvalidRequest, "The body is empty: send a JSON object of %s.", info.fields)
	}
	var details []string
	for _, err := range errs {
		var d *huma.ErrorDetail
		if errors.As(err, &d) {
			details = append(details, info.describe(d))
		}
	}
	if len(details) == 0 {
		details = []string{"The request does not fit what the documentation says of it"}
	}
	return NewProblem(InvalidRequest, "%s.", strings.Join(details, "; "))
}

// describe is huma's error as a sentence: which parameter or field, which
// value, what is allowed.
func (info *requestInfo) describe(d *huma.ErrorDetail) string {
	in, name, _ := strings.Cut(d.Location, ".")
	message, _ := strings.CutPrefix(d.Message, "invalid value: ")
	if strings.HasPrefix(message, notJSON) {
		return message
	}
	if message == validation.MsgUnexpectedProperty {
		return fmt.Sprintf("%q is no field of the body. It has %s", Excerpt(name), info.fields)
	}
	if property, ok := strings.CutPrefix(message, "expected required property "); ok {
		return strings.TrimSuffix(property, " to be present") + " is missing"
	}
	if strings.HasPrefix(message, "required ") {
		return name + " is missing"
	}
	if name == "" {
		name = "The " + in
	}
	return name + " is " + excerptJSON(d.Value) + ": " + info.allowed(name, message, d.Value)
}

// allowedValues translates the beginnings of huma's messages; %s is what
// follows there. The first that fits counts.
var allowedValues = []struct{ huma, plain string }{
	{"expected number >= ", "it must be at least %s"},
	{"expected number > ", "it must be more than %s"},
	{"expected number <= ", "it must be at most %s"},
	{"expected number < ", "it must be less than %s"},
	{"expected number to be ", "it must be %s"},
	{"expected number", "it must be a number"},
	{"invalid float", "it must be a number"},
	{"expected boolean", "it must be true or false"},
	{"invalid boolean", "it must be true or false"},
	{"expected length >= ", "it must have at least %s characters"},
	{"expected length <= ", "it must have at most %s characters"},
	{"expected array length >= ", "it must hold at least %s"},
	{"expected array length <= ", "it must hold at most %s"},
	{"expected array items to be unique", "it must hold nothing twice"},
	{"expected array", "it must be an array"},
	{"expected object", "it must be an object"},
	{"expected value to be one of ", "it must be one of %s"},
	{"expected value to be ", "it must be %s"},
	{"expected string to be RFC 4122 uuid", "it must be a UUID, as 0b7e4d1c-6f0e-4a53-9d55-3c1c0a3f7e01"},
	{"expected string to be RFC 3339 date-time", "it must be a time of RFC 3339, as 2026-11-01T00:00:00Z"},
	{"expected string to match pattern ", "it must match %s"},
	{"expected string to be ", "it must be %s"},
	{"expected string", "it must be a string"},
}

// allowed is what a value must be, from huma's message that it is not.
func (info *requestInfo) allowed(name, message string, value any) string {
	switch message {
	case "expected integer":
		return "it must be a whole number"
	case "invalid integer":
		return info.wholeNumber(name, value)
	}
	for _, a := range allowedValues {
		if rest, ok := strings.CutPrefix(message, a.huma); ok {
			return strings.Replace(a.plain, "%s", strings.Trim(rest, `"`), 1)
		}
	}
	if strings.HasPrefix(message, "expected ") || strings.HasPrefix(message, "invalid ") {
		return "it does not have the form that the documentation names"
	}
	return message // of a parameter's own type, in words of ours
}

// wholeNumber is what a parameter must be that is no number, or one that is too
// large to be read.
func (info *requestInfo) wholeNumber(name string, value any) string {
	if text, _ := value.(string); text != "" && strings.Trim(text, "0123456789") == "" {
		return "it is too large"
	}
	if info.operation != nil {
		for _, p := range info.operation.Parameters {
			if s := p.Schema; p.Name == name && s != nil && s.Minimum != nil && s.Maximum != nil {
				return fmt.Sprintf("it must be a whole number from %v to %v", *s.Minimum, *s.Maximum)
			}
		}
	}
	return "it must be a whole number"
}

const maxExcerpt = 60 // characters

// Excerpt is as much of a client's text as a detail repeats.
func Excerpt(text string) string {
	if runes := []rune(text); len(runes) > maxExcerpt {
		return string(runes[:maxExcerpt]) + "…"
	}
	return text
}

// excerptJSON is as much of a client's value as a detail repeats, as the client
// wrote it.
func excerptJSON(value any) string {
	if text, ok := value.(string); ok {
		value = Excerpt(text)
	}
	text, err := JSON(value)
	if err != nil {
		return "not JSON"
	}
	if _, ok := value.(string); ok {
		return string(text)
	}
	return Excerpt(string(text))
}

package api

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// parameters are the names that an operation's query may have, in the order of
// the document.
func parameters(op *huma.Operation) (names []string) {
	for _, p := range op.Parameters {
		if p.In == "query" {
			names = append(names, p.Name)
		}
	}
	return names
}

// fields are the names that an operation's body may have.
func fields(schemas huma.Registry, op *huma.Operation) []string {
	if op.RequestBody == nil || op.RequestBody.Content["application/json"] == nil {
		return nil
	}
	body := op.RequestBody.Content["application/json"].Schema
	if body.Ref != "" {
		body = schemas.SchemaFromRef(body.Ref)
	}
	return slices.Sorted(maps.Keys(body.Properties))
}

// misread refuses a query of which something would be passed over: the figures
// that a misspelt name gets are right, but of something else. (Huma can refuse
// unknown names too. It does not say which there are, lets repeats and what is
// not well-formed pass, and sees no operation that reads its body itself.)
func misread(r *http.Request, known []string) *Problem {
	asked, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return Refuse(InvalidRequest, "The query string is not well-formed.")
	}
	for _, name := range slices.Sorted(maps.Keys(asked)) {
		switch n := len(asked[name]); {
		case !slices.Contains(known, name) && len(known) == 0:
			return Refuse(InvalidRequest, "%q is no parameter of this operation, which has none. Leave it out.", Shown(name))
		case !slices.Contains(known, name):
			return Refuse(InvalidRequest, "%q is no parameter of this operation. It has %s.", Shown(name), strings.Join(known, ", "))
		case n > 1:
			return Refuse(InvalidRequest, "%s is given %d times: give it once. Between the values of a list are commas.", name, n)
		}
	}
	return nil
}

package api

import (
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

const schemaPrefix = "#/components/schemas/"

// description is the document before any operation.
func description() huma.Config {
	// Names are exact, each once.
	format := huma.Format{Marshal: writeJSON, Unmarshal: readJSON}
	return huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title:   "Odometer",
				Version: "1",
				Description: "Usage metering and overage billing for AI agents. Every answer names its `as_of`: " +
					"all valid events that the stream stored up to then are in it. What is not known is an error, never a zero. " +
					"A query parameter that an operation does not have, or that is given twice, is refused (400), not passed over.",
				License: &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"},
			},
			Servers: []*huma.Server{{URL: "/", Description: "this server"}},
			Components: &huma.Components{
				Schemas: huma.NewMapRegistry(schemaPrefix, schemaName),
				SecuritySchemes: map[string]*huma.SecurityScheme{
					"token": {Type: "http", Scheme: "bearer", BearerFormat: "JWT",
						Description: "A JSON Web Token with exp, tenant_id, scope (usage:read, usage:write) and role (tenant or admin). `odometer token` prints one."},
				},
			},
		},
		Formats:       map[string]huma.Format{"application/json": format, "json": format},
		DefaultFormat: "application/json",
	}
}

// schemaName is a type's name in the document. Types of a nested package carry
// its name, for the parent may have one of the same name: AdminTenant,
// IngestEvent.
func schemaName(t reflect.Type, hint string) string {
	name := huma.DefaultSchemaNamer(t, hint)
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if path := strings.Split(t.PkgPath(), "/"); len(path) > 2 && path[0] == "odometer" {
		part := strings.TrimPrefix(path[len(path)-1], "http")
		return strings.ToUpper(part[:1]) + part[1:] + name
	}
	return name
}

// describe is an operation's entry in the document, all but its input and
// output, which huma reads from their types.
func describe(schemas huma.Registry, g *operation) huma.Operation {
	op := huma.Operation{
		OperationID: g.ID, Method: g.Method, Path: g.Path, Summary: g.Summary, Description: g.Description,
		Tags: []string{g.Tag}, DefaultStatus: g.Status,
		Security:  []map[string][]string{{"token": {}}},
		Responses: map[string]*huma.Response{},
	}
	op.Responses[strconv.Itoa(g.Status)] = &huma.Response{
		Description: http.StatusText(g.Status),
		Content:     map[string]*huma.MediaType{"application/json": {Example: g.Example}},
	}
	for _, status := range g.Statuses {
		op.Responses[strconv.Itoa(status)] = &huma.Response{Description: http.StatusText(status)}
	}
	describeProblems(schemas, &op, g)
	if !g.AdminOnly {
		about := "The tenant to read, for a token of role admin. A tenant's token reads its own tenant only."
		if g.writes() {
			about = "May be given as the token's own tenant; events are written for no other."
		}
		op.Parameters = append(op.Parameters, &huma.Param{
			Name: tenantParameter, In: "query", Schema: &huma.Schema{Type: huma.TypeString, Format: "uuid"}, Description: about,
		})
	}
	if g.Document != nil {
		g.Document(&op)
	}
	return op
}

// describeProblems lists the problems that the operation can answer with, with
// an example of each.
func describeProblems(schemas huma.Registry, op *huma.Operation, g *operation) {
	schema := schemas.Schema(reflect.TypeFor[Problem](), true, "Problem")
	kinds := append([]Kind{InvalidRequest, Unauthorized, Forbidden, methodNotAllowed, Internal, Unavailable}, g.Problems...)
	if g.limit.n > 0 {
		kinds = append(kinds, RateLimited)
	}
	for _, k := range kinds {
		status := strconv.Itoa(k.status)
		response := op.Responses[status]
		if response == nil {
			response = &huma.Response{
				Description: http.StatusText(k.status),
				Content:     map[string]*huma.MediaType{problemType: {Schema: schema, Examples: map[string]*huma.Example{}}},
				Headers:     problemHeaders(k),
			}
			op.Responses[status] = response
		}
		example := NewProblem(k, "%s", exampleDetail(g, k))
		example.Instance = g.Path
		response.Content[problemType].Examples[k.name] = &huma.Example{Summary: k.title, Value: example}
	}
}

func problemHeaders(k Kind) map[string]*huma.Param {
	text := func(description string) *huma.Param {
		return &huma.Param{Description: description, Schema: &huma.Schema{Type: huma.TypeString}}
	}
	switch k.status {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable, http.StatusRequestTimeout:
		return map[string]*huma.Param{"Retry-After": text("Seconds to wait before asking again.")}
	case http.StatusUnauthorized:
		return map[string]*huma.Param{"WWW-Authenticate": text("What the token lacks (RFC 6750).")}
	case http.StatusMethodNotAllowed:
		return map[string]*huma.Param{"Allow": text("The methods of this path.")}
	}
	return nil
}

// markNullable adds to huma's schemas that a field which points to an object may
// be null.
func markNullable(document *huma.OpenAPI) {
	schemas := document.Components.Schemas
	for name, schema := range schemas.Map() {
		t := schemas.TypeFromRef(schemaPrefix + name)
		if t == nil || t.Kind() != reflect.Struct {
			continue
		}
		for _, field := range reflect.VisibleFields(t) {
			name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
			property := schema.Properties[name]
			if field.Type.Kind() != reflect.Pointer || property == nil || property.Ref == "" || strings.Contains(options, "omit") {
				continue
			}
			schema.Properties[name] = &huma.Schema{
				Description: property.Description,
				AnyOf:       []*huma.Schema{{Ref: property.Ref}, {Type: "null"}},
			}
		}
	}
}

// serveDocument answers GET /openapi.json.
func (a *API) serveDocument(w http.ResponseWriter, _ *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	_, _ = w.Write(a.document)
}

// exampleDetails are examples of details, where the operation has no better one.
var exampleDetails = map[Kind]string{
	Unauthorized:         "The token is not accepted: it has expired. Get a new one.",
	SubscriptionInactive: "The subscription's status is past_due. Usage can be read while it is active or trial; renew it to see usage again.",
	NoSubscription:       "Tenant 0b7e4d1c-6f0e-4a53-9d55-3c1c0a3f7e01 has no subscription. Subscribe to a plan, or ask the operator to set a subscription up.",
	TooSlow:              "The body did not arrive in time. Send the same again.",
	TooLarge:             "The body has 1048576 bytes or more: send a smaller one.",
	UnsupportedMediaType: "Send the body as application/json.",
	Internal:             internalProblem().Detail,
	NoPlan:               "The subscription is active but has no plan. Ask the operator to assign one.",
}

// exampleDetail is an example of the detail of an operation's problem.
func exampleDetail(g *operation, k Kind) string {
	switch own := g.refusal(k); {
	case own != nil:
		return own.Detail
	case k == Forbidden:
		return scopeMissing(g.Scope).Detail
	case k == methodNotAllowed:
		return wrongMethodProblem(http.MethodDelete, g.Method).Detail
	case k == RateLimited:
		return rateLimited(g.limit.n, 12*time.Second).Detail
	case k == Unavailable && g.AdminOnly:
		return databaseUnavailable().Detail
	case k == Unavailable:
		return "Usage is not known yet: the events recorded so far have not all been read. Ask again in a few seconds."
	}
	return exampleDetails[k]
}

// refusal is the operation's own example of a kind of problem, nil for none.
func (g *operation) refusal(k Kind) *Problem {
	for _, p := range g.Refusals {
		if p.Status == k.status && p.Type == "/problems/"+k.name {
			return p
		}
	}
	return nil
}

// exampleUnknownParameter sets the example of an operation's 400: it names the
// parameters, which are known only when huma has read the input's type.
func exampleUnknownParameter(op *huma.Operation, known []string) {
	response := op.Responses["400"]
	if response == nil {
		return
	}
	example := checkQuery(&http.Request{URL: &url.URL{RawQuery: "tenant=acme"}}, known)
	example.Instance = op.Path
	response.Content[problemType].Examples[InvalidRequest.name] = &huma.Example{Summary: InvalidRequest.title, Value: example}
}

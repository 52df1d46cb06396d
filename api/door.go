package api

import (
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// door is what huma hands its operations to: each goes onto the mux behind the
// checks of its route. They come before huma reads anything of the request, so
// that who may not ask learns nothing about what may be asked.
type door API

// Handle puts an operation onto the mux.
func (d *door) Handle(op *huma.Operation, answer func(huma.Context)) {
	a := (*API)(d)
	g := a.routes[op.OperationID]
	if a.methods[op.Path] == nil {
		a.mux.HandleFunc(op.Path, a.wrongMethod(op.Path))
	}
	a.methods[op.Path] = append(a.methods[op.Path], op.Method)
	known, body := parameters(op), fields(a.Schemas(), op)
	if g.refusal(InvalidRequest) == nil {
		exampleMisspelling(op, known)
	}
	a.mux.HandleFunc(op.Method+" "+op.Path, func(w http.ResponseWriter, r *http.Request) {
		v := visitOf(r.Context())
		v.route, v.fields = op.Path, body
		_, p := a.admit(g, r)
		if p == nil {
			p = misread(r, known)
		}
		if p != nil {
			a.refuse(w, r, p)
			return
		}
		secure(w.Header())
		answer(humago.NewContext(op, r, w))
	})
}

// ServeHTTP is of huma's interface, for its tests.
func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) { (*API)(d).serve(w, r) }

// secure sets what every answer of the API carries: it is for its asker alone,
// and no browser may take it for a page.
func secure(h http.Header) {
	h.Set("Cache-Control", "private, no-cache")
	if !slices.Contains(h["Vary"], "Authorization") { // a refusal may come after the answer was begun
		h.Add("Vary", "Authorization")
	}
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer")
}

package api

import "github.com/danielgtaylor/huma/v2"

// Schemas takes the types of bodies that an operation of RegisterPlain reads
// and writes by itself, for its Document.
func (a *API) Schemas() huma.Registry { return a.huma.OpenAPI().Components.Schemas }

package stripetest

import (
	"slices"
	"sort"
	"strconv"
)

// resource is what Stripe lists: it has an id and a place in the order in which
// its kind was created.
type resource interface {
	key() string
	place() int
}

// register holds all resources of a kind, oldest first.
type register[T resource] struct {
	all []T
	of  map[string]T
}

func (g *register[T]) add(v T) {
	if g.of == nil {
		g.of = map[string]T{}
	}
	g.all = append(g.all, v)
	g.of[v.key()] = v
}

func (g *register[T]) get(id string) (v T, ok bool) {
	v, ok = g.of[id]
	return v, ok
}

// list answers with a page of resources, newest first as in Stripe. The ones to
// choose among are oldest first.
func list[T resource](req *request, known *register[T], among []T, matches func(T) bool, show func(T) object) answer {
	limit, bad, valid := pageSize(req)
	if !valid {
		return bad
	}
	end := len(among)
	if after := req.get("starting_after"); after != "" {
		v, found := known.get(after)
		if !found {
			return noSuch(400, "object", after, "starting_after")
		}
		end = sort.Search(len(among), func(i int) bool { return among[i].place() >= v.place() })
	}
	data, more := []object{}, false
	for i := end - 1; i >= 0 && !more; i-- {
		switch {
		case !matches(among[i]):
		case len(data) == limit:
			more = true
		default:
			data = append(data, show(among[i]))
		}
	}
	return ok(pageOf(req.URL.Path, data, more))
}

// listRows answers with a page of rows that are made for the request, in the
// order in which they are given.
func listRows(req *request, rows []object) answer {
	limit, bad, valid := pageSize(req)
	if !valid {
		return bad
	}
	if after := req.get("starting_after"); after != "" {
		i := slices.IndexFunc(rows, func(row object) bool { return row["id"] == after })
		if i < 0 {
			return noSuch(400, "object", after, "starting_after")
		}
		rows = rows[i+1:]
	}
	return ok(pageOf(req.URL.Path, rows[:min(limit, len(rows))], len(rows) > limit))
}

func pageOf(url string, data []object, more bool) object {
	return object{"object": "list", "url": url, "has_more": more, "data": data}
}

// defaultPageSize is also how many lines an invoice carries within itself.
const defaultPageSize = 10

func pageSize(req *request) (limit int, bad answer, valid bool) {
	if req.get("ending_before") != "" {
		return 0, invalid("ending_before", "parameter_unknown", "Received unknown parameter: ending_before"), false
	}
	text := req.get("limit")
	if text == "" {
		return defaultPageSize, answer{}, true
	}
	limit, err := strconv.Atoi(text)
	if err != nil {
		return 0, invalid("limit", "parameter_invalid_integer", "Invalid integer: "+text), false
	}
	if limit < 1 || limit > 100 {
		return 0, invalid("limit", "", "This value must be between 1 and 100."), false
	}
	return limit, answer{}, true
}

package api

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Pages of other origins may read their own usage with these methods and
// headers, on paths that are not operators'. No cookie is involved, so an
// allowed origin gets nothing beyond the token that it holds.
const (
	sharedPaths   = "/api/v1/"
	operatorPaths = "/api/v1/admin/"
	sharedMethods = "GET, HEAD"
	sharedHeaders = "Authorization, If-None-Match"
	shownHeaders  = "ETag, Odometer-As-Of, Odometer-Complete-From, Retry-After"
	preflightAge  = "600" // seconds; browsers ask again after that
)

// CheckOrigin reports what is wrong with an entry of Options.Origins: it must
// be written as browsers send it (RFC 6454), or it would never match.
func CheckOrigin(origin string) error {
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.Scheme+"://"+u.Host != origin {
		return fmt.Errorf("origin %q: want scheme and host only, without a path, like https://app.example", origin)
	}
	if host := u.Hostname(); strings.ContainsFunc(host, func(r rune) bool { return r > unicode.MaxASCII || unicode.IsUpper(r) || r == '*' }) {
		return fmt.Errorf("origin %q: browsers send its host in lower case, a name of other scripts in its xn-- form, and no *: write it so, an entry for each", origin)
	}
	standard := map[string]string{"http": "80", "https": "443"}[u.Scheme]
	if port := u.Port(); port == standard || port == "" && strings.HasSuffix(u.Host, ":") {
		return fmt.Errorf("origin %q: browsers leave the standard port out: write %s://%s", origin, u.Scheme, u.Hostname())
	} else if port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return fmt.Errorf("origin %q: there is no port %s", origin, port)
		}
	}
	return nil
}

// crossOrigin lets allowed origins read the answer. It reports whether the
// request was a preflight, which it has then answered.
func (a *API) crossOrigin(w http.ResponseWriter, r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if len(a.Origins) == 0 || origin == "" ||
		!strings.HasPrefix(r.URL.Path, sharedPaths) || strings.HasPrefix(r.URL.Path, operatorPaths) {
		return false
	}
	h := w.Header()
	h.Add("Vary", "Origin")
	if !slices.Contains(a.Origins, origin) {
		return false
	}
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Expose-Headers", shownHeaders)
	if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
		return false
	}
	h.Set("Access-Control-Allow-Methods", sharedMethods)
	h.Set("Access-Control-Allow-Headers", sharedHeaders)
	h.Set("Access-Control-Max-Age", preflightAge)
	w.WriteHeader(http.StatusNoContent)
	return true
}

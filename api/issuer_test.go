package api

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/MicahParks/jwkset"
)

// issuer publishes a key set.
type issuer struct {
	*httptest.Server
	asked  atomic.Int64
	mu     sync.Mutex
	status int
	page   []byte
}

func newIssuer(t testing.TB) *issuer {
	i := &issuer{status: http.StatusOK, page: []byte(`{"keys":[]}`)}
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		i.asked.Add(1)
		i.mu.Lock()
		defer i.mu.Unlock()
		w.WriteHeader(i.status)
		w.Write(i.page)
	}))
	t.Cleanup(i.Close)
	return i
}

func (i *issuer) says(status int, page []byte) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.status, i.page = status, page
}

// published is a public key as it goes into a set.
type published struct {
	id   string
	key  any
	alg  jwkset.ALG
	use  jwkset.USE
	also bool // with its private part, as careless issuers do
}

func keySet(t testing.TB, keys ...published) []byte {
	t.Helper()
	set := jwkset.JWKSMarshal{Keys: []jwkset.JWKMarshal{}}
	for _, k := range keys {
		jwk, err := jwkset.NewJWKFromKey(k.key, jwkset.JWKOptions{
			Marshal:  jwkset.JWKMarshalOptions{Private: k.also},
			Metadata: jwkset.JWKMetadataOptions{KID: k.id, ALG: k.alg, USE: k.use},
		})
		if err != nil {
			t.Fatal(err)
		}
		set.Keys = append(set.Keys, jwk.Marshal())
	}
	page, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return page
}

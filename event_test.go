package odometer_test

import (
	"regexp"
	"testing"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"odometer"
)

func TestIdentityIsKindTenantAndKey(t *testing.T) {
	t.Parallel()
	tenant := uuid.MustParse("0b7e4d1c-6f0e-4a53-9d55-3c1c0a3f7e01")
	base := odometer.Event{Kind: odometer.Usage, Tenant: tenant, Key: "k", Agent: "inbox", Quantity: 1}
	same := odometer.Event{Kind: odometer.Usage, Tenant: tenant, Key: "k", Agent: "other", Quantity: 2, Position: at(7)}
	if base.ID() != same.ID() {
		t.Error("time, position or content have become part of an event's identity")
	}
	// Stored for ever: a change of this value would count every event again.
	if got := base.ID().String(); got != wantID {
		t.Errorf("id %s, want %s", got, wantID)
	}
}

func TestIdentitiesDifferWhereAnyPartDoes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) odometer.Event {
			return odometer.Event{
				Kind:   rapid.SampledFrom([]odometer.Kind{odometer.Usage, odometer.Adjustment}).Draw(t, name+" kind"),
				Tenant: uuid.UUID{15: rapid.ByteRange(0, 2).Draw(t, name+" tenant")},
				Key:    rapid.StringN(1, 3, -1).Draw(t, name+" key"),
			}
		}
		a, b := draw("a"), draw("b")
		same := a.Kind == b.Kind && a.Tenant == b.Tenant && a.Key == b.Key
		if (a.ID() == b.ID()) != same {
			t.Fatalf("%v and %v: same identity %v, want %v", a, b, a.ID() == b.ID(), same)
		}
	})
}

func TestAnAgentsIDHasTheFormOfASubjectToken(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`^[a-z][a-z0-9_-]{0,31}$`)
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.StringMatching(`[a-zA0_. *>é-]{0,34}`).Draw(t, "id")
		if got := odometer.ValidAgent(id); got != form.MatchString(id) {
			t.Fatalf("%q: valid %v", id, got)
		}
	})
}

func TestOnlyTheCanonicalFormOfATenantIsAccepted(t *testing.T) {
	t.Parallel()
	for form, want := range map[string]bool{
		"0b7e4d1c-6f0e-4a53-9d55-3c1c0a3f7e01":          true,
		"0B7E4D1C-6F0E-4A53-9D55-3C1C0A3F7E01":          false,
		"{0b7e4d1c-6f0e-4a53-9d55-3c1c0a3f7e01}":        false,
		"urn:uuid:0b7e4d1c-6f0e-4a53-9d55-3c1c0a3f7e01": false,
		"0b7e4d1c6f0e4a539d553c1c0a3f7e01":              false,
		"":                                              false,
	} {
		if _, ok := odometer.ParseTenant(form); ok != want {
			t.Errorf("%q: accepted %v, want %v", form, ok, want)
		}
	}
}

const wantID = "234bc095-7256-f1c7-9fc4-3b4aca9c1841"

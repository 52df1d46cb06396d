package demo

import (
	"context"
	"time"

	"odometer/api"
	"odometer/query/web"
)

// sessionTTL is how long a token of the dashboard is good. The dashboard asks
// for a fresh one when it has expired.
const sessionTTL = 15 * time.Minute

// sessions mints a token for each customer of the demo, and one for its
// operator, so that the dashboard needs no sign-in here.
func (d *demo) sessions(context.Context) ([]web.Session, error) {
	operator, err := api.SignToken(d.secret, api.Claims{
		Subject: "operator", Role: api.Admin, Scopes: []string{api.ReadScope, api.WriteScope},
	}, sessionTTL)
	if err != nil {
		return nil, err
	}
	all := []web.Session{{Name: "Operator", Role: string(api.Admin), Token: operator}}
	for i := range Tenants {
		tenant := &Tenants[i]
		token, err := d.token(tenant, sessionTTL)
		if err != nil {
			return nil, err
		}
		all = append(all, web.Session{Name: tenant.name, Role: string(api.Tenant), TenantID: &tenant.ID, Token: token})
	}
	return all, nil
}

// token lets its bearer read and write for one customer.
func (d *demo) token(tenant *Tenant, ttl time.Duration) (string, error) {
	return api.SignToken(d.secret, api.Claims{
		Subject: tenant.slug(), Tenant: tenant.ID, Scopes: []string{api.ReadScope, api.WriteScope},
	}, ttl)
}

package main

import (
	"context"
	"time"

	"odometer/api"
	"odometer/query/web"
)

// demoSession is how long a token of the dashboard is good. The dashboard asks
// for a fresh one when it has expired.
const demoSession = 15 * time.Minute

// sessions mints a token for each customer of the demo, and one for its
// operator, so that the dashboard needs no sign-in here.
func (d *demo) sessions(context.Context) ([]web.Session, error) {
	operator, err := api.SignToken(d.secret, api.Claims{
		Subject: "operator", Role: api.Admin, Scopes: []string{api.ReadScope, api.WriteScope},
	}, demoSession)
	if err != nil {
		return nil, err
	}
	all := []web.Session{{Name: "Operator", Role: string(api.Admin), Token: operator}}
	for i := range demoTenants {
		tenant := &demoTenants[i]
		token, err := d.token(tenant, demoSession)
		if err != nil {
			return nil, err
		}
		all = append(all, web.Session{Name: tenant.name, Role: string(api.Tenant), TenantID: &tenant.id, Token: token})
	}
	return all, nil
}

// token lets its bearer read and write for one customer.
func (d *demo) token(tenant *demoTenant, ttl time.Duration) (string, error) {
	return api.SignToken(d.secret, api.Claims{
		Subject: tenant.slug(), Tenant: tenant.id, Scopes: []string{api.ReadScope, api.WriteScope},
	}, ttl)
}

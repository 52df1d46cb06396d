package cli

import (
	"odometer/api"
)

// AuthSettings say whose tokens are believed.
type AuthSettings struct {
	JWTSecret     string `name:"jwt-secret" help:"The shared secret of HS256 tokens." env:"ODOMETER_JWT_SECRET" placeholder:"SECRET"`
	JWTSecretFile string `name:"jwt-secret-file" help:"A file that holds it." env:"ODOMETER_JWT_SECRET_FILE" placeholder:"FILE"`
	JWTIssuer     string `name:"jwt-issuer" help:"The issuer that tokens must name." env:"ODOMETER_JWT_ISSUER" placeholder:"ISS"`
	JWTAudience   string `name:"jwt-audience" help:"The audience that tokens must name." env:"ODOMETER_JWT_AUDIENCE" placeholder:"AUD"`
}

// WarnIfWeak tells the operator of a secret for which a token's holder can
// search.
func WarnIfWeak(t *Terminal, key string) {
	if api.WeakSecret([]byte(key)) {
		t.Log.Warn("the secret of the tokens is short enough to be guessed: make one with `openssl rand -hex 32`", "bytes", len(key))
	}
}

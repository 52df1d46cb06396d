package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"odometer"
	"odometer/api"
	"odometer/ingest"
	"odometer/migrations"
)

// DependencyTimeout is how long a one-shot command waits for a dependency.
const DependencyTimeout = 10 * time.Second

// DatabaseSettings say where the database is.
type DatabaseSettings struct {
	DatabaseURL     string `help:"The Postgres database, as postgres://user:password@host/name." env:"ODOMETER_DATABASE_URL" placeholder:"URL"`
	DatabaseURLFile string `help:"A file that holds the database's URL." env:"ODOMETER_DATABASE_URL_FILE" placeholder:"FILE"`
}

// PoolConfig is the pool's configuration, with room for n connections at least.
func (s *DatabaseSettings) PoolConfig(n int32) (*pgxpool.Config, error) {
	url, err := Secret("database-url", s.DatabaseURL, s.DatabaseURLFile)
	if err != nil {
		return nil, err
	}
	if url == "" {
		return nil, Missing("database-url")
	}
	config, err := NewPoolConfig(url, n)
	if err != nil {
		return nil, Usagef("--database-url: %w", err)
	}
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = 5 * time.Second
	}
	return config, nil
}

// NewPoolConfig is how this program talks to any database.
func NewPoolConfig(url string, n int32) (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.MaxConns = max(config.MaxConns, n)
	// No statement here runs long enough to earn back its compilation, which
	// small tables without statistics can provoke at every call.
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "set jit = off")
		return err
	}
	return config, nil
}

// Open connects for a one-shot command, with room for n connections: it gives
// up after a while.
func (s *DatabaseSettings) Open(ctx context.Context, n int32) (*pgxpool.Pool, error) {
	config, err := s.PoolConfig(n)
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, Usagef("--database-url: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, DependencyTimeout)
	defer cancel()
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, notConnected(config, err)
	}
	return pool, nil
}

// notConnected distinguishes a server that refuses the URL from one that does not
// answer.
func notConnected(config *pgxpool.Config, err error) error {
	var refusal *pgconn.PgError
	if errors.As(err, &refusal) && (strings.HasPrefix(refusal.Code, "28") || strings.HasPrefix(refusal.Code, "3D")) {
		return Usagef("Postgres at %s refuses: %s: check --database-url", address(config), refusal.Message)
	}
	var network *net.OpError
	if errors.As(err, &network) {
		err = network.Err
	}
	return Unreachable{Err: fmt.Errorf("Postgres does not answer at %s: %w: check --database-url and that it runs", address(config), err)}
}

// OpenMigrated is Open for commands that need the schema as this binary knows it.
func (s *DatabaseSettings) OpenMigrated(ctx context.Context, n int32) (*pgxpool.Pool, error) {
	pool, err := s.Open(ctx, n)
	if err != nil {
		return nil, err
	}
	if err := migrations.Check(ctx, pool); err != nil {
		pool.Close()
		return nil, err
	}
	return pool, nil
}

// address is a database's place without its password.
func address(c *pgxpool.Config) string {
	return fmt.Sprintf("%s:%d/%s", c.ConnConfig.Host, c.ConnConfig.Port, c.ConnConfig.Database)
}

// NATSSettings say where the stream is.
type NATSSettings struct {
	NATSURL        string `name:"nats-url" help:"The NATS server, as nats://host:4222; several separated by commas." env:"ODOMETER_NATS_URL" placeholder:"URL"`
	NATSCreds      string `name:"nats-creds" help:"A credentials file for NATS." env:"ODOMETER_NATS_CREDS" placeholder:"FILE"`
	NATSMonitorURL string `name:"nats-monitor-url" help:"The server's monitoring address, to check that it syncs before it acknowledges." env:"ODOMETER_NATS_MONITOR_URL" placeholder:"URL"`
}

// Connect opens a connection that comes back by itself. With patient it also
// returns before the server has answered for the first time.
func (s *NATSSettings) Connect(name string, patient bool) (*nats.Conn, error) {
	if s.NATSURL == "" {
		return nil, Missing("nats-url")
	}
	options := []nats.Option{
		nats.Name("odometer " + name),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(250 * time.Millisecond),
		nats.RetryOnFailedConnect(patient),
		nats.Timeout(2 * time.Second),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}), // each call reports its own error
	}
	if s.NATSCreds != "" {
		if _, err := os.Stat(s.NATSCreds); err != nil {
			return nil, Usagef("--nats-creds: %w", err)
		}
		options = append(options, nats.UserCredentials(s.NATSCreds))
	}
	nc, err := nats.Connect(s.NATSURL, options...)
	if err != nil {
		return nil, Unreachable{Err: fmt.Errorf("NATS does not answer at %s: %w: check --nats-url and that it runs", s.NATSURL, err)}
	}
	return nc, nil
}

// StreamSettings are how the stream is made when it does not exist yet.
type StreamSettings struct {
	Partitions     int   `help:"Partitions of the stream, when it is created." default:"4" env:"ODOMETER_PARTITIONS"`
	StreamMaxAge   Days  `help:"How long the stream keeps messages, when it is created." default:"35d" env:"ODOMETER_STREAM_MAX_AGE"`
	StreamMaxBytes int64 `help:"Bytes the stream may hold, when it is created; -1 for no limit." default:"-1" env:"ODOMETER_STREAM_MAX_BYTES"`
	StreamReplicas int   `help:"Replicas of the stream, when it is created." default:"1" env:"ODOMETER_STREAM_REPLICAS"`
	EventRetention Days  `help:"How long events are kept after they were stored." default:"90d" env:"ODOMETER_EVENT_RETENTION"`
}

// StreamConfig checks the settings against each other.
func (s *StreamSettings) StreamConfig() (ingest.StreamConfig, error) {
	const margin = 7 * 24 * time.Hour
	if err := CheckEventRetention(s.EventRetention); err != nil {
		return ingest.StreamConfig{}, err
	}
	switch {
	case s.Partitions < 1 || s.Partitions > 256:
		return ingest.StreamConfig{}, Usagef("--partitions %d: want 1 to 256", s.Partitions)
	case s.StreamReplicas < 1 || s.StreamReplicas > 5:
		return ingest.StreamConfig{}, Usagef("--stream-replicas %d: want 1 to 5", s.StreamReplicas)
	case time.Duration(s.StreamMaxAge) <= 0, time.Duration(s.StreamMaxAge)+margin > time.Duration(s.EventRetention):
		return ingest.StreamConfig{}, Usagef("--stream-max-age %s: give more than 0 and at least 7 days less than --event-retention (%s), so that every message can be checked against its event",
			s.StreamMaxAge, s.EventRetention)
	}
	return ingest.StreamConfig{
		Partitions: s.Partitions, MaxAge: time.Duration(s.StreamMaxAge), MaxBytes: s.StreamMaxBytes, Replicas: s.StreamReplicas,
	}, nil
}

// CheckEventRetention returns a usage error when events would be removed before
// their keys may be used again.
func CheckEventRetention(keep Days) error {
	if time.Duration(keep) < odometer.MaxAge {
		return Usagef("--event-retention %s: keys are remembered for 90 days by the events themselves: give at least 90d", keep)
	}
	return nil
}

// Tenant is a tenant's id as an argument.
type Tenant uuid.UUID

// UnmarshalText reads the canonical form only, as everywhere else.
func (t *Tenant) UnmarshalText(text []byte) error {
	id, ok := odometer.ParseTenant(string(text))
	if !ok {
		return fmt.Errorf("%q is not a UUID in lower-case canonical form (as 0b7e4d1c-6f0e-4a53-9d55-3c1c0a3f7e01)", text)
	}
	*t = Tenant(id)
	return nil
}

// Secret is a setting that is given itself or in a file.
func Secret(name, value, file string) (string, error) {
	if file == "" {
		return value, nil
	}
	// A variable gives way to the flag that names a file.
	if value != "" && value != os.Getenv(variableOf(name)) {
		return "", Usagef("--%s and --%s-file are both given: give one", name, name)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return "", Usagef("--%s-file: %w", name, err)
	}
	return strings.TrimSpace(string(content)), nil
}

// Missing names a setting with its flag and its variable.
func Missing(name string) error {
	return Usagef("--%s is not set: give the flag or the variable %s", name, variableOf(name))
}

func variableOf(name string) string {
	return "ODOMETER_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// How many connections a one-shot command's pool may open.
const (
	FewConnections      = 4
	ReporterConnections = 16 // each call under way to Stripe keeps its ledger entry by one
)

// CancelWithoutNATS ends the context when NATS has been away for too long.
func CancelWithoutNATS(ctx context.Context, nc *nats.Conn) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		away := time.Duration(0)
		for odometer.Sleep(ctx, time.Second) == nil {
			if away += time.Second; nc.IsConnected() {
				away = 0
			}
			if away >= DependencyTimeout {
				cancel(Unreachable{Err: fmt.Errorf("NATS has been away for %s: check that it runs, then run this again, which is safe", DependencyTimeout)})
			}
		}
	}()
	return ctx, func() { cancel(nil) }
}

// EnsureStream makes the stream when it is not there yet. Credentials that may
// only publish are not an obstacle: then somebody else makes the stream.
func EnsureStream(ctx context.Context, nc *nats.Conn, config ingest.StreamConfig) error {
	ctx, cancel := context.WithTimeout(ctx, DependencyTimeout)
	defer cancel()
	_, err := ingest.EnsureStream(ctx, JetStream(nc), config)
	switch {
	case err == nil, errors.Is(err, nats.ErrPermissionViolation), nc.LastError() != nil && errors.Is(nc.LastError(), nats.ErrPermissionViolation):
		return nil
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, nats.ErrNoResponders):
		return Unreachable{Err: fmt.Errorf("the NATS server at %s has no JetStream: start it with JetStream enabled", nc.ConnectedUrlRedacted())}
	}
	return err
}

// Ended reports whether err is nothing but the end of ctx.
func Ended(ctx context.Context, err error) bool {
	return ctx.Err() != nil && (err == nil || errors.Is(err, ctx.Err()))
}

// JetStream is the JetStream API of a connection.
func JetStream(nc *nats.Conn) jetstream.JetStream {
	js, err := jetstream.New(nc)
	if err != nil {
		panic(err) // it fails only for options that are not given here
	}
	return js
}

// AuthSettings say which tokens are accepted.
type AuthSettings struct {
	JWTSecret     string `name:"jwt-secret" help:"The shared secret of HS256 tokens." env:"ODOMETER_JWT_SECRET" placeholder:"SECRET"`
	JWTSecretFile string `name:"jwt-secret-file" help:"A file that holds it." env:"ODOMETER_JWT_SECRET_FILE" placeholder:"FILE"`
	JWTIssuer     string `name:"jwt-issuer" help:"The issuer that tokens must name." env:"ODOMETER_JWT_ISSUER" placeholder:"ISS"`
	JWTAudience   string `name:"jwt-audience" help:"The audience that tokens must name." env:"ODOMETER_JWT_AUDIENCE" placeholder:"AUD"`
}

// WarnIfWeak warns the operator of a secret that the holder of a token could guess
// by trying.
func WarnIfWeak(t *Terminal, key string) {
	if api.WeakSecret([]byte(key)) {
		t.Log.Warn("the secret of the tokens is short enough to be guessed: make one with `openssl rand -hex 32`", "bytes", len(key))
	}
}

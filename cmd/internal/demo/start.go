package demo

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"odometer/billing"
	"odometer/cmd/internal/app"
	"odometer/cmd/internal/cli"
	"odometer/migrations"
	"odometer/migrations/localpg"
)

func (d *demo) openDirectory(context.Context) error {
	d.dir = d.options.DataDir
	if d.dir == "" {
		temporary, err := os.MkdirTemp("", "odometer-demo-")
		if err != nil {
			return fmt.Errorf("make a temporary directory: %w: give --data-dir", err)
		}
		d.dir = temporary
		d.onStop(func() { _ = os.RemoveAll(temporary) })
		// Postgres may have to run as another user than root.
		if err := os.Chmod(temporary, 0o755); err != nil {
			return err
		}
	} else if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return cli.Usagef("--data-dir: %w", err)
	}
	var err error
	if d.dir, err = filepath.Abs(d.dir); err != nil {
		return cli.Usagef("--data-dir: %w", err)
	}
	return d.openLog()
}

// openLog sends the services' log to a file, so that the terminal shows only progress.
func (d *demo) openLog() error {
	file, err := os.OpenFile(filepath.Join(d.dir, "odometer.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return cli.Usagef("--data-dir: %w", err)
	}
	d.onStop(func() { _ = file.Close() })
	d.log = slog.New(slog.NewTextHandler(file, nil))
	return nil
}

func (d *demo) startPostgres(ctx context.Context) (err error) {
	d.postgres, err = localpg.Start(ctx, localpg.Options{
		Dir: filepath.Join(d.dir, "postgres"),
		Log: func(format string, args ...any) { fmt.Fprintf(d.terminal.Err, format+"\n", args...) },
	})
	if err != nil {
		return cli.UsageError{Err: err}
	}
	d.onStop(func() { _ = d.postgres.Stop() })
	config, err := cli.NewPoolConfig(d.postgres.URL(), 32)
	if err != nil {
		return err
	}
	if d.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return err
	}
	d.onStop(d.pool.Close)
	if d.readers, err = app.NewReadPool(ctx, config); err != nil {
		return err
	}
	d.onStop(d.readers.Close)
	return nil
}

func (d *demo) startStream(context.Context) (err error) {
	if d.server, err = app.StartNATS(filepath.Join(d.dir, "nats"), natsserver.RANDOM_PORT); err != nil {
		return err
	}
	d.onStop(func() { d.stopStream() })
	// Over its address, so that the connection outlives a restart.
	d.nats, err = nats.Connect(d.server.ClientURL(), nats.Name("odometer demo"), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
	if err != nil {
		return fmt.Errorf("connect to NATS inside: %w", err)
	}
	d.onStop(d.nats.Close)
	return nil
}

func (d *demo) stopStream() {
	d.server.Shutdown()
	d.server.WaitForShutdown()
}

func (d *demo) prepareDatabase(ctx context.Context) error {
	if _, err := migrations.Up(ctx, d.pool); err != nil {
		return err
	}
	if _, err := billing.LoadCatalogue(ctx, d.pool); errors.Is(err, billing.ErrNoCatalogue) {
		if err := billing.ApplyCatalogue(ctx, d.pool, billing.SampleCatalogue()); err != nil {
			return err
		}
	}
	if err := subscribeTenants(ctx, d.pool, time.Now()); err != nil {
		return err
	}
	return d.openSecret()
}

// openSecret keeps the tokens of an earlier run valid when the data is kept.
func (d *demo) openSecret() error {
	path := filepath.Join(d.dir, "jwt-secret")
	if kept, err := os.ReadFile(path); err == nil {
		d.secret = kept
		return nil
	}
	fresh := make([]byte, 32)
	if _, err := rand.Read(fresh); err != nil {
		return err
	}
	d.secret = []byte(hex.EncodeToString(fresh))
	if err := os.WriteFile(path, d.secret, 0o600); err != nil {
		return fmt.Errorf("keep the secret of the tokens: %w", err)
	}
	return nil
}

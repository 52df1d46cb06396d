package app

import (
	"fmt"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// StartNATS runs a NATS server inside this process that keeps its stream in
// dir and syncs it before it acknowledges. It listens on a loopback port, -1 for
// a free one, for publishers from outside.
func StartNATS(dir string, port int) (*natsserver.Server, error) {
	server, err := natsserver.NewServer(&natsserver.Options{
		ServerName: "odometer",
		Host:       "127.0.0.1",
		Port:       port,
		JetStream:  true,
		StoreDir:   dir,
		SyncAlways: true,
		NoLog:      true,
		NoSigs:     true, // the signals are ours
	})
	if err != nil {
		return nil, fmt.Errorf("start NATS in %s: %w", dir, err)
	}
	go server.Start()
	if !server.ReadyForConnections(10 * time.Second) {
		server.Shutdown()
		return nil, fmt.Errorf("start NATS in %s: it is not ready after 10 s: check whether another process uses that directory", dir)
	}
	return server, nil
}

// ConnectInProcess connects to a server of this process without a socket.
func ConnectInProcess(server *natsserver.Server) (*nats.Conn, error) {
	nc, err := nats.Connect("", nats.InProcessServer(server), nats.MaxReconnects(-1), nats.Name("odometer"))
	if err != nil {
		return nil, fmt.Errorf("connect to NATS inside: %w", err)
	}
	return nc, nil
}

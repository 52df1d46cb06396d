package reporter

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"odometer/ingest"
)

// freeRoutes returns the addresses of three free ports.
func freeRoutes(t *testing.T) (routes []*url.URL) {
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }() // held until all three are chosen
		routes = append(routes, &url.URL{Scheme: "nats", Host: l.Addr().String()})
	}
	return routes
}

// natsCluster starts three NATS servers and returns a connection to them.
func natsCluster(t *testing.T) jetstream.JetStream {
	t.Helper()
	routes := freeRoutes(t)
	var servers []*server.Server
	for i, route := range routes {
		port, _ := strconv.Atoi(route.Port())
		s, err := server.NewServer(&server.Options{
			ServerName: fmt.Sprint("n", i), Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(),
			Cluster: server.ClusterOpts{Name: "c", Host: "127.0.0.1", Port: port}, Routes: routes, NoLog: true, NoSigs: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		servers = append(servers, s)
	}
	for _, s := range servers {
		s.Start()
		t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	}
	if !servers[0].ReadyForConnections(20 * time.Second) {
		t.Fatal("a NATS server does not start")
	}
	nc, err := nats.Connect(servers[0].ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func TestMirrorHasTheReplicasOfTheStream(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, nil)
	env.Reporter.NATS = natsCluster(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for created := false; !created; { // a cluster without a leader does not answer
		attempt, end := context.WithTimeout(ctx, time.Second)
		_, err := env.Reporter.NATS.CreateStream(attempt, jetstream.StreamConfig{Name: ingest.StreamName, Subjects: []string{"usage.>"}, Replicas: 3})
		end()
		created = err == nil
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	_, err := env.loadGeneration(ctx)
	env.must(err)
	bucket, err := env.Reporter.NATS.KeyValue(ctx, mirrorBucket)
	env.must(err)
	status, err := bucket.Status(ctx)
	env.must(err)
	if got := status.(*jetstream.KeyValueBucketStatus).StreamInfo().Config.Replicas; got != 3 {
		t.Errorf("the mirror has %d replicas, the stream 3", got)
	}
}

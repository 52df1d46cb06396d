package main

import (
	"context"
	"net"

	"odometer/cmd/internal/app"
	"odometer/cmd/internal/cli"
	"odometer/cmd/internal/demo"
)

type demoCmd struct {
	demo.Options
}

// Run brings up the whole product on this machine, lets agents work, and ends
// with the proof that nothing was lost or counted twice.
func (c *demoCmd) Run(ctx context.Context, t *cli.Terminal) error {
	if c.Rate < 1 || c.Rate > 20_000 {
		return cli.Usagef("--rate %d: want 1 to 20000 events a second", c.Rate)
	}
	if c.For < 0 {
		return cli.Usagef("--for %s: give a duration above 0", c.For)
	}
	if err := c.CheckOrigins(); err != nil {
		return err
	}
	if err := c.checkAddr(); err != nil {
		return err
	}
	c.Command = Main
	return demo.Run(ctx, t, c.Options)
}

// checkAddr finds out in time whether the demo can listen, and refuses to do so
// for others: whoever reaches it is its operator.
func (c *demoCmd) checkAddr() error {
	l, err := app.Listen(c.Addr, "addr")
	if err != nil {
		return err
	}
	defer l.Close()
	if at, ok := l.Addr().(*net.TCPAddr); !ok || !at.IP.IsLoopback() {
		return cli.Usagef("--addr %s: other machines could reach it, and the demo lets everybody in without signing in: give an address of loopback, as 127.0.0.1:8080, or use odometer run", c.Addr)
	}
	return nil
}

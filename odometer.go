// Package odometer is the vocabulary of usage metering: what an event is, who
// may send it, which period it belongs to and what it costs beyond a plan's
// allowance. Everything here is a pure function of its arguments. There is no
// I/O and no clock, so the rules that two stages need (identity, period,
// overage, alerts) exist once and can be tested without a server.
//
// The stages that move the data import this package; it imports none of them:
//
//	ingest      agents -> stream
//	aggregator  stream -> Postgres
//	billing     the catalogue, subscriptions and periods that counting goes by
//	query       Postgres -> dashboards
package odometer

//go:generate go -C tools run ./notice

// Package stripetest is a Stripe that remembers.
//
// stripe-mock answers every request with a fixture: it accepts an identifier
// twice, knows no periods and never fails, so nothing that matters about
// billing can be shown with it. This stand-in keeps state and follows the rules
// by which usage becomes money, on a clock that the caller holds. Tests, the
// demo and the benchmark speak to it through the ordinary stripe-go client.
//
// What it guarantees, and the rule of Stripe each stands for:
//
//   - A meter event counts exactly once: an identifier is refused for 24 hours
//     after it was received (never swallowed), and may be used again after that.
//   - One call at a time for a customer and a meter, else 429 lock_timeout.
//   - An Idempotency-Key replays its first answer for 24 hours, a 500 included,
//     once execution began; a refused parameter, a 429 and a 401 are not kept.
//   - Event summaries are eventually consistent: they lag by Options.SummaryLag.
//     Invoices do not lag.
//   - At the end of a period a draft invoice appears. Its quantities are read
//     again when it becomes final, and nothing changes them afterwards.
//   - Usage inside a trial is not invoiced, a negative total bills as 0, and an
//     immediate cancel invoices usage only when told to.
//   - A legacy usage record lies in the current period and not in the future.
//   - Hooks are signed as Stripe signs them, and may come in any order.
//
// Time passes only by Options.Now. What became due since the last look (ends of
// periods, finalizations, hooks) happens in its order when a request or an
// exported call arrives; Advance is the call that does nothing else. Only
// Latency, RateLimit and hook signatures go by the real clock: the first two are
// about the speed of the caller, and stripe-go verifies the third against it.
//
// It leaves out what the product does not touch: prorations, payments, taxes,
// discounts, meters that do not sum raw events, test clocks, and API v2.
package stripetest

// Customers of the specs' own: each test has tenants that nobody else uses, and
// that no limit of requests is used up for.
import { randomUUID } from "node:crypto";
import { odometer, token, tokenOf, url } from "./stage.mjs";

const day = 86_400_000;
export const daysFromNow = (n) => new Date(Date.now() + n * day).toISOString();

const actions = { inbox: "email_processed", invoice: "invoice_detected", meeting: "meeting_prep" };

// customer subscribes a new tenant, begun days ago, and lets its agents use what
// is said: { inbox: 400 }. It returns the tenant when that is counted.
export async function customer({ plan = "price_bundle_monthly", status = "active", begun = 10, ...used } = {}) {
  const id = randomUUID();
  await odometer(
    "subscription", "set", "--tenant", id, "--plan", plan, "--status", status,
    "--period-start", daysFromNow(-begun), "--period-end", daysFromNow(30 - begun),
  );
  const tenant = { id, token: tokenOf(id), use: (more, days) => use(id, more, days), conflict: (n) => conflict(id, n) };
  if (Object.keys(used).length) await tenant.use(used);
  return tenant;
}

// use publishes over HTTP, as an agent may, what occurred so many days ago, and
// waits until it is counted.
async function use(id, units, days = 0) {
  const before = await counts(id);
  await publish(id, Object.entries(units).map(([agent, quantity]) => ({
    agent, action_type: actions[agent], quantity, idempotency_key: randomUUID(), occurred_at: daysFromNow(-days),
  })));
  await until(`the use of ${JSON.stringify(units)} is counted`, async () => {
    const now = await counts(id);
    return Object.entries(units).every(([agent, quantity]) => now[agent] === before[agent] + quantity);
  });
}

async function publish(id, events) {
  const answer = await fetch(`${url}/api/v1/events`, {
    method: "POST",
    headers: { Authorization: `Bearer ${tokenOf(id)}`, "Content-Type": "application/json" },
    body: JSON.stringify(events),
  });
  const said = await answer.json();
  if (said.accepted !== events.length) throw new Error(`events were not accepted: ${JSON.stringify(said)}`);
}

// conflict lets one key come with ever other quantities, and waits for the n
// dead letters that come of it.
async function conflict(id, n) {
  const idempotency_key = randomUUID();
  const events = Array.from({ length: n + 1 }, (_, i) => ({ agent: "inbox", action_type: actions.inbox, quantity: i + 1, idempotency_key }));
  await publish(id, events);
  await until(`there are ${n} dead letters`, async () => (await read(`/api/v1/admin/dead-letters?tenant_id=${id}&limit=1`, operator)).total === n);
}

// counts are a tenant's in the running period, whatever its status.
async function counts(id) {
  const { periods } = await read(`/api/v1/periods?limit=1&tenant_id=${id}`, operator);
  return Object.fromEntries(Object.entries(periods[0].usage).map(([agent, { count }]) => [agent, count]));
}

const operator = token({ role: "admin", sub: "specs" });

// read is what the API says to whom has the token.
export async function read(path, bearer) {
  const answer = await fetch(url + path, { headers: { Authorization: `Bearer ${bearer}` } });
  if (!answer.ok) throw new Error(`GET ${path}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

// until looks again and again, for at most 20 seconds, ever less often: what it
// asks may be limited.
export async function until(what, holds) {
  const deadline = Date.now() + 20_000;
  for (let pause = 20; ; pause = Math.min(2 * pause, 500)) {
    const found = await holds();
    if (found) return found;
    if (Date.now() > deadline) throw new Error(`after 20 s it is still not so that ${what}`);
    await new Promise((done) => setTimeout(done, pause));
  }
}

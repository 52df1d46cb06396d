// The widget in pages of other origins: what it needs there, what it can reach,
// what it weighs and how soon it is there.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { readFile } from "node:fs/promises";
import { customer } from "./customers.mjs";
import { html, leave, newHost, rows, text, visit, widget } from "./host.mjs";
import { picture, tenants, token, tokenOf, url } from "./stage.mjs";

let host;
before(async () => { host = await newHost(); });
after(() => host.close());

// get is what a script of the page can read: a status, or why not even that.
const get = (page, path, bearer) =>
  page.evaluate(async ([to, bearer]) => {
    try {
      const answer = await fetch(to, { headers: { Authorization: `Bearer ${bearer}` } });
      return [answer.status, (await answer.json()).detail ?? ""];
    } catch (error) {
      return String(error);
    }
  }, [url + path, bearer]);

const unreadable = "TypeError: Failed to fetch";
const blocked = /has been blocked by CORS policy/; // what the browser says about it

test("a script tag and a token are all that it needs, also under a strict policy", async () => {
  const { token } = await customer({ inbox: 425, invoice: 52, meeting: 15 });
  const policy = `default-src 'none'; script-src ${url}; connect-src ${url}`;
  const page = await host.open({ attributes: { token } }, { headers: { "Content-Security-Policy": `${policy}; style-src 'unsafe-inline'` } });
  await widget(page).getByText("425 of 500").waitFor();
  await widget(page).getByRole("button", { name: "History" }).click();
  await widget(page).locator(".odometer-chart canvas").waitFor();
  await picture(page, "embed-strict-policy");
  await leave(page);

  const bare = await visit(await host.tab(), host.site.put(
    `<!doctype html><script type="module" src="${url}/odometer-usage.js"></script><odometer-usage token="${token}"></odometer-usage>`,
    { "Content-Security-Policy": policy },
  ));
  await widget(bare).getByText("425 of 500").waitFor();
  await widget(bare).getByRole("button", { name: "History" }).click();
  await widget(bare).locator(".odometer-chart canvas").waitFor();
  await leave(bare);
});

test("from an origin that is not allowed it can read nothing, and says so", async () => {
  const { token } = await customer({ inbox: 425 });
  // Another name of the same server is another origin.
  const page = await visit(await host.tab(), host.site.put(html({ attributes: { token } })).replace("127.0.0.1", "localhost"));
  await widget(page).getByRole("alert").waitFor();
  assert.deepEqual(await rows(page), ["Usage unavailable | Retry"]);
  await picture(page, "embed-not-allowed");
  for (const path of ["/api/v1/usage", "/api/v1/periods", "/demo/sessions"]) assert.equal(await get(page, path, token), unreadable, path);
  page.wrongs = page.wrongs.filter((wrong) => !blocked.test(wrong));
  await leave(page);
});

test("a tenant's token reads no other tenant, and no page of another origin reads what is the operators'", async () => {
  const mine = await customer({ inbox: 1 });
  const page = await host.shown(mine.token);
  assert.deepEqual((await get(page, "/api/v1/usage", mine.token))[0], 200);
  for (const path of ["usage", "usage/history", "usage/events", "usage/forecast", "periods", "alerts"]) {
    const [status, detail] = await get(page, `/api/v1/${path}?tenant_id=${tenants.acme}`, mine.token);
    assert.equal(status, 403, path);
    assert.doesNotMatch(detail, /Acme/);
  }
  const operator = token({ role: "admin", sub: "specs" });
  for (const path of ["/api/v1/admin/tenants", "/api/v1/admin/overview", "/demo/sessions"]) {
    assert.equal(await get(page, path, mine.token), unreadable, path);
    assert.equal(await get(page, path, operator), unreadable, path);
  }
  const refused = await page.evaluate(async ([to, bearer]) => {
    const asked = { method: "POST", headers: { Authorization: `Bearer ${bearer}`, "Content-Type": "application/json" }, body: "[]" };
    return fetch(to, asked).then((answer) => String(answer.status), String);
  }, [`${url}/api/v1/events`, mine.token]);
  assert.equal(refused, unreadable, "a page of another origin published events");
  page.wrongs = page.wrongs.filter((wrong) => !blocked.test(wrong));
  await leave(page);
});

test("two widgets in a page keep to their own tenants", async () => {
  const [first, second] = await Promise.all([customer({ inbox: 111 }), customer({ inbox: 222 })]);
  const twice = `<script type="module" src="${url}/odometer-usage.js?again"></script>`;
  const page = await host.open({ attributes: { token: first.token }, body: `${twice}<odometer-usage token="${second.token}"></odometer-usage>` });
  await page.getByText("111 of 500").waitFor();
  await page.getByText("222 of 500").waitFor();
  const told = await widget(page).evaluateAll((all) => all.map((one) => one.shadowRoot.textContent));
  assert.match(told[0], /222 of/);
  assert.match(told[1], /111 of/);
  await leave(page);
});

// example puts up the page in deploy/examples, whose service is the demo's.
async function example() {
  const page = await readFile(new URL("../../../deploy/examples/widget/index.html", import.meta.url), "utf8");
  assert.match(page, /src="http:\/\/127\.0\.0\.1:8080\/odometer-usage\.js"/);
  return host.site.put(page.replaceAll("http://127.0.0.1:8080", url));
}

test("the page in deploy/examples works as it stands", async () => {
  host.site.put(tokenOf(tenants.acme), { "Content-Type": "text/plain" }, "/usage-token");
  const page = await visit(await host.tab(), await example());
  await widget(page).getByText("FounderPilot Bundle").waitFor();
  assert.match(await text(page), /Estimated overage/);
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    await picture(page, `embed-example-${colorScheme}`);
  }
  await leave(page);
});

test("where nobody is signed in, the page in deploy/examples is told so, and goes on after the next sign-in", async () => {
  const { token } = await customer({ inbox: 425 });
  let session = { status: 401, body: "sign in" };
  const tab = await host.tab();
  const told = [];
  tab.on("console", (said) => told.push(said.text()));
  const page = await visit(tab, await example(), (page) => page.route("**/usage-token", (route) => route.fulfill(session)));
  await widget(page).getByText("Session expired").waitFor();
  assert.equal(told.filter((said) => said === "sign in again").length, 1);
  await picture(page, "embed-example-signed-out");

  session = { status: 200, body: token };
  await widget(page).getByRole("button", { name: "Retry" }).click();
  await widget(page).getByText("425 of 500").waitFor();
  await leave(page);
});

test("where the page in deploy/examples cannot fetch a token, nobody is sent to sign in", async () => {
  const tab = await host.tab();
  const told = [];
  tab.on("console", (said) => told.push(said.text()));
  const page = await visit(tab, await example(), (page) => page.route("**/usage-token", (route) => route.fulfill({ status: 404 })));
  await widget(page).getByRole("alert").waitFor();
  assert.deepEqual(await rows(page), ["Usage unavailable | Retry"]);
  assert.ok(!told.includes("sign in again"));
  await leave(page);
});

// transferred are the bytes of a page's requests as they came, with headers.
async function transferred(page, act) {
  const finished = [];
  page.on("requestfinished", (request) => finished.push(request));
  await act();
  const all = {};
  for (const request of finished) {
    const { responseBodySize, responseHeadersSize } = await request.sizes();
    all[new URL(request.url()).pathname] = responseBodySize + responseHeadersSize;
  }
  return all;
}

// paint is when something was first seen; the browser tells of it some time after.
const paint = async (page) =>
  (await page.waitForFunction(() => performance.getEntriesByName("first-contentful-paint")[0]?.startTime)).jsonValue();

test("it is small and soon there", async () => {
  const { token } = await customer({ inbox: 425, invoice: 52, meeting: 15 });
  const page = await host.tab();
  // The first frame that has a bar in it, since the script was asked for.
  await page.addInitScript(() => {
    const look = (now) => {
      if (!document.querySelector("odometer-usage")?.shadowRoot?.querySelector("progress")) return requestAnimationFrame(look);
      window.bar = now - performance.getEntriesByType("resource").find((entry) => entry.name.endsWith("/odometer-usage.js")).startTime;
    };
    requestAnimationFrame(look);
  });
  const bytes = await transferred(page, async () => {
    await page.goto(host.site.put(html({ attributes: { token } })));
    await page.waitForFunction(() => window.bar);
    await widget(page).getByRole("button", { name: "History" }).click();
    await widget(page).locator(".odometer-chart").waitFor();
  });
  const [painted, bar] = [await paint(page), await page.evaluate(() => window.bar)];
  await page.context().close();

  const dashboard = await host.tab();
  const own = await transferred(dashboard, async () => {
    await dashboard.goto(url);
    await dashboard.locator("main h1").waitFor();
  });
  const opened = await paint(dashboard);
  await dashboard.context().close();

  const sum = (paths) => paths.reduce((n, path) => n + own[path], 0);
  const first = sum(["/", "/assets/dashboard.js", "/assets/dashboard.css"]);
  const said = (label, n, unit) => console.log(`${label.padEnd(46)}${n.toLocaleString("en-US", { maximumFractionDigits: 0 }).padStart(8)} ${unit}`);
  said("widget, with headers", bytes["/odometer-usage.js"], "bytes");
  said("usage answer, with headers", bytes["/api/v1/usage"], "bytes");
  said("chart, when asked for", bytes["/odometer-chart.js"], "bytes");
  said("dashboard: page, script and styles", first, "bytes");
  said("embedding page: first contentful paint", painted, "ms");
  said("widget: first bar, since its script was asked for", bar, "ms");
  said("dashboard: first contentful paint", opened, "ms");

  assert.ok(bytes["/odometer-usage.js"] < 2048 + 512, "the widget is too large");
  assert.ok(bytes["/odometer-chart.js"] < 32_000, "the chart is too large");
  assert.ok(first < 40_000, "the dashboard is too large");
  // Generous: the machine may have two processors and much else to do.
  assert.ok(painted < 5000 && bar < 10_000 && opened < 5000, "it takes too long");
});

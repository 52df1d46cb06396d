import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { readFile } from "node:fs/promises";
import { leave, newDashboard, settled } from "./dashboard.mjs";
import { axe, picture, tenants, token, tokenOf, url } from "./stage.mjs";

let browser, visit, close;
before(async () => { ({ browser, visit, close } = await newDashboard()); });
after(() => close());

const OPERATOR = ["", "tenants", "alerts", "dead-letters", "jobs", "audit", "ledger"];
const TENANT = ["", "/events", "/periods", "/dead-letters", "/ledger"].map((tab) => `tenants/${tenants.acme}${tab}`);
const CUSTOMER = ["", "events", "periods"];

const LOOKS = {
  light: { colorScheme: "light", viewport: { width: 1440, height: 900 } },
  dark: { colorScheme: "dark", viewport: { width: 1024, height: 768 } },
  narrow: { colorScheme: "light", viewport: { width: 360, height: 740 } },
};

for (const [look, options] of Object.entries(LOOKS)) {
  for (const [as, paths] of [["Operator", [...OPERATOR, ...TENANT]], ["Acme", CUSTOMER]]) {
    test(`every page of ${as} is accessible and keeps to its width: ${look}`, async () => {
      const page = await visit("", { as, ...options });
      for (const path of paths) {
        await page.goto(`${url}/#/${path}`);
        await settled(page);
        const toggle = page.getByRole("button", { name: "Details" }).first();
        if (await toggle.count()) await toggle.click();
        await picture(page, `dashboard-${as}-${path.replaceAll("/", "-") || "start"}-${look}`);
        const tooWide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
        assert.ok(tooWide <= 0, `${path} is ${tooWide} px too wide`);
        assert.deepEqual(await axe(page), [], path);
      }
      assert.deepEqual(page.wrongs, []);
      await leave(page);
    });
  }
}

test("the operator's figures are live, and rest while nobody looks", async () => {
  const page = await visit("");
  await page.clock.install();
  await page.reload();
  let asked = 0;
  page.on("request", (r) => { if (r.url().endsWith("/admin/overview")) asked++; });
  const read = page.locator(".equation b").first();
  await read.waitFor();
  const first = await read.textContent();
  await page.waitForFunction((was) => document.querySelector(".equation b").textContent !== was, first);

  await page.evaluate(() => {
    Object.defineProperty(document, "hidden", { configurable: true, value: true });
    document.dispatchEvent(new Event("visibilitychange"));
  });
  const before = asked;
  await page.clock.runFor(30_000);
  assert.ok(asked <= before + 1, `asked ${asked - before} times in half a minute although the tab is hidden`);

  const again = page.waitForResponse((r) => r.url().endsWith("/admin/overview"));
  await page.evaluate(() => {
    delete document.hidden;
    document.dispatchEvent(new Event("visibilitychange"));
  });
  await again;
  await leave(page);
});

test("a customer sees the widget, history by action, and each event", async () => {
  const page = await visit("", { as: "Acme" });
  await page.locator("odometer-usage").getByText("FounderPilot Bundle").waitFor();
  await page.getByLabel("By", { exact: true }).selectOption("action_type");
  const legend = page.locator(".odometer-chart figcaption");
  await legend.getByText("Email processed").waitFor();
  assert.match(page.url(), /by=action_type/);
  await page.locator("summary").click();
  await page.getByRole("table", { name: "Usage per day, newest first" }).waitFor();

  await page.getByRole("link", { name: "Events" }).click();
  const rows = page.getByRole("table", { name: "Events, newest first" }).getByRole("row");
  await rows.nth(50).waitFor();
  const had = await rows.count();
  await page.getByRole("button", { name: "Show more events" }).click();
  await page.waitForFunction((n) => document.querySelectorAll("tbody tr").length >= n, had);

  await page.getByLabel("Agent").selectOption("meeting");
  await page.waitForFunction(() => !document.querySelector(".outdated"));
  const agents = await page.locator("td[data-head=Agent]").allTextContents();
  assert.deepEqual([...new Set(agents)], ["meeting"]);

  const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: "Download CSV" }).click()]);
  const csv = await readFile(await download.path(), "utf8");
  assert.match(csv, /^event_id,agent,/);
  assert.match(csv, /,meeting_prep,/);

  await page.getByLabel("Agent").selectOption("");
  await page.getByLabel("Action", { exact: true }).selectOption("invoice_detected");
  await page.waitForFunction(() => !document.querySelector(".outdated"));
  const actions = await page.locator("td[data-head=Action]").allTextContents();
  assert.ok(actions.length > 0 && actions.every((a) => a.startsWith("invoice detected")), actions.join());
  assert.deepEqual(page.wrongs, []);
  await leave(page);
});

test("what acts asks first, and says what became of it", async () => {
  const page = await visit("jobs");
  const pause = page.getByRole("button", { name: "Pause retention" });
  await pause.click();
  const dialog = page.getByRole("dialog", { name: "Pause the job retention" });
  await dialog.getByRole("button", { name: "Cancel" }).click();
  await page.getByRole("button", { name: "Refresh" }).click();
  await pause.waitFor();

  await pause.click();
  await dialog.getByRole("button", { name: "Pause" }).click();
  await dialog.getByText("Paused", { exact: true }).waitFor();
  await dialog.getByRole("button", { name: "Close" }).click();
  await page.getByRole("button", { name: "Resume retention" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Resume" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Close" }).click();
  await pause.waitFor();

  await page.goto(`${url}/#/dead-letters`);
  await page.getByRole("button", { name: /^Retry \d+ malformed/ }).click();
  const retry = page.getByRole("dialog");
  await picture(page, "dashboard-retry");
  await retry.getByRole("button", { name: "Retry" }).click();
  await retry.getByText("Still open:").waitFor();
  await retry.getByRole("button", { name: "Close" }).click();
  assert.deepEqual(page.wrongs, []);
  await leave(page);
});

// withToken is the dashboard as it is outside of the demo: nobody mints tokens.
async function withToken(given) {
  const page = await (await browser.newContext({ locale: "en-GB" })).newPage();
  await page.route(`${url}/`, async (route) => {
    const answer = await route.fetch();
    await route.fulfill({ response: answer, body: (await answer.text()).replace(/<meta name="odometer-sessions"[^>]*>/, "") });
  });
  await page.goto(`${url}/`);
  await page.getByLabel("Access token").fill(given);
  await page.getByRole("button", { name: "Sign in" }).click();
  return page;
}

test("without the demo a token is asked for, and forgotten at the end", async () => {
  const page = await withToken(tokenOf(tenants.acme));
  await page.getByRole("heading", { name: "Usage", level: 1 }).waitFor();
  assert.equal(page.url(), `${url}/`);
  await page.reload();
  await page.getByRole("heading", { name: "Usage", level: 1 }).waitFor();
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByLabel("Access token").waitFor();
  assert.equal(await page.evaluate(() => sessionStorage.length + localStorage.length), 0);
  assert.deepEqual(await axe(page), []);
  await leave(page);
});

test("a token that the service refuses leads back to the form, with what it said", async () => {
  const page = await withToken(tokenOf(tenants.acme, -60));
  const told = page.getByRole("alert");
  await told.getByText(/expired/).waitFor();
  await picture(page, "dashboard-sign-in");
  await page.getByLabel("Access token").fill("nonsense");
  await page.getByRole("button", { name: "Sign in" }).click();
  await told.getByText(/no token/).waitFor();
  await leave(page);
});

test("who may only read finds dead buttons, and why", async () => {
  const page = await withToken(token({ role: "admin", scope: "usage:read" }));
  await page.getByRole("link", { name: "Jobs" }).click();
  const pause = page.getByRole("button", { name: "Pause report" });
  await pause.waitFor();
  assert.ok(await pause.isDisabled());
  await page.getByText("acting needs the scope usage:write").waitFor();
  await leave(page);
});

test("the demo's session is renewed when its token is refused", async () => {
  const page = await visit("jobs");
  await settled(page);
  let refused = 0;
  await page.route("**/api/v1/admin/ledger*", async (route) => {
    if (refused++ > 0) return route.continue();
    await route.fulfill({ status: 401, contentType: "application/problem+json", body: JSON.stringify({ title: "Unauthorized", detail: "The token has expired." }) });
  });
  const renewed = page.waitForResponse(`${url}/demo/sessions`);
  await page.getByRole("link", { name: "Ledger" }).click();
  await renewed;
  await page.getByRole("table").waitFor();
  assert.equal(refused, 2);
  await leave(page);
});

test("a panel that fails takes no other with it, and tries again when it was told to", async () => {
  const page = await visit("events", { as: "Acme" });
  let failed = 0;
  await page.route("**/api/v1/usage/forecast*", async (route) => {
    if (failed++ > 0) return route.continue();
    await route.fulfill({
      status: 503,
      headers: { "Retry-After": "1" },
      contentType: "application/problem+json",
      body: JSON.stringify({ title: "Unavailable", detail: "Usage is not known yet." }),
    });
  });
  await page.getByRole("link", { name: "Usage" }).click();
  const forecast = page.getByRole("region", { name: "Forecast" });
  await forecast.getByText("Usage is not known yet.").waitFor();
  await page.getByRole("region", { name: "History" }).locator(".odometer-chart").waitFor();
  await forecast.locator(".lead").waitFor();
  await leave(page);
});

test("the keyboard alone reaches everything", async () => {
  const page = await visit("tenants");
  await settled(page);
  const focused = () => page.evaluate(() => document.activeElement.textContent.trim());
  await page.keyboard.press("Tab");
  assert.equal(await focused(), "Skip to content");
  await page.keyboard.press("Enter");
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.getAttribute("aria-label")), "Refresh By usage in the running period");
  await page.getByRole("link", { name: /^Acme/ }).focus();
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "Acme", level: 1 }).waitFor();
  assert.equal(await focused(), "Acme");
  await leave(page);
});

test("it is small, and there at once", async () => {
  const page = await visit("");
  await page.waitForFunction(() => performance.getEntriesByName("first-contentful-paint").length > 0); // it is told some time after
  const [paint, script, styles] = await page.evaluate(() => {
    const weight = (name) => performance.getEntriesByType("resource").find((e) => e.name.endsWith(name)).encodedBodySize;
    return [performance.getEntriesByName("first-contentful-paint")[0].startTime, weight("dashboard.js"), weight("dashboard.css")];
  });
  console.log(`dashboard: first contentful paint after ${Math.round(paint)} ms; script ${script} and styles ${styles} bytes, compressed`);
  assert.ok(script < 20_000, `the script is ${script} bytes`);
  await leave(page);
});

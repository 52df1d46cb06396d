// What the widget shows of a customer's usage, state by state.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { customer, read, until } from "./customers.mjs";
import { colour, hold, leave, looks, newHost, rows, widget } from "./host.mjs";
import { tenants, tokenOf } from "./stage.mjs";

let host;
before(async () => { host = await newHost(); });
after(() => host.close());

const row = async (page, agent) => (await rows(page)).find((text) => text.startsWith(`${agent} |`));
const bar = (page, agent) => widget(page).getByRole("progressbar", { name: agent });

describe("the widget", { concurrency: 3 }, () => {
  test("a bar is green, yellow from 80 %, red from 100 % and beyond, and says count, limit and percentage", async () => {
    const { token } = await customer({ inbox: 399, invoice: 40, meeting: 31 });
    const page = await host.shown(token);
    assert.match(await row(page, "Inbox"), /^Inbox \| 399 of 500 \| 79%/);
    assert.match(await row(page, "Invoice"), /^Invoice \| 40 of 50 \| 80%/);
    assert.match(await row(page, "Meeting"), /^Meeting \| 31 of 30 \| 103% · 1 over: \$0\.15$/);
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme });
      const [[r, g, b], [yr, yg, yb], [rr, rg, rb]] = await Promise.all(["inbox", "invoice", "meeting"].map((agent) => colour(page, bar(page, agent))));
      assert.ok(g > 2 * r && g > 1.5 * b, `green: ${[r, g, b]}`);
      assert.ok(yr > 2 * yb && yg > 2 * yb && yr > yg, `yellow: ${[yr, yg, yb]}`);
      assert.ok(rr > 2 * rg && rr > 2 * rb, `red: ${[rr, rg, rb]}`);
    }
    await looks(page, "bars");
    await leave(page);
  });

  test("at exactly 100 % the quota is reached, and nothing is charged", async () => {
    const { token } = await customer({ invoice: 50 });
    const page = await host.shown(token);
    assert.equal(await row(page, "Invoice"), "Invoice | 50 of 50 | 100%");
    await widget(page).getByText("You've reached your invoice quota").waitFor();
    assert.equal((await rows(page)).at(-2), "Estimated Overage | $0.00");
    await looks(page, "exactly");
    await leave(page);
  });

  test("the estimated overage is told by agent and in total, as the API has it", async () => {
    const { token } = await customer({ inbox: 1725, invoice: 1052, meeting: 30 });
    const page = await host.shown(token);
    assert.match(await row(page, "Inbox"), /1,725 of 500 \| 345% · 1,225 over: \$24\.50$/);
    assert.match(await row(page, "Invoice"), /1,052 of 50 \| 2,104% · 1,002 over: \$100\.20$/);
    assert.equal((await rows(page)).at(-2), "Estimated Overage | $124.70");
    await looks(page, "overage");
    await leave(page);
  });

  test("nothing used yet is said in words", async () => {
    const { token } = await customer();
    const page = await host.shown(token);
    await widget(page).getByText("No usage this period yet").waitFor();
    assert.equal(await row(page, "Inbox"), "Inbox | 0 of 500 | 0%");
    await looks(page, "empty");
    await leave(page);
  });

  test("a trial is unlimited: counts without bars, and nothing to pay", async () => {
    const page = await host.shown(tokenOf(tenants.ember));
    assert.match((await rows(page))[0], /^Trial/);
    assert.match(await row(page, "Inbox"), /^Inbox \| [\d,]+ \| unlimited/);
    assert.equal(await widget(page).getByRole("progressbar").count(), 0);
    assert.equal((await rows(page)).at(-2), "Estimated Overage | $0.00");
    await looks(page, "unlimited");
    await leave(page);
  });

  test("what the plan does not include is said, and charged from the first unit", async () => {
    const { token } = await customer({ plan: "price_inboxpilot_monthly", inbox: 100, meeting: 2 });
    const page = await host.shown(token);
    assert.equal(await row(page, "Invoice"), "Invoice | 0 | not included");
    assert.equal(await row(page, "Inbox"), "Inbox | 100 of 500 | 20%");
    assert.match(await row(page, "Meeting"), /^Meeting \| 2 \| not included · 2 over: \$0\.30$/);
    await looks(page, "not-included");
    await leave(page);
  });

  test("the days until the limit are those at the pace so far, where the period does not end before", async () => {
    const { token } = await customer({ inbox: 300, invoice: 5, meeting: 29 });
    const page = await host.shown(token);
    assert.equal(await row(page, "Inbox"), "Inbox | 300 of 500 | 60% · days until limit: 7");
    assert.equal(await row(page, "Invoice"), "Invoice | 5 of 50 | 10%");
    assert.equal(await row(page, "Meeting"), "Meeting | 29 of 30 | 96% · days until limit: 1");
    await looks(page, "days");
    await leave(page);
  });

  test("the last period stands beside this one", async () => {
    const token = tokenOf(tenants.flint);
    const last = await until("Flint's first period has ended", async () => {
      const { periods } = await read("/api/v1/periods?limit=2", token);
      return periods.find((period) => !period.current && period.status === "closed");
    });
    const page = await host.shown(token);
    await widget(page).getByText("last period").first().waitFor();
    for (const [agent, { count }] of Object.entries(last.usage)) {
      const text = (await rows(page)).find((text) => text.toLowerCase().startsWith(agent));
      assert.match(text, new RegExp(`last period ${count.toLocaleString("en-US")}( ·|$)`));
    }
    await looks(page, "last-period");
    await leave(page);
  });

  test("while the first answer is under way it says so", async () => {
    const { token } = await customer({ inbox: 1 });
    const page = await host.open({ attributes: { token } }, { setup: (page) => hold(page, "usage") });
    await page.held;
    assert.deepEqual(await rows(page), ["Loading"]);
    await looks(page, "loading");
    await page.release();
    await widget(page).getByText("1 of 500").waitFor();
    await leave(page);
  });

  test("without a token it says so, and not before the page has had some time to set one", async () => {
    const { token } = await customer({ inbox: 1 });
    const page = await host.open({}, {
      setup: async (page) => {
        await page.clock.install();
        await page.clock.pauseAt(Date.now() + 1000);
      },
    });
    await widget(page).getByText("Loading").waitFor();
    await page.clock.runFor(3000);
    assert.deepEqual(await rows(page), ["Loading"]);
    await page.clock.runFor(3000);
    assert.deepEqual(await rows(page), ["Token missing"]);
    await widget(page).getByRole("status").waitFor();
    await page.clock.resume();
    await looks(page, "no-token");
    await hold(page, "usage");
    await widget(page).evaluate((element, token) => { element.token = token; }, token);
    await page.held;
    assert.deepEqual(await rows(page), ["Loading"]);
    await page.release();
    await widget(page).getByText("1 of 500").waitFor();
    await leave(page);
  });

  for (const [status, says] of [
    ["past_due", "past due"], ["canceled", "canceled"], ["expired", "expired"],
  ]) {
    test(`a subscription that is ${says} is named, and no figure is shown`, async () => {
      const { token } = await customer({ status, inbox: 10 });
      const page = await host.open({ attributes: { token } });
      await widget(page).getByRole("alert").waitFor();
      const all = await rows(page);
      assert.equal(all.length, 1);
      assert.match(all[0], new RegExp(says.replace(" ", ".?")));
      if (status === "past_due") await looks(page, "past-due");
      await leave(page);
    });
  }

  test("a customer without a subscription is told so", async () => {
    const page = await host.open({ attributes: { token: tokenOf(crypto.randomUUID()) } });
    await widget(page).getByRole("alert").waitFor();
    assert.match((await rows(page))[0], /subscription/);
    await looks(page, "no-subscription");
    await leave(page);
  });
});

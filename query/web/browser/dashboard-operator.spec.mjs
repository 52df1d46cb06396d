// What the dashboard shows operators of data that the demo does not have.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { customer } from "./customers.mjs";
import { leave, newDashboard, settled } from "./dashboard.mjs";
import { axe, picture } from "./stage.mjs";

let visit, close;
before(async () => { ({ visit, close } = await newDashboard()); });
after(() => close());

const focused = (page) => page.evaluate(() => document.activeElement.textContent.trim());
const announced = (page, text) => page.waitForFunction((text) => document.getElementById("announcements").textContent === text, text);

test("dead letters go on page by page, by the keyboard and with the filter", async () => {
  const { id, conflict } = await customer();
  await conflict(121);
  const page = await visit(`tenants/${id}/dead-letters?reason=idempotency_conflict`);
  await page.getByText("121 dead letters").waitFor();
  const ids = page.getByRole("table", { name: "Dead letters, newest first" }).locator("td[data-head=Id]");
  const more = page.getByRole("button", { name: "Show more dead letters" });
  assert.equal(await ids.count(), 50);

  await more.press("Enter");
  await announced(page, "50 more dead letters");
  assert.equal(await ids.count(), 100);
  assert.equal(await focused(page), "Show more dead letters");
  await page.keyboard.press("Enter");
  await announced(page, "21 more dead letters: that is all");
  assert.equal(await focused(page), "That is all.");
  assert.equal(await more.count(), 0);

  const all = (await ids.allTextContents()).map((id) => Number(id.split("-")[1]));
  assert.equal(new Set(all).size, 121);
  assert.deepEqual(all, all.toSorted((a, b) => b - a));
  assert.deepEqual([...new Set(await page.locator("td[data-head=Reason] strong").allTextContents())], ["Idempotency conflict"]);
  await ids.last().locator("xpath=..").getByRole("button", { name: "Retry" }).waitFor();
  assert.deepEqual(await axe(page), []);
  await picture(page, "operator-letters");

  await page.getByLabel("Reason", { exact: true }).selectOption("malformed");
  await page.getByText("No dead letter matches the filter.").waitFor();
  assert.deepEqual(page.wrongs, []);
  await leave(page);
});

test("an active tenant without a plan is told apart from one whom nothing limits", async () => {
  const [{ id }, trial] = await Promise.all([customer({ plan: "", inbox: 7 }), customer({ plan: "", status: "trial", inbox: 7 })]);
  const page = await visit(`tenants?search=${id}`);
  await page.getByRole("cell", { name: /^No plan/ }).waitFor();
  await page.getByRole("cell", { name: "7, no plan" }).waitFor();
  assert.equal(await page.getByText("unlimited").count(), 0);
  await picture(page, "operator-no-plan");

  for (const tab of ["", "/periods"]) {
    await page.goto(page.url().replace(/#.*/, `#/tenants/${id}${tab}`));
    await settled(page);
    await page.getByText("No plan", { exact: true }).waitFor();
    await page.getByText("7, no plan").first().waitFor();
    assert.equal(await page.getByText("unlimited").count(), 0, tab);
    assert.deepEqual(await axe(page), []);
    await picture(page, `operator-no-plan${tab.replace("/", "-") || "-tenant"}`);
  }

  await page.goto(page.url().replace(/#.*/, `#/tenants/${trial.id}`));
  await page.getByText("7, unlimited").waitFor();
  assert.equal(await page.getByText("No plan").count(), 0);
  assert.deepEqual(page.wrongs, []);
  await leave(page);
});

test("nothing is foreseen from the first minutes of a period, and it is said why", async () => {
  const [young, older] = await Promise.all([customer({ begun: 0, inbox: 4000 }), customer({ inbox: 4000 })]);
  const page = await visit(`tenants/${young.id}`);
  const forecast = page.getByRole("region", { name: "Forecast" });
  await forecast.getByText("too early to tell").waitFor();
  assert.doesNotMatch(await forecast.textContent(), /\$/);
  assert.deepEqual(await axe(page), []);
  await picture(page, "operator-forecast-early");

  await page.goto(page.url().replace(/#.*/, `#/tenants/${older.id}`));
  await forecast.getByText(/ends with.*of overage/).waitFor();
  assert.deepEqual(page.wrongs, []);
  await leave(page);
});

// large lets the tenants of an answer have used very much.
async function large(route) {
  const answer = await route.fetch();
  const told = await answer.json();
  for (const t of told.tenants) {
    t.total_overage_cost_cents = 123_456_789;
    for (const used of Object.values(t.usage)) used.count += 1_234_000;
  }
  await route.fulfill({ response: answer, json: told });
}

test("large figures fit into the overview and the list of tenants at the usual widths", async () => {
  for (const [width, path] of [[1280, ""], [1256, ""], [1024, ""], [1280, "tenants"], [1024, "tenants"]]) {
    const page = await visit("alerts", { viewport: { width, height: 900 } });
    await page.route("**/api/v1/admin/tenants?*", large);
    await page.goto(page.url().replace(/#.*/, `#/${path}`));
    await page.getByText("1,234,567.89").first().waitFor();
    await settled(page);
    const cut = await page.locator(".panel-body").evaluateAll((all) =>
      all.filter((body) => body.scrollWidth > body.clientWidth).map((body) => body.closest(".panel").querySelector("h2").textContent));
    await picture(page, `operator-large-${path || "overview"}-${width}`);
    assert.deepEqual(cut, [], `${path || "overview"} at ${width}`);
    assert.deepEqual(page.wrongs, []);
    await leave(page);
  }
});

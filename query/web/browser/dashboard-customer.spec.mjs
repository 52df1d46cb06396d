// What the dashboard tells customers, and what is not for them.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { read, until } from "./customers.mjs";
import { leave, newDashboard } from "./dashboard.mjs";
import { tenants, tokenOf } from "./stage.mjs";

let visit, close;
before(async () => { ({ visit, close } = await newDashboard()); });
after(() => close());

test("the history names no period whose count it does not show, and tells since when it is", async () => {
  const page = await visit("events", { as: "Acme" });
  const answered = page.waitForResponse((r) => r.url().includes("/usage/history?") && r.url().includes("window=day"));
  await page.getByRole("link", { name: "Usage" }).click();
  const history = page.getByRole("region", { name: "History" });
  const note = history.getByText(/^Whole days since/);
  const { buckets } = await (await answered).json();
  assert.equal(await note.locator("time").getAttribute("datetime"), buckets[0].start);
  assert.equal(await history.getByText("This period").count(), 0);

  await history.getByLabel("In", { exact: true }).selectOption("hour");
  await history.getByText(/^Whole hours since/).waitFor();
  await history.getByLabel("Range").selectOption("7d");
  await history.getByText(/^Whole/).waitFor({ state: "detached" });
  assert.deepEqual(page.wrongs, []);
  await leave(page);
});

test("whether operators were told of an alert is shown to operators only", async () => {
  const delivered = (page) => page.getByRole("region", { name: "Alerts raised" }).getByRole("columnheader", { name: "Delivered" });
  await until("an alert is raised", async () => (await read("/api/v1/alerts", tokenOf(tenants.acme))).raised.length > 0);
  const customers = await visit("", { as: "Acme" });
  await customers.getByRole("columnheader", { name: "Raised" }).waitFor();
  assert.equal(await delivered(customers).count(), 0);
  await leave(customers);

  const operators = await visit(`tenants/${tenants.acme}`);
  await delivered(operators).waitFor();
  await leave(operators);
});

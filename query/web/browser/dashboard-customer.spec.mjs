// What the dashboard tells customers, and what is not for them.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { read, until } from "./customers.mjs";
import { leave, newDashboard } from "./dashboard.mjs";
import { axe, picture, tenants, tokenOf } from "./stage.mjs";

let visit, close;
before(async () => { ({ visit, close } = await newDashboard()); });
after(() => close());

const headings = (page) => page.locator("main h2:visible").allTextContents();

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

test("a customer who is refused is told so once, and sees the rest when that is over", async () => {
  const page = await visit("", { as: "Dune" });
  await page.clock.install();
  await page.reload();
  const told = page.getByText("The subscription's status is past_due");
  await told.waitFor();
  await page.waitForFunction(() => !document.querySelector("[aria-busy]"));
  assert.equal(await told.count(), 1);
  assert.deepEqual(await headings(page), []);
  assert.deepEqual(await axe(page), []);
  await picture(page, "customer-past-due");

  await page.route("**/api/v1/alerts*", (route) => route.fulfill({ json: { as_of: new Date().toISOString(), raised: [] } }));
  await page.clock.runFor(31_000);
  await page.getByRole("heading", { name: "Alerts raised" }).waitFor();
  assert.deepEqual(await headings(page), ["Alerts raised"]);
  await leave(page);

  for (const path of ["events", "periods"]) {
    const other = await visit(path, { as: "Dune" });
    await other.getByText("The subscription's status is past_due").waitFor();
    await leave(other);
  }
});

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { launch, picture, url } from "./stage.mjs";

let browser;
before(async () => { browser = await launch(); });
after(() => browser.close());

test("the documentation lists the operations and asks no other host", async () => {
  const page = await browser.newPage();
  const elsewhere = [];
  const errors = [];
  page.on("request", (r) => { if (!r.url().startsWith(url) && !/^(data|blob):/.test(r.url())) elsewhere.push(r.url()); });
  page.on("pageerror", (e) => errors.push(String(e)));
  page.on("console", (m) => { if (m.type() === "error") errors.push(m.text()); });
  await page.goto(url + "/docs");
  await page.getByText("/api/v1/usage", { exact: true }).first().waitFor();
  await picture(page, "docs");
  assert.deepEqual(elsewhere, []);
  assert.deepEqual(errors, []);
  await page.close();
});

// The history that the widget draws when somebody asks for it.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { customer, read } from "./customers.mjs";
import { fits, leave, looks, newHost, widget } from "./host.mjs";
import { url } from "./stage.mjs";

let host;
before(async () => { host = await newHost(); });
after(() => host.close());

const history = (page) => widget(page).getByRole("button", { name: "History" });
const chart = (page) => widget(page).locator(".odometer-chart");
const script = `${url}/odometer-chart.js`;

// opened presses History and returns what was asked for it.
async function opened(page) {
  const [request] = await Promise.all([page.waitForRequest(`${url}/api/v1/usage/history?**`), history(page).click()]);
  await chart(page).waitFor();
  return request;
}

// cells are the chart's hidden table.
const cells = (page) =>
  chart(page).locator("table").evaluate((table) => [...table.rows].map((row) => [...row.cells].map((cell) => cell.textContent)));

// drawn is how much of the canvas has the colour, from 0 to 1.
const drawn = (page, colour) =>
  chart(page).locator("canvas").evaluate((canvas, colour) => {
    const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
    copy.drawImage(canvas, 0, 0);
    const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
    let found = 0;
    for (let i = 0; i < data.length; i += 4) if (colour.every((part, j) => Math.abs(data[i + j] - part) < 3)) found++;
    return (4 * found) / data.length;
  }, colour);

describe("the widget's history", { concurrency: 3 }, () => {
  test("is loaded when it is asked for and not before, and adds up to the API's", async () => {
    const { token, use } = await customer({ inbox: 120, meeting: 3 });
    await use({ inbox: 80, invoice: 12 }, 2);
    await use({ inbox: 1040 }, 5);
    const loaded = [];
    const page = await host.shown(token, {}, { setup: (page) => page.on("request", (request) => loaded.push(request.url())) });
    assert.ok(!loaded.includes(script), "the chart was loaded before it was asked for");
    const request = await opened(page);
    assert.ok(loaded.includes(script));

    const { pathname, search } = new URL(request.url());
    const { buckets } = await read(pathname + search, token);
    const [[, ...names], ...days] = await cells(page);
    assert.deepEqual([...names].sort(), ["Inbox", "Invoice", "Meeting"]);
    assert.equal(days.length, 30);
    assert.equal(buckets.length, 30);
    const told = days.map(([, ...quantities]) => Object.fromEntries(quantities.map((n, i) => [names[i].toLowerCase(), Number(n.replaceAll(",", ""))])));
    assert.deepEqual(told, buckets.map(({ groups }) => ({
      inbox: 0, invoice: 0, meeting: 0, ...Object.fromEntries(groups.map(({ agent, quantity }) => [agent, quantity])),
    })));
    assert.match(await chart(page).locator("figcaption").textContent(), /Inbox 1,240.*/);
    await looks(page, "history");
    await leave(page);
  });

  test("is drawn in colours that the page may choose, and again when its width or the colour scheme changes", async () => {
    const { token } = await customer({ inbox: 50 });
    const css = "odometer-usage { --odometer-series-1: rgb(250, 0, 250) }";
    const page = await host.shown(token, { css });
    await opened(page);
    const violet = [250, 0, 250];
    const before = await drawn(page, violet);
    assert.ok(before > 0.005, `${before} of the plot is bars`);
    const canvas = chart(page).locator("canvas");
    const width = (await canvas.boundingBox()).width;
    await page.setViewportSize({ width: 400, height: 640 });
    await page.waitForFunction(([was]) => {
      const panel = document.querySelector("odometer-usage").shadowRoot.querySelector("section section").shadowRoot;
      return panel.querySelector("canvas").clientWidth < was;
    }, [width]);
    await fits(page);
    await page.emulateMedia({ colorScheme: "dark" });
    assert.ok((await drawn(page, violet)) > 0.005);
    await leave(page);
  });

  test("is opened and closed by the keyboard, says which it is, and stays open while the figures change", async () => {
    const { token, use } = await customer({ inbox: 50 });
    const page = await host.shown(token, {}, { setup: (page) => page.clock.install() });
    await history(page).press("Enter");
    await chart(page).waitFor();
    assert.equal(await history(page).getAttribute("aria-expanded"), "true");
    await widget(page).getByRole("table", { name: "Usage by day, the last 30 days" }).waitFor({ state: "attached" });
    await use({ inbox: 1 });
    await page.clock.fastForward(31_000);
    await widget(page).getByText("51 of 500").waitFor();
    await chart(page).waitFor();
    await history(page).press("Space");
    await chart(page).waitFor({ state: "detached" });
    assert.equal(await history(page).getAttribute("aria-expanded"), "false");
    await leave(page);
  });

  test("keeps up with the figures, also after an answer that did not come, and asks for nothing while they stand still", async () => {
    const { token, use } = await customer({ inbox: 50 });
    const page = await host.shown(token, {}, { setup: (page) => page.clock.install() });
    await opened(page);
    const sum = (n) => chart(page).locator("figcaption").getByText(`Inbox ${n}`).waitFor();
    await sum(50);
    let asked = 0;
    await page.route(`${url}/api/v1/usage/history?**`, (route) => (++asked == 2 ? route.abort() : route.continue()));
    await use({ inbox: 7 });
    await page.clock.fastForward(31_000);
    await sum(57);
    assert.equal((await cells(page)).at(-1)[1], "57");

    await Promise.all([page.waitForResponse(`${url}/api/v1/usage`), page.clock.fastForward(31_000)]);
    await use({ inbox: 3 });
    assert.equal(asked, 1);

    await Promise.all([page.waitForEvent("requestfailed"), page.clock.fastForward(31_000)]);
    await widget(page).getByText("60 of 500").waitFor();
    await sum(57);
    await page.clock.fastForward(31_000);
    await sum(60);
    await leave(page);
  });

  test("of nothing is an empty chart, in the page's language", async () => {
    const { token } = await customer();
    const page = await host.shown(token, { lang: "de" });
    await opened(page);
    const [, [first]] = await cells(page);
    assert.match(first, /^\d{1,2}\. (Jan|Feb|März|Apr|Mai|Juni|Juli|Aug|Sept|Okt|Nov|Dez)/);
    await looks(page, "history-empty");
    await leave(page);
  });

  test("that cannot be had is said to be so, and is tried again at the next press", async () => {
    const { token } = await customer({ inbox: 5 });
    const page = await host.shown(token);
    await page.route(script, (route) => route.abort(), { times: 1 });
    await history(page).click();
    await widget(page).getByText("unavailable").waitFor();
    await page.reload();
    await page.route(`${url}/api/v1/usage/history?**`, (route) => route.abort(), { times: 1 });
    await history(page).click();
    await widget(page).getByRole("alert").getByText("History unavailable").waitFor();
    await looks(page, "history-unavailable");
    await history(page).click();
    await opened(page);
    assert.equal(await widget(page).getByText("unavailable").count(), 0);
    await leave(page);
  });
});

// Who the widget is for: readers of other languages and directions, those who
// use a keyboard, a screen reader, a magnifier or few colours; and pages that
// give it their own look.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { customer } from "./customers.mjs";
import { colour, fits, leave, newHost, rows, widget } from "./host.mjs";
import { axe, picture, url } from "./stage.mjs";

let host;
before(async () => { host = await newHost(); });
after(() => host.close());

const used = { inbox: 1725, invoice: 40, meeting: 12 };
const dismiss = (page) => widget(page).getByRole("button", { name: "Dismiss" });
const history = (page) => widget(page).getByRole("button", { name: "History" });
const bar = (page, agent) => widget(page).getByRole("progressbar", { name: agent });

// focused is the text of what has the focus within the widget, "" for nothing.
const focused = (page) => widget(page).evaluate((element) => element.shadowRoot.activeElement?.textContent ?? "");

describe("the widget", { concurrency: 3 }, () => {
  test("a banner is dismissed with the keyboard, stays away, and is back on the next visit while still true", async () => {
    const { token, use } = await customer({ inbox: 450, invoice: 10_040 });
    const page = await host.shown(token, {}, { setup: (page) => page.clock.install() });
    assert.equal(await dismiss(page).count(), 2);
    await dismiss(page).first().press("Enter");
    assert.equal(await dismiss(page).count(), 1);
    assert.equal(await focused(page), "History");
    await widget(page).getByText("Extra charges: $999.00").waitFor();
    await dismiss(page).press("Space");
    assert.equal(await dismiss(page).count(), 0);
    await use({ inbox: 10, invoice: 20 });
    await page.clock.fastForward(31_000);
    await widget(page).getByText("460 of 500").waitFor();
    assert.match((await rows(page)).join(), /1,001\.00/);
    assert.equal(await dismiss(page).count(), 0);

    await page.reload();
    await dismiss(page).nth(1).waitFor();
    await dismiss(page).first().press("Enter");
    await use({ inbox: 50 });
    await page.clock.fastForward(31_000);
    await widget(page).getByText("510 of 500").waitFor();
    assert.deepEqual(await widget(page).locator("output").evaluateAll((all) => all.map((one) => one.firstChild.data)), [
      "You've exceeded your email quota. Extra charges: $0.20",
      "You've exceeded your invoice quota. Extra charges: $1001.00",
    ]);
    await leave(page);
  });

  test("the keyboard reaches every button in order, shows where it is, and stays there while the figures change", async () => {
    let invoices = 40;
    const { token, use } = await customer({ inbox: 450, invoice: invoices });
    const page = await host.shown(token, {}, { setup: (page) => page.clock.install() });
    const order = [];
    for (let i = 0; i < 3; i++) {
      await page.keyboard.press("Tab");
      order.push(await focused(page));
    }
    assert.deepEqual(order, ["Dismiss", "Dismiss", "History"]);
    const outline = await history(page).evaluate((button) => getComputedStyle(button).outlineStyle);
    assert.notEqual(outline, "none");
    await picture(page, "widget-focus");

    for (const button of [history(page), dismiss(page).nth(1)]) {
      await button.focus();
      const was = await focused(page);
      await use({ invoice: 1 });
      await page.clock.fastForward(31_000);
      await widget(page).getByText(`${++invoices} of 50`).waitFor();
      assert.equal(await focused(page), was);
    }
    await widget(page).getByText("You've used 84% of your invoice quota this month").waitFor();
    await leave(page);
  });

  test("a screen reader is told what is seen: banners as status, bars with name and value, all of it as text", async () => {
    const { token } = await customer({ inbox: 450, meeting: 6 });
    const page = await host.shown(token);
    assert.equal(await widget(page).ariaSnapshot(), snapshot.trim());
    const values = await widget(page).getByRole("progressbar").evaluateAll((bars) => bars.map((bar) => [bar.ariaLabel, bar.value, bar.max]));
    assert.deepEqual(values, [["inbox", 0.9, 1], ["invoice", 0, 1], ["meeting", 0.2, 1]]);
    await leave(page);
  });

  test("nothing is read out again while nothing changes", async () => {
    const { token } = await customer({ inbox: 450 });
    const page = await host.shown(token, {}, { setup: (page) => page.clock.install() });
    await widget(page).evaluate((element) => {
      window.changes = 0;
      new MutationObserver((all) => { window.changes += all.length; }).observe(element.shadowRoot, { subtree: true, childList: true, characterData: true, attributes: true });
    });
    await Promise.all([page.waitForResponse(`${url}/api/v1/usage`), page.clock.fastForward(31_000)]);
    await Promise.all([page.waitForResponse(`${url}/api/v1/usage`), page.clock.fastForward(31_000)]);
    assert.equal(await page.evaluate(() => window.changes), 0);
    await leave(page);
  });

  test("numbers, percentages and money are written in the page's language", async () => {
    const { token } = await customer(used);
    const page = await host.shown(token, { lang: "de" });
    const all = (await rows(page)).join("\n").replaceAll("\u00a0", " ");
    assert.match(all, /1\.725 of 500 \| 345 % · 1\.225 over: 24,50 \$/);
    await picture(page, "widget-german");
    await leave(page);

    const odd = await host.shown(token, { lang: "no_such language" }, { locale: "en-GB" });
    assert.match((await rows(odd)).join("\n"), /1,725 of 500/);
    await leave(odd);
  });

  test("from right to left it keeps to its width, and figures keep their order", async () => {
    const { token } = await customer(used);
    const page = await host.shown(token, { dir: "rtl", lang: "he" });
    await picture(page, "widget-rtl");
    await fits(page);
    const [x, y] = await widget(page).evaluate((element) => {
      const text = [...element.shadowRoot.querySelectorAll("div")].find((row) => row.textContent.startsWith("invoice")).childNodes[1];
      const range = document.createRange();
      const left = (at) => (range.setStart(text, at), range.setEnd(text, at + 1), range.getBoundingClientRect().left);
      return [left(0), left(text.data.length - 1)];
    });
    assert.ok(x < y, "40 of 50 is read from left to right");
    await leave(page);
  });

  test("at twice the size nothing is cut off, by zoom or by the font alone", async () => {
    const { token } = await customer(used);
    const zoomed = await host.shown(token, {}, { viewport: { width: 320, height: 360 }, deviceScaleFactor: 2 });
    await picture(zoomed, "widget-zoom");
    await fits(zoomed);
    await leave(zoomed);
    const large = await host.shown(token, { css: ":root { font-size: 200% }" }, { viewport: { width: 640, height: 640 } });
    await picture(large, "widget-large-font");
    await fits(large);
    const cut = await widget(large).evaluate((element) => [...element.shadowRoot.querySelectorAll("*")].filter((e) => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display !== "inline").length);
    assert.equal(cut, 0);
    await leave(large);
  });

  test("with the system's few colours bars can still be told from their tracks", async () => {
    const { token } = await customer(used);
    for (const colorScheme of ["light", "dark"]) {
      const page = await host.shown(token, {}, { forcedColors: "active", colorScheme });
      await picture(page, `widget-forced-colors-${colorScheme}`);
      const [full, half] = await Promise.all([colour(page, bar(page, "inbox")), colour(page, bar(page, "meeting"))]);
      assert.notDeepEqual(full, half, "the middle of a full bar is as that of one at 40 %");
      assert.deepEqual(await axe(page), []);
      await leave(page);
    }
  });

  test("nothing moves, whether or not somebody asked for that", async () => {
    const { token } = await customer(used);
    const page = await host.shown(token);
    for (const reducedMotion of ["reduce", "no-preference"]) {
      await page.emulateMedia({ reducedMotion });
      const moving = await widget(page).evaluate((element) => [element, ...element.shadowRoot.querySelectorAll("*")].filter((e) => {
        const style = getComputedStyle(e);
        return style.animationName !== "none" || style.transitionDuration !== "0s";
      }).length);
      assert.equal(moving, 0);
    }
    await leave(page);
  });

  test("the page themes it by custom properties, set on it or above", async () => {
    const { token } = await customer({ inbox: 500, invoice: 40, meeting: 29 });
    const css = `
      main { --odometer-ok: rgb(0, 0, 250); --odometer-warn: rgb(250, 0, 250); --odometer-over: rgb(0, 200, 200) }
      odometer-usage { --odometer-bg: rgb(10, 20, 30); --odometer-fg: rgb(240, 250, 230); border-radius: 3px; padding: 30px }`;
    const page = await host.shown(token, { css });
    await picture(page, "widget-themed");
    assert.deepEqual(await colour(page, bar(page, "inbox")), [0, 200, 200]);
    assert.deepEqual(await colour(page, bar(page, "invoice")), [250, 0, 250]);
    const style = await widget(page).evaluate((element) => {
      const { backgroundColor, color, borderRadius, padding } = getComputedStyle(element);
      return { backgroundColor, color, borderRadius, padding };
    });
    assert.deepEqual(style, { backgroundColor: "rgb(10, 20, 30)", color: "rgb(240, 250, 230)", borderRadius: "3px", padding: "30px" });
    await leave(page);
  });

  test("the page's own rules stop at its border, and its rules at the page's", async () => {
    const { token } = await customer(used);
    const plain = await host.shown(token);
    const wanted = await boxes(plain);
    await leave(plain);
    const css = "div, output, section, b, small, progress, button, i { display: none !important; margin: 50px !important; font-size: 40px !important; background: red !important }";
    const page = await host.shown(token, { css, body: '<div class="error">ours</div><output>ours</output>' });
    assert.deepEqual(await boxes(page), wanted);
    assert.equal(await page.locator("main > div").evaluate((div) => getComputedStyle(div).display), "none");
    await leave(page);
  });
});

// boxes are the places of all that is in the widget, from its own corner.
const boxes = (page) =>
  widget(page).evaluate((element) => {
    const corner = element.getBoundingClientRect();
    return [...element.shadowRoot.querySelectorAll("*")].map((e) => {
      const box = e.getBoundingClientRect();
      return [e.localName, Math.round(box.x - corner.x), Math.round(box.y - corner.y), Math.round(box.width), Math.round(box.height)].join(" ");
    });
  });

const snapshot = `
- text: FounderPilot Bundle
- status:
  - text: You've used 90% of your email quota this month
  - button "Dismiss"
- text: inbox 450 of 500
- progressbar "inbox"
- text: "90% · days until limit: 2 invoice 0 of 50"
- progressbar "invoice"
- text: 0% meeting 6 of 30
- progressbar "meeting"
- text: 20% Estimated overage $0.00
- button "History"
`;

// How the widget keeps up: with usage, with tabs nobody sees, with limits, with
// networks that fail and tokens that expire. The pages' clocks are moved by
// hand; the service's is the real one.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { customer, until } from "./customers.mjs";
import { hold, html, leave, looks, newHost, rows, text, visit, widget } from "./host.mjs";
import { desk, tokenOf, url } from "./stage.mjs";

let host;
before(async () => { host = await newHost(); });
after(() => host.close());

// counted is a page whose clock is ours, and which counts what the widget asks
// of GET /api/v1/usage.
const counted = async (page) => {
  await page.clock.install();
  await page.addInitScript(() => {
    window.asked = 0;
    const real = window.fetch;
    window.fetch = (to, ...rest) => {
      if (new URL(to).pathname === "/api/v1/usage") {
        window.asked++;
        window.askedAt = Date.now();
      }
      return real(to, ...rest);
    };
  });
};
const asked = (page) => page.evaluate(() => window.asked);
const seconds = (page, n) => page.clock.fastForward(n * 1000);
// halt stops the page's clock, so that it does not matter how slow the machine is.
const halt = (page) => page.clock.pauseAt(Date.now() + 1000);
// sinceAsked stops the page's clock so many seconds after it asked last, however
// long the machine has taken since.
const sinceAsked = async (page, n) => page.clock.pauseAt((await page.evaluate(() => window.askedAt)) + n * 1000);

// answered does something and waits for the answer that the widget gets.
const answered = async (page, act) => {
  const [answer] = await Promise.all([page.waitForResponse(`${url}/api/v1/usage`), act()]);
  await answer.finished();
  return answer;
};

// wire notes the statuses of GET /api/v1/usage as they come over the network:
// to a page, the browser's cache answers 304 with what it has.
async function wire(page) {
  const network = await page.context().newCDPSession(page);
  const ids = new Set();
  const all = [];
  network.on("Network.requestWillBeSent", ({ requestId, request }) => {
    if (request.url === `${url}/api/v1/usage` && request.method === "GET") ids.add(requestId);
  });
  network.on("Network.responseReceivedExtraInfo", ({ requestId, statusCode }) => all.push({ requestId, statusCode }));
  await network.send("Network.enable");
  return () => all.filter(({ requestId }) => ids.has(requestId)).map(({ statusCode }) => statusCode);
}

describe("the widget", { concurrency: 3 }, () => {
  test("it asks again after 30 seconds, not before, and not at all in a tab that nobody sees", async () => {
    const { token, use } = await customer({ inbox: 10 });
    const { tabs, close } = await desk();
    try {
      const page = await visit(tabs.pages()[0], host.site.put(html({ attributes: { token } })), counted);
      await widget(page).getByText("10 of 500").waitFor();
      await sinceAsked(page, 29);
      assert.equal(await asked(page), 1);
      await use({ inbox: 5 });
      await sinceAsked(page, 32);
      await widget(page).getByText("15 of 500").waitFor();
      assert.equal(await asked(page), 2);

      const other = await tabs.newPage();
      await other.bringToFront();
      await until("the first tab is hidden", () => page.evaluate(() => document.hidden));
      await use({ inbox: 5 });
      await seconds(page, 31);
      await seconds(page, 3600);
      assert.equal(await asked(page), 2);

      await page.bringToFront();
      await widget(page).getByText("20 of 500").waitFor();
      assert.equal(await asked(page), 3);
      assert.deepEqual(page.wrongs, []);
    } finally {
      await close();
    }
  });

  test("an unchanged answer is a 304 on the wire, and moves the time that the figures are of", async () => {
    const { token } = await customer({ inbox: 10 });
    let statuses;
    const page = await host.shown(token, {}, {
      setup: async (page) => {
        statuses = await wire(page);
        await counted(page);
      },
    });
    await answered(page, () => seconds(page, 31));
    await answered(page, () => seconds(page, 31));
    await until("three answers are there", () => statuses().length === 3);
    assert.deepEqual(statuses(), [200, 304, 304]);
    await widget(page).getByText("10 of 500").waitFor();
    assert.doesNotMatch(await text(page), /As of/);
    await leave(page);
  });

  test("over the limit of requests it keeps the last figures and waits as long as Retry-After says", async () => {
    const { token } = await customer({ inbox: 10 });
    const page = await host.shown(token, {}, { setup: counted });
    await halt(page);
    const more = () => fetch(`${url}/api/v1/usage`, { headers: { Authorization: `Bearer ${token}` } });
    await Promise.all(Array.from({ length: 9 }, more));
    const refused = await answered(page, () => seconds(page, 31));
    assert.equal(refused.status(), 429);
    const wait = Number(await refused.headerValue("Retry-After"));
    assert.ok(wait > 30 && wait <= 60, `Retry-After ${wait}`);
    await widget(page).getByText("10 of 500").waitFor();
    assert.equal(await widget(page).getByRole("alert").count(), 0);

    await seconds(page, wait - 1);
    assert.equal(await asked(page), 2);
    await answered(page, () => seconds(page, 2));
    assert.equal(await asked(page), 3);
    await leave(page);
  });

  test("without a network it says so, and Retry works when the network is back", async () => {
    const { token } = await customer({ inbox: 10 });
    const page = await host.open({});
    await page.waitForFunction(() => customElements.get("odometer-usage"));
    await page.context().setOffline(true);
    await widget(page).evaluate((element, token) => { element.token = token; }, token);
    const retry = widget(page).getByRole("alert").getByRole("button", { name: "Retry" });
    await retry.waitFor();
    assert.deepEqual(await rows(page), ["Usage unavailable | Retry"]);
    await looks(page, "unreachable");
    await Promise.all([page.waitForEvent("requestfailed"), retry.click()]);
    await retry.waitFor();
    await page.context().setOffline(false);
    await retry.press("Enter");
    await widget(page).getByText("10 of 500").waitFor();
    assert.equal(await widget(page).getByRole("alert").count(), 0);
    await leave(page);
  });

  test("a network that fails for a moment goes unnoticed; after two minutes the figures are dated, and Retry is there", async () => {
    const { token, use } = await customer({ inbox: 10 });
    const page = await host.shown(token, {}, { setup: counted });
    await page.context().setOffline(true);
    await Promise.all([page.waitForEvent("requestfailed"), seconds(page, 31)]);
    await seconds(page, 1);
    assert.doesNotMatch(await text(page), /As of|Retry/);
    await Promise.all([page.waitForEvent("requestfailed"), seconds(page, 120)]);
    await widget(page).getByRole("button", { name: "Retry" }).waitFor();
    assert.match((await rows(page)).join("\n"), /Usage unavailable[^]*As of [^]*Inbox \| 10 of 500/);
    await looks(page, "stale");
    await use({ inbox: 1 });
    await page.context().setOffline(false);
    await widget(page).getByRole("button", { name: "Retry" }).click();
    await seconds(page, 2);
    await widget(page).getByText("11 of 500").waitFor();
    assert.equal(await widget(page).getByRole("alert").count(), 0);
    await leave(page);
  });

  test("an answer that is cut off goes unnoticed", async () => {
    const { token } = await customer({ inbox: 10 });
    const page = await host.shown(token, {}, { setup: counted });
    const was = await text(page);
    await page.route(`${url}/api/v1/usage`, (route) => route.fulfill({ status: 200, contentType: "application/json", body: `{"usage":` }));
    await answered(page, () => seconds(page, 31));
    await seconds(page, 2);
    assert.equal(await text(page), was);
    await leave(page);
  });

  test("an expired token is told to the page once, and the widget waits for another one", async () => {
    const { id, token } = await customer({ inbox: 10 });
    const page = await host.open({ attributes: { token: tokenOf(id, -120) } }, {
      setup: async (page) => {
        await counted(page);
        await page.addInitScript(() => {
          window.expired = 0;
          document.addEventListener("odometer-token-expired", () => window.expired++);
        });
      },
    });
    await widget(page).getByRole("alert").getByText("Session expired").waitFor();
    await looks(page, "expired");
    await seconds(page, 3600);
    await seconds(page, 2);
    assert.equal(await asked(page), 1);
    assert.equal(await page.evaluate(() => window.expired), 1);
    await widget(page).evaluate((element, token) => element.setAttribute("token", token), token);
    await seconds(page, 2);
    await widget(page).getByText("10 of 500").waitFor();
    assert.equal(await widget(page).getByRole("alert").count(), 0);
    await leave(page);
  });

  test("a token that expires meanwhile is replaced by one call of getToken, and nobody notices", async () => {
    const { id } = await customer({ inbox: 10 });
    let given;
    const page = await host.open({ body: callback }, {
      setup: async (page) => {
        await counted(page);
        // The service allows for clocks that differ by 30 seconds, so this one lasts 5.
        await page.exposeFunction("mint", () => (given = tokenOf(id, given ? 3600 : -25)));
      },
    });
    await widget(page).getByText("10 of 500").waitFor();
    const first = given;
    assert.deepEqual(await page.evaluate(() => [window.called, window.expired]), [1, 0]);
    await until("the token has expired", async () => (await fetch(`${url}/api/v1/alerts`, { headers: { Authorization: `Bearer ${first}` } })).status === 401);
    await answered(page, () => seconds(page, 31));
    await until("there is another token", () => given !== first);
    await page.waitForFunction(() => window.asked === 3); // refused once, then answered
    await widget(page).getByText("10 of 500").waitFor();
    assert.deepEqual(await page.evaluate(() => [window.called, window.expired]), [2, 0]);
    assert.equal(await widget(page).getByRole("alert").count(), 0);
    await leave(page);
  });

  test("a callback that gives nothing good is asked once, and once more by Retry", async () => {
    const { id, token: good } = await customer({ inbox: 10 });
    let given = tokenOf(id, -120);
    const page = await host.open({ body: callback, attributes: { token: tokenOf(id, -300) } }, {
      setup: async (page) => {
        await counted(page);
        await page.exposeFunction("mint", () => given);
      },
    });
    await widget(page).getByText("Session expired").waitFor();
    await seconds(page, 3600);
    assert.deepEqual(await page.evaluate(() => [window.called, window.expired]), [1, 1]);
    given = good;
    await widget(page).getByRole("button", { name: "Retry" }).click();
    await seconds(page, 2);
    await widget(page).getByText("10 of 500").waitFor();
    assert.deepEqual(await page.evaluate(() => [window.called, window.expired]), [2, 1]);
    await leave(page);
  });

  test("a callback that fails is asked again later: the session has not expired", async () => {
    const { token } = await customer({ inbox: 10 });
    const page = await host.open({ body: callback }, {
      setup: async (page) => {
        await counted(page);
        let failed = false;
        await page.exposeFunction("mint", () => {
          if (failed) return token;
          failed = true;
          throw new Error("the page's own server is away");
        });
      },
    });
    await widget(page).getByText("Usage unavailable").waitFor();
    assert.equal(await page.evaluate(() => window.expired), 0);
    await answered(page, () => seconds(page, 31));
    await widget(page).getByText("10 of 500").waitFor();
    assert.deepEqual(await page.evaluate(() => [window.called, window.expired]), [2, 0]);
    await leave(page);
  });

  test("with another tenant's token nothing of the first remains, nor of anybody without one", async () => {
    const first = await customer({ inbox: 444, invoice: 44 });
    const second = await customer({ plan: "price_meetingpilot_monthly", meeting: 2 });
    const page = await host.shown(first.token);
    await widget(page).getByRole("button", { name: "History" }).click();
    await widget(page).locator(".odometer-chart").waitFor();
    await widget(page).getByRole("button", { name: "Dismiss" }).first().click();

    await hold(page, "usage");
    await widget(page).evaluate((element, token) => element.setAttribute("token", token), second.token);
    await page.held;
    assert.deepEqual(await rows(page), ["Loading"]);
    assert.equal(await widget(page).locator(".odometer-chart").count(), 0);
    await page.release();
    await widget(page).getByText("MeetingPilot").waitFor();
    assert.doesNotMatch(await text(page), /44/);
    assert.equal(await widget(page).locator(".odometer-chart").count(), 0);
    const history = widget(page).getByRole("button", { name: "History" });
    await history.click();
    await widget(page).locator(".odometer-chart").waitFor();
    assert.doesNotMatch(await widget(page).locator(".odometer-chart").textContent(), /44|Inbox/);

    await widget(page).evaluate((element) => element.removeAttribute("token"));
    await widget(page).getByText("Token missing").waitFor();
    assert.deepEqual(await rows(page), ["Token missing"]);
    await leave(page);
  });
});

// callback has the page's getToken call the spec, and count what happens.
const callback = `<script type="module">
  window.called = window.expired = 0;
  const widget = document.querySelector("odometer-usage");
  widget.getToken = () => (window.called++, window.mint());
  widget.addEventListener("odometer-token-expired", () => window.expired++);
</script>`;

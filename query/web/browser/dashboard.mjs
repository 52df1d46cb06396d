// A page of the dashboard, and how the specs look at it.
import { launch, url } from "./stage.mjs";

// newDashboard starts a browser for the dashboard's pages.
export async function newDashboard() {
  const browser = await launch();

  // visit opens a page as one of the demo's sessions, and keeps what must not
  // happen on it.
  const visit = async (path, { as = "Operator", ...options } = {}) => {
    const context = await browser.newContext({ locale: "en-GB", timezoneId: "Europe/Berlin", ...options });
    const page = await context.newPage();
    page.wrongs = [];
    page.on("request", (r) => { if (!r.url().startsWith(url) && !/^(data|blob):/.test(r.url())) page.wrongs.push(r.url()); });
    page.on("response", (r) => { if (r.status() === 400) page.wrongs.push(`400 ${r.url()}`); }); // a parameter that there is not
    page.on("pageerror", (e) => page.wrongs.push(String(e)));
    await page.addInitScript((name) => sessionStorage.setItem("odometer-session", name), as);
    await page.goto(`${url}/#/${path}`);
    await page.locator("main h1").waitFor();
    return page;
  };
  return { browser, visit, close: () => browser.close() };
}

// settled waits until every panel shows what it has to show.
export const settled = (page) => page.waitForFunction(() => document.querySelector("main .panel") && !document.querySelector(".skeleton"));

export const leave = (page) => page.context().close();

// A customer's page with the widget in it, and how the specs look at it.
import assert from "node:assert/strict";
import { axe, embed, launch, picture, url } from "./stage.mjs";

// html is a page of another origin with nothing of ours but the script and the
// element. Attributes are the element's; css is the page's own.
export const html = ({ attributes = {}, css = "", body = "", lang = "en", dir = "ltr" } = {}) => {
  const written = Object.entries(attributes).map(([name, value]) => ` ${name}="${value}"`).join("");
  return `<!doctype html>
<html lang="${lang}" dir="${dir}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>A customer's page</title>
<style>
  :root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif; }
  main { max-width: 40rem; margin: auto; }
  ${css}
</style>
<script type="module" src="${url}/odometer-usage.js"></script>
<main><h1>Your account</h1>${body}<odometer-usage${written}></odometer-usage></main>
</html>`;
};

// newHost starts a browser, and another origin for its pages.
export async function newHost() {
  const [browser, site] = await Promise.all([launch(), embed()]);

  const tab = async (options) =>
    (await browser.newContext({ locale: "en-US", timezoneId: "UTC", viewport: { width: 720, height: 640 }, ...options })).newPage();

  // open shows a page in a tab of a context of its own. setup is done before it
  // loads.
  const open = async (page, { setup, headers, ...options } = {}) =>
    visit(await tab(options), site.put(html(page), headers), setup);

  // shown waits until the usage of the token's tenant is there.
  const shown = async (token, page = {}, options = {}) => {
    const opened = await open({ ...page, attributes: { token, ...page.attributes } }, options);
    await widget(opened).getByText("Estimated overage").waitFor();
    return opened;
  };
  const close = async () => {
    await browser.close();
    site.close();
  };
  return { site, tab, open, shown, close };
}

// visit goes to an address. What goes wrong there is kept in the tab's wrongs.
export async function visit(tab, address, setup) {
  watch(tab, new URL(address).origin);
  await setup?.(tab);
  await tab.goto(address);
  return tab;
}

// What is nobody's failure: the browser tells of each refused answer.
const refusal = /^Failed to load resource: (the server responded with a status of 4\d\d|net::ERR_(FAILED|INTERNET_DISCONNECTED))/;

function watch(page, home) {
  page.wrongs = [];
  page.on("pageerror", (error) => page.wrongs.push(String(error)));
  page.on("console", (said) => {
    if (["error", "warning"].includes(said.type()) && !refusal.test(said.text())) page.wrongs.push(said.text());
  });
  page.on("request", (request) => {
    const { origin, protocol } = new URL(request.url());
    if (![url, home].includes(origin) && !["data:", "blob:"].includes(protocol)) page.wrongs.push(request.url());
  });
}

export async function leave(page) {
  assert.deepEqual(page.wrongs, []);
  await page.context().close();
}

export const widget = (page) => page.locator("odometer-usage");

// rows are what stands in the widget, line by line, as it is read.
export const rows = (page) =>
  widget(page).evaluate((host) => [...host.shadowRoot.children].map((row) => row.innerText.split("\n").filter(Boolean).join(" | ")));

// text is all that the widget holds, shown or not.
export const text = (page) => widget(page).evaluate((host) => host.shadowRoot.textContent);

// looks keeps pictures of a state in both colour schemes and on a narrow
// screen, and holds it to the rules of accessibility and to its width.
export async function looks(page, name) {
  const size = page.viewportSize();
  for (const colorScheme of ["dark", "light"]) {
    await page.emulateMedia({ colorScheme });
    await picture(page, `widget-${name}-${colorScheme}`);
    assert.deepEqual(await axe(page), [], `${name}, ${colorScheme}`);
  }
  await page.setViewportSize({ width: 320, height: 640 });
  await picture(page, `widget-${name}-narrow`);
  await fits(page);
  await page.setViewportSize(size);
}

// fits holds the page to its width: nobody has to scroll sideways.
export async function fits(page) {
  const tooWide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.ok(tooWide <= 0, `the page is ${tooWide} px too wide`);
}

// colour is the pixel in the middle of an element, as red, green and blue.
export async function colour(page, element) {
  const png = (await element.screenshot()).toString("base64");
  return page.evaluate(async (png) => {
    const image = Object.assign(new Image(), { src: `data:image/png;base64,${png}` });
    await image.decode();
    const canvas = new OffscreenCanvas(image.width, image.height).getContext("2d");
    canvas.drawImage(image, 0, 0);
    return [...canvas.getImageData(image.height / 2, image.height / 2, 1, 1).data.slice(0, 3)];
  }, png);
}

// hold lets a read of the API wait, as on a slow network, until page.release;
// page.held is when it has been asked.
export async function hold(page, path) {
  let asked;
  page.held = new Promise((done) => { asked = done; });
  const pattern = `**/api/v1/${path}`;
  await page.route(pattern, asked, { times: 1 });
  page.release = async () => (await page.held).continue();
}

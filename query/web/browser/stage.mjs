// The stage of the specs: a browser, tokens of the demo, pages of another
// origin, and what every page must pass. It is set up by go test
// ./cmd/odometer, which starts the demo and says where everything is.
import { createHmac } from "node:crypto";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { createServer } from "node:http";
import { execFile, spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import { chromium } from "playwright-core";

const env = (name) => {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set: run the specs by go test ./cmd/odometer -run TestPagesInABrowser`);
  return value;
};

export const url = env("DEMO_URL");
export const embedder = env("EMBEDDER");

// Customers of the demo.
export const tenants = {
  acme: "a1b0c0de-0000-4000-8000-000000000001", // everything is over its limit soon
  bolt: "a1b0c0de-0000-4000-8000-000000000002", // has a plan with one agent
  dune: "a1b0c0de-0000-4000-8000-000000000004", // is past due
  ember: "a1b0c0de-0000-4000-8000-000000000005", // is on trial: nothing limits it
  flint: "a1b0c0de-0000-4000-8000-000000000006", // has a period that ends seconds after the start
};

// It asks no hosts but those that the pages name.
const args = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
];

// launch starts the browser.
export const launch = () => chromium.launch({ executablePath: env("CHROMIUM"), args });

// desk starts a browser whose tabs hide each other, as on anybody's desk:
// those that launch opens all pretend to be in front.
export async function desk() {
  const profile = await mkdtemp(`${tmpdir()}/odometer-desk-`);
  const program = spawn(env("CHROMIUM"), [...args, "--headless=new", "--remote-debugging-port=0", `--user-data-dir=${profile}`, "about:blank"], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  const ended = new Promise((done) => program.once("close", done));
  const listens = await new Promise((found, lost) => {
    createInterface(program.stderr).on("line", (line) => {
      const address = /^DevTools listening on (\S+)/.exec(line);
      if (address) found(address[1]);
    });
    ended.then(() => lost(new Error("the browser ended before it said where it listens")));
  });
  const browser = await chromium.connectOverCDP(listens, { noDefaults: true });
  const close = async () => {
    await browser.close();
    program.kill();
    await ended;
    await rm(profile, { recursive: true, force: true, maxRetries: 5 });
  };
  return { tabs: browser.contexts()[0], close };
}

// token signs claims as the demo does; seconds may be negative.
export function token(claims, seconds = 3600) {
  const now = Math.floor(Date.now() / 1000);
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const said = part({ alg: "HS256", typ: "JWT" }) + "." + part({ scope: "usage:read usage:write", iat: now - 3600, exp: now + seconds, ...claims });
  return said + "." + createHmac("sha256", env("DEMO_SECRET")).update(said).digest("base64url");
}

export const tokenOf = (tenant, seconds) => token({ tenant_id: tenant }, seconds);

// odometer runs a command of the program against the demo's data.
export const odometer = (...args) =>
  promisify(execFile)(env("ODOMETER"), args, {
    env: { ...process.env, ODOMETER_DATABASE_URL: env("DEMO_DATABASE_URL"), ODOMETER_NATS_URL: env("DEMO_NATS_URL") },
  });

// picture keeps what the page looks like.
export const picture = (page, name) => page.screenshot({ path: `${env("PICTURES")}/${name}.png`, fullPage: true });

// axe is what a page breaks of the rules of accessibility.
export async function axe(page) {
  const source = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
  await page.evaluate(source);
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  return violations.map((v) => `${v.id}: ${v.help}: ${v.nodes.map((n) => n.target.join(" ")).join("; ")}`);
}

// embed serves customers' pages at another origin than the demo's, until it is
// closed. put gives it a page, and says where that is: at a path of its own,
// unless one is named.
export async function embed() {
  const [host, port] = embedder.split(":");
  const pages = new Map();
  const server = createServer((request, response) => {
    const page = pages.get(request.url);
    response.writeHead(page ? 200 : 404, { "Content-Type": "text/html; charset=utf-8", ...page?.headers });
    response.end(page?.html);
  });
  await new Promise((done) => server.listen(Number(port), host, done));
  return {
    put(html, headers = {}, path = `/${pages.size + 1}`) {
      pages.set(path, { html, headers });
      return `http://${embedder}${path}`;
    },
    close() {
      server.close();
      server.closeAllConnections();
    },
  };
}

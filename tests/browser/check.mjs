// Opens the pages of a folder in a real browser, looks at them in light, in the dark, on a phone, without a script and
// on paper, keeps pictures, and fails where something is wrong:
//
//     node check.mjs FOLDER PICTURES

import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const [folder, pictures] = process.argv.slice(2);
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

const browserPath = () => {
  const wanted = [process.env.CHROMIUM, "chromium", "chromium-browser", "google-chrome"].filter(Boolean);
  for (const name of wanted) {
    try {
      return execFileSync("which", [name], { encoding: "utf8" }).trim();
    } catch {
      // The next one.
    }
  }
  console.error(
    `the check needs a browser, however: none of ${wanted.join(", ")} is installed; ` +
      "apt-get install chromium, or say where one is: CHROMIUM=/path",
  );
  process.exit(1);
};

const MODES = {
  light: { viewport: { width: 1280, height: 900 }, colorScheme: "light" },
  dark: { viewport: { width: 1280, height: 900 }, colorScheme: "dark" },
  phone: { viewport: { width: 390, height: 844 }, colorScheme: "light", isMobile: true, hasTouch: true },
  scriptless: { viewport: { width: 1280, height: 900 }, javaScriptEnabled: false },
};

const problems = [];
let checks = 0;
const check = (where, what, holds) => {
  checks += 1;
  if (!holds) problems.push(`${where}: ${what}`);
};

const accessible = async (page, where) => {
  // By the protocol: the page's own policy lets no script in.
  await page.evaluate(axe);
  const found = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  for (const v of found.violations.filter((v) => ["serious", "critical"].includes(v.impact))) {
    const nodes = v.nodes.slice(0, 3).map((n) => n.html.slice(0, 160));
    problems.push(`${where}: axe ${v.id} (${v.impact}): ${v.help}\n    ${nodes.join("\n    ")}`);
  }
  checks += found.passes?.length ?? 1;
};

const sifting = async (page, where) => {
  const rows = page.locator("table.sifted tbody tr");
  const shown = page.locator("table.sifted tbody tr:not([hidden])");
  const all = await rows.count();
  const search = page.locator(".search input[type=search]");
  await search.fill("no such thing at all");
  check(where, "a search for nothing hides every row", (await shown.count()) === 0);
  await search.fill("");
  check(where, "an empty search shows every row", (await shown.count()) === all);
  for (const select of await page.locator(".search select").all()) {
    const value = await select.locator("option").nth(1).getAttribute("value");
    await select.selectOption(value);
    const kept = await shown.count();
    const name = await select.getAttribute("data-choice");
    const wanted = await page.evaluate(
      ([n, v]) => [...document.querySelectorAll("table.sifted tbody tr")].filter((r) => r.dataset[n] === v).length,
      [name, value],
    );
    check(where, `the filter ${name} keeps its rows`, kept === wanted && kept > 0);
    await select.selectOption("");
  }
  const values = (index) =>
    page.evaluate(
      (i) => [...document.querySelectorAll("table.sifted tbody tr")].map((r) => r.cells[i].dataset.value),
      index,
    );
  const heads = page.locator("table.sifted thead th[data-sort=number]");
  if (await heads.count()) {
    const head = heads.first();
    const index = await head.evaluate((h) => h.cellIndex);
    await head.locator("button").focus();
    await page.keyboard.press("Enter");
    const up = (await values(index)).filter((v) => v !== undefined).map(Number);
    check(where, "the keyboard sorts upwards", up.every((v, i) => i === 0 || up[i - 1] <= v));
    check(where, "the order is told", (await head.getAttribute("aria-sort")) === "ascending");
    await page.keyboard.press("Enter");
    const down = (await values(index)).filter((v) => v !== undefined).map(Number);
    check(where, "once more sorts downwards", down.every((v, i) => i === 0 || down[i - 1] >= v));
  }
  const boxes = page.locator("input[data-pick]");
  if (await boxes.count()) {
    await boxes.nth(0).check();
    await boxes.nth(1).check();
    await page.locator("input[data-flag=picked]").check();
    check(where, "chosen rows alone are compared", (await shown.count()) === 2);
    await page.locator("input[data-flag=picked]").uncheck();
  }
};

const look = async (browser, file, mode) => {
  const name = path.basename(file, ".html");
  const where = `${name}, ${mode}`;
  const context = await browser.newContext(MODES[mode]);
  const page = await context.newPage();
  const said = [];
  const asked = [];
  page.on("console", (m) => said.push(`${m.type()}: ${m.text()}`));
  page.on("pageerror", (e) => said.push(`error: ${e.message}`));
  page.on("dialog", (d) => said.push(`dialog: ${d.message()}`) && d.dismiss());
  page.on("request", (r) => asked.push(r.url()));
  const address = pathToFileURL(file).href;
  await page.goto(address);
  await page.screenshot({ path: path.join(pictures, `${name}-${mode}.png`) });
  check(where, `asks for nothing but itself, however: ${asked.slice(1)}`, asked.length === 1 && asked[0] === address);
  if (MODES[mode].javaScriptEnabled !== false) {
    const state = await page.evaluate(() => ({
      broken: window.broken,
      images: document.querySelectorAll('img:not([src^="data:image/png;base64,"]), iframe, object, embed').length,
      scripts: document.querySelectorAll("script").length,
      wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    }));
    check(where, "names and values stay inert", state.broken === undefined && state.images === 0);
    check(where, "there is one script", state.scripts === 1);
    check(where, `nothing is wider than the screen, however: by ${state.wide} pixels`, state.wide <= 0);
    await page.keyboard.press("Tab");
    check(where, "the keyboard finds the way past the links", await page.evaluate(() => document.activeElement.className === "skip"));
    await accessible(page, where);
    if (mode === "light" && (await page.locator("table.sifted").count())) await sifting(page, where);
  } else {
    check(where, "tools that need the script are not shown", (await page.locator(".search:visible").count()) === 0);
    const rows = page.locator("table.sifted tbody tr:visible");
    check(where, "all rows are there without the script", !(await page.locator("table.sifted").count()) || (await rows.count()) > 0);
  }
  if (mode === "light") {
    const paper = await page.pdf({ path: path.join(pictures, `${name}.pdf`), format: "A4", printBackground: true });
    check(where, "it can be printed", paper.length > 10_000);
    // The first sheet as it is printed, on A4 without its margins.
    await page.emulateMedia({ media: "print" });
    await page.setViewportSize({ width: 696, height: 1017 });
    await page.evaluate(() => window.scrollTo(0, 0));
    await page.screenshot({ path: path.join(pictures, `${name}-print.png`) });
  }
  check(where, `nothing is said on the console, however: ${said}`, said.length === 0);
  await context.close();
};

mkdirSync(pictures, { recursive: true });
// In a container the sandbox needs rights that root has dropped; the pages are ours.
const browser = await chromium.launch({ executablePath: browserPath(), args: ["--no-sandbox"] });
const files = readdirSync(folder).filter((f) => f.endsWith(".html"));
check("the folder", "holds pages", files.length > 0);
for (const file of files) for (const mode of Object.keys(MODES)) await look(browser, path.resolve(folder, file), mode);
await browser.close();
for (const problem of problems) console.error(`✗ ${problem}`);
console.log(`${files.length} pages, ${Object.keys(MODES).length} ways, ${checks} checks, ${problems.length} failed`);
process.exit(problems.length ? 1 : 0);

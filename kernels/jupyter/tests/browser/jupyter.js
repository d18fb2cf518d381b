// JupyterLab with one notebook in a real browser, and words to say what should be seen there.
"use strict";
const { chromium } = require("playwright-core");
const { spawn } = require("node:child_process");
const fs = require("node:fs");
const net = require("node:net");
const os = require("node:os");
const path = require("node:path");

const root = path.resolve(__dirname, "../../../..");
const out = path.resolve(process.argv[2] || path.join(root, "target/browser"));
const prefix = path.join(root, ".attention/python");
const jupyter = process.env.JUPYTER || path.join(prefix, "bin/jupyter");

function check(held, what) {
  if (!held) throw new Error(`not so: ${what}`);
  console.log(`ok: ${what}`);
}

async function until(what, seconds, found) {
  for (const end = Date.now() + 1000 * seconds; Date.now() < end; await new Promise((go) => setTimeout(go, 200))) {
    const value = await found();
    if (value) return value;
  }
  throw new Error(`after ${seconds} s not yet: ${what}`);
}

function freePort() {
  return new Promise((go) => {
    const server = net.createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => go(port));
    });
  });
}

function write(file, value) {
  fs.mkdirSync(path.dirname(file), { recursive: true });
  fs.writeFileSync(file, JSON.stringify(value));
}

function configure(config) {
  // A question about news would lie over what is to be seen.
  write(path.join(config, "labconfig/page_config.json"), { disabledExtensions: { "@jupyterlab/apputils-extension:announcements": true } });
  // Cells out of sight stay in the page, so that they can be counted.
  write(path.join(config, "lab/user-settings/@jupyterlab/notebook-extension/tracker.jupyterlab-settings"), { windowingMode: "none" });
}

async function serve(folder) {
  const port = await freePort();
  const own = (name) => path.join(folder, ".jupyter", name);
  configure(own("config"));
  const server = spawn(jupyter, ["lab", "--no-browser", "--allow-root", `--ServerApp.port=${port}`,
    "--IdentityProvider.token=", `--ServerApp.root_dir=${folder}`, "--log-level=ERROR",
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"], {
    stdio: "inherit",
    env: { ...process.env, JUPYTER_PATH: path.join(prefix, "share/jupyter"), JUPYTER_CONFIG_DIR: own("config"),
      JUPYTERLAB_SETTINGS_DIR: path.join(own("config"), "lab/user-settings"),
      JUPYTER_DATA_DIR: own("data"), JUPYTER_RUNTIME_DIR: own("runtime"), ATTENTION_ROOT: root, ATTENTION_DEVICE: "cpu" },
  });
  const answers = () => fetch(`http://127.0.0.1:${port}/api`).then((reply) => reply.ok, () => false);
  await until("JupyterLab answers", 90, answers);
  return { server, url: `http://127.0.0.1:${port}/lab/tree/notebook.ipynb?reset` };
}

/** The page with the notebook's code cells. */
class Notebook {
  constructor(page) {
    this.page = page;
  }
  cell(index) {
    return this.page.locator(".jp-Notebook .jp-CodeCell").nth(index);
  }
  shot(name) {
    return this.page.screenshot({ path: path.join(out, `${name}.png`) });
  }
  show(index) {
    return this.cell(index).scrollIntoViewIfNeeded();
  }
  text(index) {
    return this.cell(index).locator(".jp-Cell-outputArea").innerText();
  }
  async ended(index) {
    return !(await this.cell(index).locator(".jp-InputPrompt").innerText()).includes("*");
  }
  async menu(menu, entry) {
    await this.page.getByRole("menuitem", { name: menu, exact: true }).click();
    await this.page.getByText(entry, { exact: true }).click();
  }
  /** The first error that a cell shows. */
  async error() {
    const errors = this.page.locator("[data-mime-type='application/vnd.jupyter.error'], [data-mime-type='application/vnd.jupyter.stderr']");
    return (await errors.count()) ? errors.first().innerText() : "";
  }
  /** The figures below a cell; what of the first of them is drawn. */
  figures(index) {
    return this.cell(index).locator("[data-mime-type^='image/'] :is(img, svg)");
  }
  drawn(index) {
    return this.figures(index).first().evaluate((node) => node.src || node.outerHTML);
  }
  async stop() {
    await this.page.getByTitle(/Interrupt the kernel/i).first().click();
  }
  /** A loss curve that grows in place below a cell that trains, and the cell stopped. */
  async growsAndStops(index) {
    await until("a loss curve", 180, async () => (await this.show(index), await this.figures(index).count()));
    const first = await this.drawn(index);
    await this.shot("1-curve-begun");
    await until("the curve grows", 60, async () => (await this.drawn(index)) !== first);
    await this.page.waitForTimeout(4000);
    await this.shot("2-curve-grown");
    check((await this.figures(index).count()) === 1, "the curve grows in place");
    await this.stop();
    await until("the cell ends", 60, () => this.ended(index));
    await this.page.waitForTimeout(500);
    await this.show(index);
    await this.shot("3-stopped");
    check((await this.text(index)).includes("stopped after step"), "the cell says after which step it stopped");
  }
  /** Points into the first pattern of an attention view. */
  async hovers(index) {
    const view = this.cell(index).locator("[data-attention-view]");
    await view.evaluate((node) => node.scrollIntoView({ block: "center" }));
    const box = await view.locator("canvas").first().boundingBox();
    await this.page.mouse.move(box.x + 0.3 * box.width, box.y + 0.6 * box.height);
    const said = view.locator(".said").first();
    check(/→.*: -?\d/.test(await until("the view answers", 10, () => said.innerText())), "hovering tells query, key and weight");
    return { view, said };
  }
}

/** Opens `notebook` in JupyterLab and has `look` look at it; fails where it fails, or the page does. */
async function open(notebook, look) {
  fs.mkdirSync(out, { recursive: true });
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "attention-browser-"));
  fs.writeFileSync(path.join(folder, "notebook.ipynb"), JSON.stringify(notebook));
  const { server, url } = await serve(folder);
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM || "/usr/bin/chromium", args: ["--no-sandbox"] });
  try {
    const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
    const problems = [];
    page.on("pageerror", (error) => problems.push(error.message));
    await page.goto(url);
    await page.locator(".jp-Notebook .jp-CodeCell").first().waitFor({ timeout: 60000 });
    // The server knows, and the page soon after; before that it would ask for a kernel.
    const kernels = () => fetch(new URL("/api/kernels", url)).then((reply) => reply.json());
    await until("the kernel is idle", 90, async () => (await kernels()).some((k) => k.execution_state === "idle"));
    await page.waitForTimeout(2000);
    const question = page.locator(".jp-Dialog .jp-mod-accept");
    if (await question.count()) await question.click();
    await look(new Notebook(page));
    check(problems.length === 0, `no error in the page ${problems}`);
  } catch (error) {
    const pages = browser.contexts().flatMap((context) => context.pages());
    if (pages[0]) await pages[0].screenshot({ path: path.join(out, "failed.png") });
    throw error;
  } finally {
    await browser.close();
    server.kill("SIGTERM");
    fs.rmSync(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 500 });
  }
}

function run(notebook, look) {
  open(notebook, look).then(() => process.exit(0), (error) => {
    console.error(error.message);
    process.exit(1);
  });
}

module.exports = { check, until, root, run };

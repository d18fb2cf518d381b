// Opens a small notebook in JupyterLab, runs all of it, watches the loss curve grow, presses stop, goes on
// from what was kept, and hovers over the attention view. See README.md.
"use strict";
const { chromium } = require("playwright-core");
const { spawn } = require("node:child_process");
const fs = require("node:fs");
const net = require("node:net");
const os = require("node:os");
const path = require("node:path");

const CELLS = [
  `use attention::prelude::*;
let device = Device::flex();
println!("{}", describe(&device));`,
  `Tensor::<2>::random([12, 60], Distribution::Normal(0.0, 1.0), &device)`,
  `let model = preset("baseline", "nano")?.init(0, &device)?;
model.clone()`,
  `let other = preset("gated", "nano")?.init(0, &device)?;
let line = "    pub fn len(&self) -> usize { self.len } // <b>bold?</b>";
AttentionView::new("Where two models look").tokens(byte_tokens(line.as_bytes())).causal()
    .model("baseline", patterns(&model, &Corpus::encode(line))?)
    .model("gated", patterns(&other, &Corpus::encode(line))?)`,
  `first_token_mass(&model, &[])?.frame()`,
  `let config = TrainConfig { steps: 100_000, ..TrainConfig::new("curve", preset("baseline", "nano")?) };
let mut trainer = Trainer::from_config(&config, &device)?;
let run = trainer.run()?;`,
  `println!("after the stop");`,
  `println!("kept {} and {}", run.interrupted, trainer.step()?.step == run.history.step() + 1);`,
];

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

async function serve(folder) {
  const port = await freePort();
  const own = (name) => path.join(folder, ".jupyter", name);
  const server = spawn(jupyter, ["lab", "--no-browser", "--allow-root", `--ServerApp.port=${port}`,
    "--IdentityProvider.token=", `--ServerApp.root_dir=${folder}`, "--log-level=ERROR",
    "--LabApp.news_url=None"], {
    stdio: "inherit",
    env: { ...process.env, JUPYTER_PATH: path.join(prefix, "share/jupyter"), JUPYTER_CONFIG_DIR: own("config"),
      JUPYTER_DATA_DIR: own("data"), JUPYTER_RUNTIME_DIR: own("runtime"), ATTENTION_ROOT: root, ATTENTION_DEVICE: "cpu" },
  });
  const answers = () => fetch(`http://127.0.0.1:${port}/api`).then((reply) => reply.ok, () => false);
  await until("JupyterLab answers", 90, answers);
  return { server, url: `http://127.0.0.1:${port}/lab/tree/small.ipynb?reset` };
}

async function look(page, theme) {
  const cell = (index) => page.locator(".jp-Notebook .jp-CodeCell").nth(index);
  const shot = (name) => page.screenshot({ path: path.join(out, `${theme}-${name}.png`) });
  const show = (index) => cell(index).scrollIntoViewIfNeeded();
  const text = (index) => cell(index).locator(".jp-Cell-outputArea").innerText();
  const prompt = (index) => cell(index).locator(".jp-InputPrompt").innerText();

  await page.getByRole("menuitem", { name: "Run", exact: true }).click();
  await page.getByText("Run All Cells", { exact: true }).click();
  const curve = () => cell(5).locator(".jp-Cell-outputArea img, .jp-Cell-outputArea svg").first();
  await until("a loss curve", 180, async () => (await show(5), await curve().count()));
  const picture = () => curve().evaluate((node) => node.src || node.outerHTML);
  const first = await picture();
  await shot("1-curve-begun");
  await until("the curve grows", 30, async () => (await picture()) !== first);
  await page.waitForTimeout(4000);
  await shot("2-curve-grown");
  check((await cell(5).locator(".jp-Cell-outputArea img, .jp-Cell-outputArea svg").count()) === 1, "the curve grows in place");

  await page.getByTitle(/Interrupt the kernel/i).first().click();
  await until("the cell ends", 60, async () => !(await prompt(5)).includes("*"));
  await page.waitForTimeout(500);
  await shot("3-stopped");
  check((await text(5)).includes("stopped after step"), "the cell says after which step it stopped");
  check(!(await text(6)).includes("after the stop"), "\"run all\" ends there");

  await cell(7).locator(".cm-content").click();
  await page.keyboard.press("Shift+Enter");
  await until("the next cell runs", 60, async () => (await text(7)).includes("kept"));
  check((await text(7)).includes("kept true and true"), "training goes on from the kept state");

  await cell(1).locator(".jp-Cell-outputArea").scrollIntoViewIfNeeded();
  await page.waitForTimeout(300);
  await shot("4-looks");
  check((await text(1)).includes("[12, 60]") && (await text(2)).includes("parameters"), "a tensor and a module have looks");

  const view = cell(3).locator("[data-attention-view]");
  await view.evaluate((node) => node.scrollIntoView({ block: "center" }));
  const canvas = view.locator("canvas").first();
  const box = await canvas.boundingBox();
  await page.mouse.move(box.x + 0.3 * box.width, box.y + 0.6 * box.height);
  const said = view.locator(".said").first();
  check(/→.*: 0/.test(await until("the view answers", 10, () => said.innerText())), "hovering tells query, key and weight");
  await shot("5-attention-cell");
  await view.locator(".text span").nth(20).hover();
  await until("the token answers", 10, async () => (await said.innerText()).startsWith("20 "));
  await shot("6-attention-token");
  check((await view.locator(".text b").count()) === 0, "tokens are text, not markup");
}

async function main() {
  fs.mkdirSync(out, { recursive: true });
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "attention-browser-"));
  const cells = CELLS.map((source, index) =>
    ({ cell_type: "code", id: `c${index}`, metadata: {}, execution_count: null, outputs: [], source }));
  const kernelspec = { name: "attention", display_name: "Attention Zoo (Rust)", language: "rust" };
  const notebook = { nbformat: 4, nbformat_minor: 5, metadata: { kernelspec }, cells };
  fs.writeFileSync(path.join(folder, "small.ipynb"), JSON.stringify(notebook));
  const { server, url } = await serve(folder);
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM || "/usr/bin/chromium", args: ["--no-sandbox"] });
  try {
    const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
    const problems = [];
    page.on("pageerror", (error) => problems.push(error.message));
    await page.goto(url);
    await page.locator(".jp-Notebook .jp-CodeCell").first().waitFor({ timeout: 60000 });
    await until("the kernel is idle", 60, () => page.locator(".jp-NotebookPanel [data-status=idle]").count());
    await look(page, "light");
    const dark = page.getByRole("menuitem", { name: "Settings", exact: true });
    await dark.click();
    await page.getByText("Theme", { exact: true }).first().hover();
    await page.getByText("JupyterLab Dark", { exact: true }).click();
    await page.waitForTimeout(1500);
    const canvas = page.locator("[data-attention-view] canvas").first();
    await canvas.hover();
    await page.screenshot({ path: path.join(out, "dark-attention.png") });
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

main().then(() => process.exit(0), (error) => {
  console.error(error.message);
  process.exit(1);
});

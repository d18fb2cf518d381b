// A small notebook of its own in JupyterLab: run all, watch the loss curve grow, press stop, go on from what
// was kept, look at the looks of values, hover over the attention view, light and dark. See README.md.
"use strict";
const { check, until, run } = require("./jupyter.js");

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
  `vec![HeadMass { layer: 0, head: 1, mass: 0.1 + 0.2, signed: -1e-7, positive: None, negative: Some(0.5) }; 30].frame()`,
  `let config = TrainConfig { steps: 5_000, ..TrainConfig::new("curve", preset("baseline", "nano")?) };
let mut trainer = Trainer::from_config(&config, &device)?;
let run = trainer.run()?;`,
  `println!("after the stop");`,
  `println!("kept {} and {}", run.interrupted, trainer.step()?.step == run.history.step() + 1);`,
];

async function look(notebook) {
  const { page } = notebook;
  await notebook.menu("Run", "Run All Cells");
  await notebook.growsAndStops(5);
  check(!(await notebook.text(6)).includes("after the stop"), "\"run all\" ends there");

  await notebook.cell(7).locator(".cm-content").click();
  await page.keyboard.press("Shift+Enter");
  await until("the next cell runs", 60, async () => (await notebook.text(7)).includes("kept"));
  check((await notebook.text(7)).includes("kept true and true"), "training goes on from the kept state");

  await notebook.cell(1).locator(".jp-Cell-outputArea").scrollIntoViewIfNeeded();
  await page.waitForTimeout(300);
  await notebook.shot("4-looks");
  check((await notebook.text(1)).includes("[12, 60]") && (await notebook.text(2)).includes("parameters"), "a tensor and a module have looks");

  await notebook.show(4);
  await notebook.shot("5-table");
  check((await notebook.cell(4).locator("td").allInnerTexts()).slice(0, 6).join(" ") === "0 1 0.3 -1e-7 null 0.5", "a table is a table");

  const { view, said } = await notebook.hovers(3);
  await notebook.shot("6-attention-cell");
  await view.locator(".text span").nth(20).hover();
  await until("the token answers", 10, async () => (await said.innerText()).startsWith("20 "));
  await notebook.shot("7-attention-token");
  check((await view.locator(".text b").count()) === 0, "tokens are text, not markup");

  await page.getByRole("menuitem", { name: "Settings", exact: true }).click();
  await page.getByText("Theme", { exact: true }).first().hover();
  await page.getByText("JupyterLab Dark", { exact: true }).click();
  await page.waitForTimeout(1500);
  await page.locator("[data-attention-view] canvas").first().hover();
  await notebook.shot("8-dark");
}

const cells = CELLS.map((source, index) =>
  ({ cell_type: "code", id: `c${index}`, metadata: {}, execution_count: null, outputs: [], source }));
const kernelspec = { name: "attention", display_name: "Attention Zoo (Rust)", language: "rust" };
run({ nbformat: 4, nbformat_minor: 5, metadata: { kernelspec }, cells }, look);

// The tour in JupyterLab, with small models: run all, watch the first loss curve grow, press stop, go on with what
// was kept to the end, hover over the attention view. See README.md.
"use strict";
const fs = require("node:fs");
const path = require("node:path");
const { check, until, root, run } = require("./jupyter.js");

const notebook = JSON.parse(fs.readFileSync(path.join(root, "notebooks/00-tour.ipynb")));
const code = notebook.cells.filter((cell) => cell.cell_type === "code");
const source = (cell) => [cell.source].flat().join("");
const at = (text) => {
  const index = code.findIndex((cell) => source(cell).includes(text));
  check(index >= 0, `the tour has a cell with \`${text}\``);
  return index;
};
for (const cell of code) Object.assign(cell, { outputs: [], execution_count: null });

// As `cargo lab run -p` would set them.
const parameters = code.find((cell) => cell.metadata.tags?.includes("parameters"));
const small = { size: "\"nano\"", steps: "20000", small_steps: "20" };
parameters.source = source(parameters).replace(/^(let (\w+)[^=]*= )[^;]+/gm, (line, start, name) => (name in small ? start + small[name] : line));

// The stop comes after a few hundred of the many steps, and the curves need a validation loss by then.
const training = code.find((cell) => source(cell).includes("let mut runs"));
training.source = source(training).replace("steps / 5", "steps / 400");

run(notebook, async (page) => {
  const [stopped, curves, view, last] = [at("let mut runs"), at("let mut curves"), at("AttentionView::new"), code.length - 1];
  await page.menu("Run", "Run All Cells");
  await page.growsAndStops(stopped);
  check((await page.text(curves)).trim() === "", "\"run all\" ends there");

  await page.cell(curves).locator(".cm-content").click();
  await page.menu("Run", "Run Selected Cell and All Below");
  const drawn = (index) => async () => {
    const error = await page.error();
    if (error) throw new Error(`a cell fails with what was kept: ${error}`);
    return (await page.figures(index).count()) > 0;
  };
  await until("the cell after the stop is run", 60, drawn(curves));
  await page.show(curves);
  await page.shot("4-curves");
  await until("the tour ends", 400, drawn(last));
  console.log("ok: what follows the stop runs to the end with what was kept");
  await page.hovers(view);
  await page.shot("5-attention-view");
  await page.show(last);
  await page.shot("6-end");
});

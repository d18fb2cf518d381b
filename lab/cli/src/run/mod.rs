//! `cargo lab run`: a notebook from top to bottom, without a browser and without Python.
//!
//! - `cells`: the kernel runs one cell after the other
//! - `outputs`: what a kernel publishes, as a notebook file holds it
//! - `document`: the notebook file itself, read, completed and saved whole
//! - `screen`: what is seen in the terminal meanwhile
//! - `html`: the finished notebook as one page

mod cells;
mod document;
pub mod html;
mod outputs;
mod screen;

use crate::environment::Environment;
use crate::notebook::resolve;
use crate::parameters;
use crate::root::{root, shown};
use crate::terminal::Stages;
use anyhow::{Context, Result};
use cells::Ended;
use jupyter_kernel::client::Spec;
use jupyter_kernel::{InstallOptions, install};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

pub use document::{read, save, source};

/// Run a notebook from top to bottom and save it with its outputs; fails where a cell fails.
///
/// The notebook is saved also when a cell fails or Ctrl-C is pressed, with what there is until then.
/// Exit status: 0 all cells ran, 1 a cell or the kernel failed, 130 interrupted.
#[derive(clap::Args)]
pub struct Arguments {
    /// A notebook of notebooks/ by name or the beginning of its name, or the path of one
    notebook: String,
    #[command(flatten)]
    options: Options,
}

#[derive(clap::Args)]
pub struct Options {
    /// Another value in the cell tagged `parameters`; can be repeated
    #[arg(short, value_name = "key=value", value_parser = parameters::parse)]
    parameters: Vec<(String, String)>,
    /// Where to save the notebook [default: in place; with -p: runs/notebooks/]
    #[arg(short, long, value_name = "OUT.ipynb")]
    output: Option<PathBuf>,
    /// Also write the notebook as one page that needs nothing else
    #[arg(long, value_name = "OUT.html")]
    html: Option<PathBuf>,
    /// How long one cell may run [default: as long as it takes]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u32>,
}

impl Options {
    pub fn given(&self) -> bool {
        let Self { parameters, output, html, timeout } = self;
        !parameters.is_empty() || output.is_some() || html.is_some() || timeout.is_some()
    }
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    execute(&arguments.notebook, &arguments.options)
}

/// Runs the notebook called `name`.
pub fn execute(name: &str, options: &Options) -> Result<ExitCode> {
    let root = root()?;
    // What is wrong with the request is said before minutes are spent on it.
    let path = resolve(&root.join("notebooks"), name)?;
    let mut notebook = read(&path)?;
    parameters::apply(&mut notebook, &options.parameters).with_context(|| shown(&path))?;
    let file_name = path.file_name().expect("a file");
    let output = match &options.output {
        Some(output) => std::path::absolute(output)?,
        // Values tried once do not belong into the notebook itself.
        None if !options.parameters.is_empty() => root.join("runs/notebooks").join(file_name),
        None => path.clone(),
    };
    let page = options.html.as_ref().map(std::path::absolute).transpose()?;
    for file in [Some(&output), page.as_ref()].into_iter().flatten() {
        document::writable(file)?;
    }

    let mut stages = Stages::new(2);
    stages.begin("Kernel \"Attention Zoo (Rust)\"");
    let prefix = Environment::new(&root).prefix();
    let installed =
        install(&InstallOptions { workspace: root.clone(), prefix }).context("cannot make the notebook's kernel")?;
    stages.end("the kernel is ready");
    stages.begin(format_args!("Running {}", shown(&path)));
    stages.note(crate::doctor::device_line()?);

    let spec = Spec::load(&installed.kernelspec)?;
    let folder = path.parent().expect("a file");
    let timeout = options.timeout.map(|seconds| Duration::from_secs(seconds.into()));
    let begun = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let env = [("ATTENTION_ROOT", root.as_path())];
    let (ended, ran) = runtime.block_on(cells::run(&mut notebook, &spec, folder, &env, timeout))?;
    runtime.shutdown_background();

    save(&notebook, &output)?;
    let mut saved = shown(&output);
    if let Some(page) = &page {
        let text = html::page(&notebook, folder, &title(&notebook, &path));
        document::replace(page, text.as_bytes())?;
        saved += &format!(" and {}", shown(page));
    }
    let took = begun.elapsed().as_secs_f64();
    let total = document::code_cells(&notebook).count();
    let (what, status) = match ended {
        Ended::Whole => (format!("all {total} cells ran"), 0),
        Ended::Failed => (format!("stopped in cell {ran} of {total}"), 1),
        Ended::Interrupted => (format!("interrupted in cell {ran} of {total}"), 130),
    };
    println!("\n{what} in {took:.1} s; saved {saved}");
    Ok(ExitCode::from(status))
}

/// The first heading, or the file's name.
fn title(notebook: &Value, path: &Path) -> String {
    let cells = notebook["cells"].as_array().into_iter().flatten();
    let prose = cells.filter(|cell| cell["cell_type"] == "markdown").map(document::source);
    let heading = prose
        .into_iter()
        .find_map(|text| text.lines().find_map(|line| line.strip_prefix("# ").map(|title| title.trim().to_string())));
    heading.unwrap_or_else(|| path.file_stem().unwrap_or_default().to_string_lossy().into_owned())
}

//! The kernel runs one cell after the other.

use super::document::{code_cells, source};
use super::outputs::Outputs;
use super::screen::Screen;
use anyhow::{Context, Result};
use jupyter_kernel::client::{Client, Spec};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How a run came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Whole,
    Failed,
    Interrupted,
}

/// Runs the notebook's cells, files their outputs into it, and says how many were begun.
///
/// # Errors
/// When the kernel does not start; everything later is an end like others and is told on the screen.
pub async fn run(
    notebook: &mut Value,
    spec: &Spec,
    folder: &Path,
    env: &[(&str, &Path)],
    timeout: Option<Duration>,
) -> Result<(Ended, usize)> {
    let mut stop = Stop { int: signal(SignalKind::interrupt())?, term: signal(SignalKind::terminate())? };
    let client = tokio::select! {
        client = Client::start(spec, folder, env) => client.context("the kernel did not start")?,
        _ = stop.asked() => return Ok((Ended::Interrupted, 0)),
    };
    let places: Vec<usize> = code_cells(notebook).collect();
    let mut screen = Screen::new(places.len());
    screen.note(format_args!("the kernel answers after {:.1} s", client.ready.as_secs_f64()));
    describe(notebook, spec, &client);
    let mut runner = Runner { client, screen, outputs: Outputs::default(), stop, timeout, presses: 0 };
    let (mut ended, mut ran) = (Ended::Whole, 0);
    for place in places {
        ran += 1;
        let code = source(&notebook["cells"][place]);
        runner.screen.begin(&code);
        let problem = runner.cell(notebook, place, &code).await;
        runner.screen.end();
        if runner.presses > 0 {
            runner.screen.problem(None, "interrupted");
            ended = Ended::Interrupted;
        } else if let Some(problem) = &problem {
            runner.screen.problem(Some((ran, &code)), problem);
            ended = Ended::Failed;
        }
        if ended != Ended::Whole {
            break;
        }
    }
    // Where the kernel is gone already, there is nothing to end.
    let _ = runner.client.shutdown().await;
    Ok((ended, ran))
}

/// Nothing of an earlier run stays, and the file says what ran it.
fn describe(notebook: &mut Value, spec: &Spec, client: &Client) {
    for cell in notebook["cells"].as_array_mut().into_iter().flatten().filter(|cell| cell["cell_type"] == "code") {
        cell["outputs"] = json!([]);
        cell["execution_count"] = Value::Null;
    }
    let metadata = &mut notebook["metadata"];
    metadata["kernelspec"] =
        json!({ "display_name": spec.display_name, "language": spec.language, "name": crate::notebook::KERNEL });
    metadata["language_info"] = serde_json::to_value(&client.info.language_info).unwrap_or_default();
}

/// Ctrl-C and `kill`.
struct Stop {
    int: Signal,
    term: Signal,
}

impl Stop {
    /// True when it cannot wait.
    async fn asked(&mut self) -> bool {
        tokio::select! {
            _ = self.int.recv() => false,
            _ = self.term.recv() => true,
        }
    }
}

struct Runner {
    client: Client,
    screen: Screen,
    outputs: Outputs,
    stop: Stop,
    timeout: Option<Duration>,
    presses: u32,
}

impl Runner {
    /// Runs one cell; what went wrong, where something did.
    async fn cell(&mut self, notebook: &mut Value, place: usize, code: &str) -> Option<String> {
        self.outputs.begin(notebook, place);
        let problem = match self.follow(notebook, place, code).await {
            Ok(problem) => problem,
            Err(error) => Some(("KernelDied", format!("{error:#}; what it printed last is above"))),
        };
        let (kind, text) = problem?;
        if !kind.is_empty() {
            let error = json!({ "ename": kind, "evalue": text, "traceback": [text] });
            self.outputs.receive(notebook, "error", error);
        }
        let tags = notebook["cells"][place]["metadata"]["tags"].as_array();
        let expected = tags.is_some_and(|tags| tags.iter().any(|tag| tag == "raises-exception"));
        (!(expected && kind.is_empty())).then_some(text)
    }

    /// Until the cell is done, or will not be: then its name and what is to be said. The name is empty
    /// where the kernel has said it itself.
    async fn follow(
        &mut self,
        notebook: &mut Value,
        place: usize,
        code: &str,
    ) -> Result<Option<(&'static str, String)>> {
        let id = self.client.execute(code).await?;
        let begun = Instant::now();
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        let limit = self.timeout.unwrap_or(Duration::MAX);
        let mut error = None;
        loop {
            let left = limit.saturating_sub(begun.elapsed());
            let content = tokio::select! {
                biased;
                urgent = self.stop.asked() => {
                    self.presses += 1;
                    if urgent || self.presses > 1 {
                        return Ok(Some(("Interrupted", "the kernel was stopped while the cell ran".into())));
                    }
                    self.screen.note("interrupting the cell (Ctrl-C again stops the kernel)");
                    self.client.interrupt().await?;
                    continue;
                }
                () = tokio::time::sleep(left), if self.timeout.is_some() => {
                    let text = format!("it ran for more than {} s; raise --timeout, or leave it out", limit.as_secs());
                    return Ok(Some(("Timeout", text)));
                }
                _ = tick.tick() => { self.screen.tick(begun.elapsed()); continue }
                content = self.client.published(&id) => content?,
            };
            let kind = content.message_type().to_string();
            let value = serde_json::to_value(&content)?;
            match kind.as_str() {
                "status" if value["execution_state"] == "idle" => break,
                "error" => error = Some(error_text(&value)),
                "execute_input" => notebook["cells"][place]["execution_count"] = value["execution_count"].clone(),
                _ => self.screen.receive(&kind, &value),
            }
            self.outputs.receive(notebook, &kind, value);
        }
        let reply = serde_json::to_value(self.client.reply().await?.content)?;
        let failed = reply["status"] != "ok";
        Ok(failed.then(|| ("", error.unwrap_or_else(|| "the kernel says it failed and not why".into()))))
    }
}

fn error_text(error: &Value) -> String {
    let lines: Vec<&str> = error["traceback"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let word = |name: &str| error[name].as_str().unwrap_or_default();
    if lines.is_empty() { format!("{}: {}", word("ename"), word("evalue")) } else { lines.join("\n") }
}

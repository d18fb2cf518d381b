//! `cargo lab generate`: what a checkpoint writes.

use crate::model;
use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use datasets::{DatasetConfig, Tokenizer};
use lab::train::run_config;
use serde_json::json;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Instant;
use zoo::{GenerateConfig, NewToken, Sampling, pretrained};

/// Let a checkpoint write on from a prompt.
///
/// The text after one prompt goes to standard output as it comes, and nothing else does. Several prompts
/// are continued together and give a line of JSON each.
#[derive(clap::Args)]
pub struct Arguments {
    /// A folder with config.json and safetensors, a run, or a model on the Hub: OWNER/NAME[/FOLDER][@REVISION]
    #[arg(value_name = "DIR")]
    checkpoint: PathBuf,
    /// What it starts with; may be given several times
    #[arg(long, value_name = "TEXT", required_unless_present = "ids")]
    prompt: Vec<String>,
    /// Token ids in the place of a text; ids are what is written then
    #[arg(long, value_name = "ID,ID,…", conflicts_with = "prompt")]
    ids: Vec<Ids>,
    /// Tokens to write at most; an end-of-text token of the checkpoint ends earlier
    #[arg(long, default_value_t = 100)]
    max_new_tokens: usize,
    /// Draw at this temperature; without it the likeliest token is taken
    #[arg(long)]
    temperature: Option<f64>,
    /// Draw from the K likeliest tokens
    #[arg(long, value_name = "K", requires = "temperature")]
    top_k: Option<usize>,
    /// Draw from the fewest likeliest tokens whose probabilities reach P
    #[arg(long, value_name = "P", requires = "temperature")]
    top_p: Option<f64>,
    /// Let the model's own prediction head draft tokens that the model then checks; for one prompt
    #[arg(long)]
    speculate: bool,
    /// Chooses what is drawn; prompt number I (from 0) has the seed SEED + I
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// `1,2,3`.
#[derive(Clone, Debug)]
struct Ids(Vec<i32>);

impl FromStr for Ids {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let id = |part: &str| part.trim().parse().map_err(|_| format!("`{part}` is no token id, expected 1,2,3"));
        text.split(',').map(id).collect::<Result<_, _>>().map(Self)
    }
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let device = lab::device()?;
    eprintln!("{}", crate::doctor::device_line()?);
    let mut out = std::io::stdout();
    let started = Instant::now();
    let tokens = write(arguments, &device, &mut out)?;
    if out.is_terminal() {
        eprintln!();
    }
    let seconds = started.elapsed().as_secs_f64();
    eprintln!("{tokens} tokens in {seconds:.1} s, the loading of the model included");
    Ok(())
}

/// Returns how many tokens were written.
fn write(arguments: &Arguments, device: &Device, out: &mut impl Write) -> Result<usize> {
    let dir = model::folder(&arguments.checkpoint)?;
    let (config, model) = model::load(&dir, device)?;
    // Of the two kinds of prompts, clap lets through exactly one.
    let tokenizer = match arguments.ids[..] {
        [] => Some(tokenizer(&dir, config.vocab_size)?),
        _ => None,
    };
    let prompts: Vec<Vec<i32>> = match &tokenizer {
        Some(tokenizer) => arguments.prompt.iter().map(|text| tokenizer.encode(text)).collect::<Result<_, _>>()?,
        None => arguments.ids.iter().map(|ids| ids.0.clone()).collect(),
    };
    let Arguments { temperature, top_k, top_p, seed, max_new_tokens, .. } = *arguments;
    let sampling = Sampling { temperature, top_k, top_p };
    let how = GenerateConfig { max_new_tokens, sampling, seed, stop: pretrained::stop_ids(&dir)? };
    if arguments.speculate {
        let [prompt] = &prompts[..] else { bail!("--speculate takes one prompt, got {}", prompts.len()) };
        let text = model.speculate(prompt, &how)?;
        let count = text.tokens.len();
        eprintln!(
            "{count} tokens in {} passes; {} of {} drafts accepted ({:.1} %)",
            text.passes,
            text.accepted,
            text.drafted,
            100.0 * text.acceptance()
        );
        return one(text.tokens.iter().map(|&id| Ok(NewToken { sequence: 0, id })), tokenizer.as_ref(), out);
    }
    let stream = model.stream(&prompts, &how)?;
    if prompts.len() == 1 {
        return one(stream, tokenizer.as_ref(), out);
    }
    let mut texts = vec![Vec::new(); prompts.len()];
    for token in stream {
        let NewToken { sequence, id } = token?;
        texts[sequence].push(id);
    }
    for (number, ids) in texts.iter().enumerate() {
        let line = match &tokenizer {
            Some(tokenizer) => {
                json!({"prompt": arguments.prompt[number], "text": tokenizer.decode(ids)?, "ids": ids})
            }
            None => json!({"prompt": prompts[number], "ids": ids}),
        };
        writeln!(out, "{line}")?;
    }
    Ok(texts.iter().map(Vec::len).sum())
}

/// One sequence, as it comes: its text, or its ids with spaces between them.
fn one(
    tokens: impl Iterator<Item = Result<NewToken, zoo::ZooError>>,
    tokenizer: Option<&Tokenizer>,
    out: &mut impl Write,
) -> Result<usize> {
    let mut text = tokenizer.map(Tokenizer::stream);
    let mut count = 0;
    for token in tokens {
        let NewToken { id, .. } = token?;
        match &mut text {
            Some(text) => write!(out, "{}", text.push(id)?)?,
            None => write!(out, "{}{id}", if count == 0 { "" } else { " " })?,
        }
        out.flush()?;
        count += 1;
    }
    if let Some(text) = text {
        write!(out, "{}", text.finish()?)?;
        out.flush()?;
    }
    Ok(count)
}

/// The checkpoint's own, or bytes for a model of ours that reads them.
fn tokenizer(dir: &Path, vocab_size: usize) -> Result<Tokenizer> {
    let path = dir.join("tokenizer.json");
    if path.exists() {
        return Tokenizer::from_file(path).context("cannot read the checkpoint's tokenizer");
    }
    // A run's checkpoint lies beside the configuration that names its data.
    let run = dir.parent().and_then(|run| run_config(run).ok());
    let text = run.is_none_or(|run| matches!(run.data, DatasetConfig::Corpus(_)));
    if text && !pretrained::is_pretrained(dir) && vocab_size == 256 {
        return Ok(Tokenizer::bytes());
    }
    bail!(
        "{} has no tokenizer.json, and its {vocab_size} tokens are not known to be bytes; give the prompt as token \
         ids, --ids 1,2,3",
        dir.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use datasets::NeedleConfig;
    use zoo::checkpoint;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parsed(dir: &Path, options: &[&str]) -> Result<Arguments, clap::Error> {
        let line = ["generate", dir.to_str().unwrap()].into_iter().chain(options.iter().copied());
        Line::try_parse_from(line).map(|line| line.arguments)
    }

    fn written(dir: &Path, options: &[&str]) -> Result<String> {
        let mut out = Vec::new();
        write(&parsed(dir, options)?, &Device::flex(), &mut out)?;
        Ok(String::from_utf8(out)?)
    }

    fn refused(dir: &Path, options: &[&str], parts: &[&str]) {
        let message = crate::terminal::chain(&written(dir, options).unwrap_err());
        assert!(parts.iter().all(|part| message.contains(part)), "{message} should say {parts:?}");
    }

    /// A small model of ours, and one of Hugging Face's whose original is tested in tests/parity.rs.
    fn ours() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let config = zoo::ModelConfig { init_std: 0.3, ..zoo::preset("hybrid", "nano").unwrap() };
        checkpoint::save(dir.path(), &config, &config.init(3, &Device::flex()).unwrap()).unwrap();
        dir
    }

    fn llama() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/parity/data/llama")
    }

    #[test]
    fn a_draft_does_not_change_the_text_and_needs_a_head_and_one_prompt() {
        let dir = tempfile::tempdir().unwrap();
        let config = zoo::ModelConfig { init_std: 0.3, ..zoo::preset("qwen3-next", "nano").unwrap() };
        checkpoint::save(dir.path(), &config, &config.init(3, &Device::flex()).unwrap()).unwrap();
        let options = ["--prompt", "to be", "--max-new-tokens", "12"];
        let plain = written(dir.path(), &options).unwrap();
        assert_eq!(written(dir.path(), &[&options[..], &["--speculate"]].concat()).unwrap(), plain);
        refused(dir.path(), &["--prompt", "a", "--prompt", "b", "--speculate"], &["one prompt, got 2"]);
        refused(ours().path(), &["--prompt", "a", "--speculate"], &["prediction head"]);
    }

    #[test]
    fn one_prompt_gives_its_text_and_nothing_else() {
        let dir = ours();
        let (_, model) = checkpoint::load(dir.path(), &Device::flex()).unwrap();
        let prompt: Vec<i32> = "été".bytes().map(i32::from).collect();
        let sampling = Sampling::temperature(0.7).top_k(40).top_p(0.9);
        let how = GenerateConfig { sampling, seed: 5, ..GenerateConfig::new(30) };
        let ids = model.generate(&[prompt], &how).unwrap().remove(0);
        let options = ["--prompt", "été", "--max-new-tokens", "30", "--temperature", "0.7"];
        let options = [&options[..], &["--top-k", "40", "--top-p", "0.9", "--seed", "5"]].concat();
        assert_eq!(written(dir.path(), &options).unwrap(), Tokenizer::bytes().decode(&ids).unwrap());
    }

    #[test]
    fn the_prompt_of_a_run_is_text_only_where_its_data_are() {
        let dir = tempfile::tempdir().unwrap();
        let model = zoo::preset("hybrid", "nano").unwrap();
        checkpoint::save(&dir.path().join("step-000001"), &model, &model.init(3, &Device::flex()).unwrap()).unwrap();
        let mut config = lab::TrainConfig::new("run", model);
        let mut begin = |data: DatasetConfig| {
            config.data = data;
            std::fs::write(dir.path().join("config.json"), config.to_json()).unwrap();
        };
        begin(DatasetConfig::default());
        written(dir.path(), &["--prompt", "a", "--max-new-tokens", "2"]).unwrap();
        begin(DatasetConfig::Needle(NeedleConfig { vocab_size: 256, distractors: 0, time: 16 }));
        refused(
            dir.path(),
            &["--prompt", "a"],
            &["step-000001", "256 tokens are not known to be bytes", "--ids 1,2,3"],
        );
        written(dir.path(), &["--ids", "1,2", "--max-new-tokens", "2"]).unwrap();
    }

    #[test]
    fn several_prompts_give_a_line_of_json_each() {
        let dir = ours();
        let options = ["--prompt", "a", "--prompt", "bcd", "--max-new-tokens", "6"];
        let text = written(dir.path(), &options).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        for (line, prompt) in lines.iter().zip(["a", "bcd"]) {
            assert_eq!(line["prompt"], prompt);
            assert_eq!(line["ids"].as_array().unwrap().len(), 6);
            let alone = written(dir.path(), &["--prompt", prompt, "--max-new-tokens", "6"]).unwrap();
            assert_eq!(line["text"], alone);
        }
    }

    #[test]
    fn ids_go_in_and_come_out_where_there_is_no_tokenizer() {
        let text = written(&llama(), &["--ids", "1,5,60", "--max-new-tokens", "4"]).unwrap();
        let ids: Vec<i32> = text.split(' ').map(|id| id.parse().unwrap()).collect();
        let (_, model) = pretrained::load(&llama(), &Device::flex()).unwrap();
        let how = GenerateConfig { stop: vec![2], ..GenerateConfig::new(4) };
        assert_eq!(ids, model.generate(&[vec![1, 5, 60]], &how).unwrap()[0]);
        let lines = written(&llama(), &["--ids", "1,5,60", "--ids", "7", "--max-new-tokens", "4"]).unwrap();
        let first: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
        assert_eq!(first, json!({"prompt": [1, 5, 60], "ids": ids}));
        refused(&llama(), &["--prompt", "to be"], &["llama", "no tokenizer.json", "--ids 1,2,3"]);
    }

    #[test]
    fn the_tokenizer_and_the_end_of_text_are_the_checkpoints_own() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(llama().join(file), dir.path().join(file)).unwrap();
        }
        let words: serde_json::Map<_, _> = (0..61).map(|id| (format!("w{id}"), id.into())).collect();
        let tokenizer = json!({
            "version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"},
            "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"},
        });
        std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let options = ["--max-new-tokens", "5"];
        let ids = written(dir.path(), &[&["--ids", "1,5,60"], &options[..]].concat()).unwrap();
        let expected = ids.split(' ').map(|id| format!("w{id}")).collect::<Vec<_>>().join(" ");
        assert_eq!(written(dir.path(), &[&["--prompt", "w1 w5 w60"], &options[..]].concat()).unwrap(), expected);
        // With the first of them as the end of a text, nothing is written.
        let end = ids.split(' ').next().unwrap();
        let json = format!(r#"{{"eos_token_id": [{end}]}}"#);
        std::fs::write(dir.path().join("generation_config.json"), json).unwrap();
        assert_eq!(written(dir.path(), &[&["--prompt", "w1 w5 w60"], &options[..]].concat()).unwrap(), "");
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_could() {
        let dir = ours();
        refused(dir.path(), &["--prompt", ""], &["prompt", "at least one"]);
        refused(dir.path(), &["--prompt", "a", "--temperature", "0"], &["temperature", "0", "positive"]);
        refused(dir.path(), &["--ids", "1,x"], &["`x`", "1,2,3"]);
        refused(dir.path(), &["--ids", "256"], &["256", "0..256"]);
        refused(Path::new("../no/such"), &["--prompt", "a"], &["../no/such", "no folder", "owner/name"]);
        for options in [&[][..], &["--prompt", "a", "--ids", "1"], &["--prompt", "a", "--top-k", "3"]] {
            assert!(parsed(dir.path(), options).is_err(), "{options:?}");
        }
    }
}

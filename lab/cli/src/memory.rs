//! `cargo lab memory`: the memory network on a generated bAbI task.

use anyhow::Result;
use datasets::{Babi, BabiTask, BabiVocabulary};
use lab::{MemoryRecipe, hop_attention, memory_score, train_memory_network};
use zoo::MemoryNetworkConfig;

/// Train a memory network on a generated bAbI task, and show what each hop looks at.
///
/// Prints the training loss of every restart, the error on 1000 other questions, and for some of
/// them the attention of every hop over the story's sentences.
#[derive(clap::Args)]
pub struct Arguments {
    /// Number of the task: 1, 2, 3, 15, 16, 19 or 20
    #[arg(long)]
    task: usize,
    /// Questions to learn from
    #[arg(long, default_value_t = 1000)]
    questions: usize,
    #[arg(long, default_value_t = 3)]
    hops: usize,
    /// Trainings, of which the one with the lowest training loss is kept (the paper: 10)
    #[arg(long, default_value_t = 1)]
    restarts: usize,
    /// Linear start: epochs without the memories' softmax
    #[arg(long, default_value_t = MemoryRecipe::default().linear_epochs)]
    linear_epochs: usize,
    /// Epochs after the linear ones
    #[arg(long, default_value_t = MemoryRecipe::default().epochs)]
    epochs: usize,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Test questions whose attention is shown
    #[arg(long, default_value_t = 2)]
    show: usize,
}

const TEST_QUESTIONS: usize = 1000;
/// Of a longer story the last sentences are read.
const LONGEST: usize = 50;

pub fn run(arguments: &Arguments) -> Result<()> {
    let task = BabiTask::from_number(arguments.task)?;
    let (train, test) = (task.train(arguments.seed, arguments.questions), task.test(arguments.seed, TEST_QUESTIONS));
    let vocabulary = BabiVocabulary::of(train.iter().chain(&test));
    let (train, test) = (Babi::new(&train, &vocabulary)?, Babi::new(&test, &vocabulary)?);
    let recipe = MemoryRecipe {
        restarts: arguments.restarts,
        linear_epochs: arguments.linear_epochs,
        epochs: arguments.epochs,
        seed: arguments.seed,
        ..MemoryRecipe::default()
    };
    let longest = train.sentences().max(test.sentences()).min(LONGEST);
    let config = MemoryNetworkConfig {
        hops: arguments.hops,
        memory: recipe.memory(longest),
        ..MemoryNetworkConfig::new(vocabulary.len())
    };

    let device = lab::device()?;
    eprintln!("{}", crate::doctor::device_line()?);
    let run = train_memory_network(&config, &recipe, &train, &device)?;
    let losses: Vec<String> = run.train_losses.iter().map(|loss| format!("{loss:.4}")).collect();
    println!("training loss by restart, nats/question: {}; kept: {}", losses.join(", "), run.restart + 1);
    let error = |accuracy: f64| 100.0 * (1.0 - accuracy);
    let (score, guess) = (memory_score(&run.model, &test)?, test.chance());
    println!(
        "task {} ({task:?}), {} hops: test error {:.1} % of {} questions (the most frequent answer: {:.1} %)",
        arguments.task,
        arguments.hops,
        error(score.accuracy),
        test.examples.len(),
        error(guess)
    );
    for place in 0..arguments.show.min(test.examples.len()) {
        // Spread over the set: the first questions of a story are the easy ones.
        let place = (place + 1) * test.examples.len() / (arguments.show + 1);
        print!("\n{}", hop_attention(&run.model, &test, place)?);
    }
    Ok(())
}

use super::*;
use datasets::{BabiTask, BabiVocabulary};
use zoo::Record;

fn sets(task: BabiTask, questions: usize) -> (Babi, Babi) {
    let (train, test) = (task.train(0, questions), task.test(0, 500));
    let vocabulary = BabiVocabulary::of(train.iter().chain(&test));
    (Babi::new(&train, &vocabulary).unwrap(), Babi::new(&test, &vocabulary).unwrap())
}

fn trained(task: BabiTask, hops: usize, epochs: usize) -> (MemoryRun, MemoryScore, Babi) {
    let (train, test) = sets(task, 1000);
    let recipe = MemoryRecipe { epochs, ..MemoryRecipe::default() };
    let memory = recipe.memory(train.sentences());
    let config = MemoryNetworkConfig { hops, memory, ..MemoryNetworkConfig::new(train.vocabulary.len()) };
    let run = train_memory_network(&config, &recipe, &train, &Device::flex()).unwrap();
    let score = memory_score(&run.model, &test).unwrap();
    println!("{task:?}, {hops} hops: {:.1} %, {:?}", 100.0 * score.accuracy, run.history.last());
    (run, score, test)
}

#[test]
fn one_hop_solves_single_facts_and_looks_at_the_fact() {
    let (run, score, test) = trained(BabiTask::SingleFact, 1, 40);
    assert!(score.accuracy >= 0.95, "accuracy {}, chance {}", score.accuracy, test.chance());
    let places: Vec<usize> = (0..test.examples.len()).collect();
    let memory = run.model.config.memory;
    let batch = test.batch(&places, memory, test.words()).unwrap();
    let mut record = Record::new(&["hops.0.pattern"]);
    logits(&run.model, &batch, &mut record).unwrap();
    let pattern = record.values["hops.0.pattern"].to_vec();
    let largest = |row: &[f32]| (0..memory).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
    let found = pattern.chunks(memory).zip(&batch.facts).filter(|(row, facts)| facts.contains(&largest(row))).count();
    println!("the fact has the largest weight in {found} of {}", places.len());
    assert!(found * 10 > places.len() * 9, "in {found} of {} questions", places.len());
}

#[test]
fn three_hops_deduce_by_looking_at_both_facts() {
    let (run, score, test) = trained(BabiTask::Deduction, 3, 100);
    assert!(test.chance() < 0.35);
    assert!(score.accuracy > 0.95, "accuracy {}, chance {}", score.accuracy, test.chance());
    let largest = |hop: &Vec<f32>| (0..hop.len()).max_by(|&a, &b| hop[a].total_cmp(&hop[b])).unwrap();
    let questions = test.examples.len();
    let (mut both, mut in_order) = (0, 0);
    for place in 0..questions {
        let shown = hop_attention(&run.model, &test, place).unwrap();
        let looked: Vec<usize> = shown.hops.iter().map(largest).collect();
        // Who is of which kind, then what that kind fears.
        let facts = &test.examples[place].facts;
        both += usize::from(facts.iter().all(|fact| looked.contains(fact)));
        in_order += usize::from(looked[0] == facts[0] && looked[2] == facts[1]);
    }
    println!("both facts have some hop's largest weight in {both} of {questions}, in order in {in_order}");
    assert!(both * 4 > questions * 3, "in {both} of {questions} questions");
}

#[test]
fn the_shown_attention_is_a_row_per_hop_that_sums_to_one() {
    let (train, test) = sets(BabiTask::TwoFacts, 50);
    // Fewer memories than some stories have sentences, and more than others have.
    let config = MemoryNetworkConfig { memory: 8, ..MemoryNetworkConfig::new(train.vocabulary.len()) };
    let model = config.init(3, &Device::flex()).unwrap();
    let (mut forgetful, mut with_room) = (0, 0);
    for (place, example) in test.examples.iter().enumerate() {
        let shown = hop_attention(&model, &test, place).unwrap();
        let forgotten = example.sentences.len().saturating_sub(8);
        let words = |ids: &Vec<i32>| test.vocabulary.decode(ids);
        assert_eq!(shown.sentences, example.sentences[forgotten..].iter().map(words).collect::<Vec<_>>());
        let supports: Vec<usize> = (0..shown.supports.len()).filter(|&i| shown.supports[i]).collect();
        let mut facts: Vec<usize> = example.facts.iter().filter_map(|fact| fact.checked_sub(forgotten)).collect();
        facts.sort_unstable();
        assert_eq!(supports, facts);
        assert_eq!((shown.hops.len(), shown.empty.len()), (3, 3));
        for (hop, empty) in shown.hops.iter().zip(&shown.empty) {
            let sum = hop.iter().sum::<f32>() + empty;
            assert!((sum - 1.0).abs() < 1e-5, "{sum}");
            assert_eq!(*empty > 0.0, example.sentences.len() < 8);
        }
        let table = shown.to_string();
        assert_eq!(table.lines().count(), shown.sentences.len() + 3, "question, heads, sentences, empty:\n{table}");
        assert_eq!(table.lines().filter(|line| line.starts_with("  * ")).count(), facts.len(), "{table}");
        assert!(table.contains("hop 1") && table.contains("hop 3") && table.contains(&words(&example.question)));
        (forgetful, with_room) =
            (forgetful + usize::from(forgotten > 0), with_room + usize::from(shown.empty[0] > 0.0));
    }
    assert!(forgetful > 0 && with_room > 0);
    let message = hop_attention(&model, &test, 9999).unwrap_err().to_string();
    assert!(message.contains("place must be below") && message.contains("9999"), "{message}");
}

#[test]
fn an_empty_memory_pushes_no_sentence_out() {
    let recipe = MemoryRecipe::default();
    for sentences in [1, 8, 10, 50] {
        let memory = recipe.memory(sentences);
        let story: Vec<i32> = (0..memory as i32).map(|age| if age < sentences as i32 { age + 1 } else { 0 }).collect();
        for seed in 0..50 {
            let noisy = with_empty_memories(&story, [1, memory, 1], recipe.noise, seed).unwrap();
            assert_eq!(noisy.iter().filter(|id| **id != 0).count(), sentences);
        }
    }
}

#[test]
fn a_training_is_a_function_of_its_seed_and_starts_linear() {
    let (train, _) = sets(BabiTask::SingleFact, 100);
    let config = MemoryNetworkConfig { hops: 2, memory: 10, ..MemoryNetworkConfig::new(train.vocabulary.len()) };
    let run = |seed, restarts| {
        let recipe = MemoryRecipe {
            epochs: 5,
            linear_epochs: 3,
            halve_every: 2,
            learning_rate: 0.02,
            restarts,
            seed,
            ..MemoryRecipe::default()
        };
        train_memory_network(&config, &recipe, &train, &Device::flex()).unwrap()
    };
    let first = run(1, 1);
    assert_eq!(first.history, run(1, 1).history);
    assert_ne!(first.history, run(2, 1).history);
    let linear = first.history.iter().take_while(|epoch| epoch.linear).count();
    assert_eq!(linear, 3);
    let rates: Vec<f64> = first.history.iter().map(|epoch| epoch.learning_rate).collect();
    assert!(rates[..linear].iter().all(|rate| *rate == 0.005));
    assert_eq!(rates[linear..], [0.02, 0.02, 0.01, 0.01, 0.005]);
    assert!(!first.model.linear);
    assert_eq!((first.train_losses.len(), first.restart), (1, 0));
}

#[test]
fn of_several_restarts_the_one_with_the_lowest_training_loss_is_kept() {
    let (train, _) = sets(BabiTask::SingleFact, 100);
    let config = MemoryNetworkConfig { hops: 1, memory: 11, ..MemoryNetworkConfig::new(train.vocabulary.len()) };
    let run = |restarts| {
        let recipe = MemoryRecipe { epochs: 3, linear_epochs: 2, restarts, ..MemoryRecipe::default() };
        train_memory_network(&config, &recipe, &train, &Device::flex()).unwrap()
    };
    let all = run(5);
    let lowest = all.train_losses.iter().copied().fold(f64::INFINITY, f64::min);
    assert_eq!(all.train_losses.len(), 5);
    assert_eq!(all.train_losses[all.restart], lowest);
    assert_eq!(all.history.last().unwrap().train_loss, lowest);
    let different: std::collections::BTreeSet<u64> = all.train_losses.iter().map(|loss| loss.to_bits()).collect();
    assert_eq!(different.len(), 5, "every restart begins elsewhere: {:?}", all.train_losses);
    let fewer = run(all.restart + 1);
    assert_eq!(fewer.train_losses, all.train_losses[..=all.restart]);
    let weights = |run: &MemoryRun| run.model.embeddings[0].words.val().into_data();
    weights(&fewer).assert_eq(&weights(&all), true);
}

#[test]
fn a_diverged_restart_is_recorded_and_the_finished_ones_are_kept() {
    let config = MemoryNetworkConfig { memory: 4, ..MemoryNetworkConfig::new(10) };
    let training = |loss: f64| {
        let epoch =
            MemoryEpoch { linear: false, learning_rate: 0.01, train_loss: loss, validation_loss: loss, accuracy: 0.5 };
        let model = config.init(0, &Device::flex()).unwrap();
        Training { model, history: vec![epoch], interrupted: false }
    };
    let diverged = |restart: usize| {
        let (seed, rate, loss) = (restart as u64 + 7, 0.5, f64::NAN);
        Err(LabError::MemoryNotFinite { restart: restart + 1, seed, epoch: 3, rate, loss, gradient_norm: 2.0 })
    };
    let run = best_of(4, |restart| match restart {
        0 | 2 => diverged(restart),
        _ => Ok(training(restart as f64)),
    });
    let run = run.unwrap();
    assert_eq!(run.train_losses, [f64::INFINITY, 1.0, f64::INFINITY, 3.0]);
    assert_eq!((run.restart, run.history[0].train_loss, run.interrupted), (1, 1.0, false));
    let message = best_of(2, diverged).unwrap_err().to_string();
    assert!(message.contains("restart 2 (seed 8)") && message.contains("epoch 3 at rate 0.5"), "{message}");
}

#[test]
fn a_training_that_diverges_names_the_restart_and_its_seed() {
    let (train, _) = sets(BabiTask::SingleFact, 100);
    let config = MemoryNetworkConfig { hops: 1, memory: 11, ..MemoryNetworkConfig::new(train.vocabulary.len()) };
    let recipe =
        MemoryRecipe { epochs: 2, linear_epochs: 0, learning_rate: 1e30, restarts: 2, seed: 5, ..Default::default() };
    let message = train_memory_network(&config, &recipe, &train, &Device::flex()).unwrap_err().to_string();
    assert!(message.contains("restart 2 (seed 6)") && message.contains("in epoch 1 at rate 1000"), "{message}");
}

#[test]
fn the_stop_button_ends_a_training_after_the_epoch_and_no_restart_follows() {
    let (train, _) = sets(BabiTask::SingleFact, 40);
    let config = MemoryNetworkConfig { hops: 1, memory: 11, ..MemoryNetworkConfig::new(train.vocabulary.len()) };
    let recipe = MemoryRecipe { epochs: 3, linear_epochs: 2, ..MemoryRecipe::default() };
    let looked = std::cell::Cell::new(0);
    // Pressed in the second epoch of the second restart, the seventh of all.
    let stopped = || {
        looked.set(looked.get() + 1);
        looked.get() >= 7
    };
    let once = |restart| train_once(&config, &recipe, &train, &train, restart, &Device::flex(), &stopped);
    let run = best_of(9, once).unwrap();
    assert!(run.interrupted);
    assert_eq!((run.train_losses.len(), looked.get()), (2, 7));
    let part = once(0).unwrap();
    assert!(part.interrupted && part.history.len() == 1, "{:?}", part.history);
}

#[test]
fn a_bad_recipe_is_named() {
    let (train, _) = sets(BabiTask::SingleFact, 20);
    let config = MemoryNetworkConfig { memory: 10, ..MemoryNetworkConfig::new(train.vocabulary.len()) };
    let refused =
        |recipe: MemoryRecipe| train_memory_network(&config, &recipe, &train, &Device::flex()).unwrap_err().to_string();
    assert!(refused(MemoryRecipe { epochs: 0, ..Default::default() }).contains("epochs must be at least 1"));
    assert!(refused(MemoryRecipe { clip: 0.0, ..Default::default() }).contains("clip must be a positive number"));
    assert!(refused(MemoryRecipe { noise: 2.0, ..Default::default() }).contains("between 0 and 1"));
    assert!(refused(MemoryRecipe { validation: 1.0, ..Default::default() }).contains("validation = 1"));
    assert!(serde_json::from_str::<MemoryRecipe>(r#"{"epoch": 3}"#).unwrap_err().to_string().contains("`epoch`"));
}

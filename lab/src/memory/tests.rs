use super::*;
use datasets::{BabiTask, BabiVocabulary};
use zoo::Record;

fn sets(task: BabiTask, questions: usize) -> (Babi, Babi) {
    let (train, test) = (task.train(0, questions), task.test(0, 500));
    let vocabulary = BabiVocabulary::of(train.iter().chain(&test));
    (Babi::new(&train, &vocabulary).unwrap(), Babi::new(&test, &vocabulary).unwrap())
}

fn trained(task: BabiTask, hops: usize, memory: usize, epochs: usize) -> (MemoryRun, MemoryScore, Babi) {
    let (train, test) = sets(task, 1000);
    let config = MemoryNetworkConfig { hops, memory, ..MemoryNetworkConfig::new(train.vocabulary.len()) };
    let recipe = MemoryRecipe { epochs, ..MemoryRecipe::default() };
    let run = train_memory_network(&config, &recipe, &train, &Device::flex()).unwrap();
    let score = memory_score(&run.model, &test).unwrap();
    println!("{task:?}, {hops} hops: {:.1} %, {:?}", 100.0 * score.accuracy, run.history.last());
    (run, score, test)
}

#[test]
fn one_hop_solves_single_facts_and_looks_at_the_fact() {
    let (run, score, test) = trained(BabiTask::SingleFact, 1, 10, 40);
    assert!(score.accuracy >= 0.95, "accuracy {}, chance {}", score.accuracy, test.chance());
    let places: Vec<usize> = (0..test.examples.len()).collect();
    let batch = test.batch(&places, 10, test.words()).unwrap();
    let mut record = Record::new(&["hops.0.pattern"]);
    logits(&run.model, &batch, &mut record).unwrap();
    let pattern = record.values["hops.0.pattern"].to_vec();
    let largest = |row: &[f32]| (0..10).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
    let found = pattern.chunks(10).zip(&batch.facts).filter(|(row, facts)| facts.contains(&largest(row))).count();
    println!("the fact has the largest weight in {found} of {}", places.len());
    assert!(found * 10 > places.len() * 9, "in {found} of {} questions", places.len());
}

#[test]
fn three_hops_deduce_far_above_chance() {
    let (_, score, test) = trained(BabiTask::Deduction, 3, 8, 60);
    assert!(test.chance() < 0.35);
    assert!(score.accuracy > 0.8, "accuracy {}, chance {}", score.accuracy, test.chance());
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
    let loss = |run: &MemoryRun| run.history.last().unwrap().train_loss;
    assert!(loss(&run(1, 3)) <= loss(&first), "of several the best is kept");
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

use super::*;

fn task(random_non_queries: bool) -> Mqar {
    Mqar::new(MqarConfig { vocab_size: 64, pairs: 8, time: 64, random_non_queries, ..Default::default() }).unwrap()
}

#[test]
fn every_query_key_appears_in_the_context_with_exactly_its_value() {
    for random in [false, true] {
        let batch = task(random).train(1, 0, 32, 64);
        for row in 0..32 {
            let (ids, from) = (batch.row(row), row * 64);
            for t in (0..64).filter(|t| batch.mask[from + t] == 1.0) {
                assert!(t >= 16, "a query inside the context");
                let pair = (0..8).find(|i| ids[2 * i] == ids[t]).expect("the key is known");
                assert_eq!(ids[2 * pair + 1], batch.targets[from + t]);
            }
        }
    }
}

#[test]
fn every_pair_is_queried_once_and_only_queries_are_masked() {
    let batch = task(false).train(1, 0, 32, 64);
    assert_eq!(batch.answers(), 32 * 8);
    for row in 0..32 {
        let from = row * 64;
        let queried = |t: &usize| batch.mask[from + t] == 1.0;
        let mut queries: Vec<i32> = (0..64).filter(queried).map(|t| batch.ids[from + t]).collect();
        let mut keys: Vec<i32> = (0..8).map(|i| batch.ids[from + 2 * i]).collect();
        queries.sort_unstable();
        keys.sort_unstable();
        assert_eq!(queries, keys);
        // Without random filling, what is no query is empty.
        assert!((16..64).all(|t| queried(&t) == (batch.ids[from + t] != 0)));
    }
}

#[test]
fn keys_and_values_keep_to_their_halves_and_do_not_repeat() {
    let batch = task(true).train(3, 5, 16, 64);
    assert!(batch.ids.iter().chain(&batch.targets).all(|id| (0..64).contains(id)));
    for row in 0..16 {
        let mut context = batch.row(row)[..16].to_vec();
        assert!(context.chunks(2).all(|p| (1..32).contains(&p[0]) && (32..64).contains(&p[1])));
        context.sort_unstable();
        context.dedup();
        assert_eq!(context.len(), 16);
    }
}

#[test]
fn gaps_follow_the_power_law() {
    // First draws only: P(0) = 1 / H where H = Σ n^(a-1).
    let harmonic: f64 = (1..=16).map(|n| f64::from(n).powf(-0.99)).sum();
    let draws = 4000;
    let firsts = (0..draws).filter(|&row| gaps(&mut stream(Purpose::Train, 0, 0, row), 16, 1, 0.01)[0] == 0).count();
    let (share, expected) = (firsts as f64 / draws as f64, 1.0 / harmonic);
    assert!((share - expected).abs() < 0.03, "{share} against {expected}");
}

#[test]
fn the_batch_is_a_function_of_seed_and_step() {
    let task = task(true);
    let batch = task.train(7, 3, 4, 64);
    assert_eq!(batch, task.train(7, 3, 4, 64));
    assert_ne!(batch, task.train(7, 4, 4, 64));
    assert_ne!(batch, task.train(8, 3, 4, 64));
    assert_ne!(task.validation(0, 4, 64), task.train(0, 0, 4, 64));
}

#[test]
fn symbols_are_readable() {
    assert_eq!(task(true).decode(&[0, 1, 31, 32, 63, 64, -1]), "· k1 k31 v0 v31 <64> <-1>");
}

#[test]
fn bad_parameters_are_named_with_valid_ones() {
    let refused = |config: MqarConfig| Mqar::new(config).unwrap_err().to_string();
    let base = MqarConfig::default;
    let message = refused(MqarConfig { time: 15, ..base() });
    assert!(message.contains("time = 15") && message.contains("at least 16"), "{message}");
    let message = refused(MqarConfig { vocab_size: 9, ..base() });
    assert!(message.contains("vocab_size = 9") && message.contains("10"), "{message}");
    let message = refused(MqarConfig { power_a: 0.0, ..base() });
    assert!(message.contains("power_a = 0"), "{message}");
    assert!(refused(MqarConfig { pairs: 0, ..base() }).contains("pairs = 0"));
    assert!(Mqar::new(MqarConfig { vocab_size: 10, time: 16, ..base() }).is_ok());
}

use super::*;

const TIME: usize = 40;

fn task(distractors: usize) -> Needle {
    Needle::new(NeedleConfig { vocab_size: 64, distractors, time: TIME }).unwrap()
}

/// Keys are `1..=21`, values `22..=42`, noise `43..64` for a vocabulary of 64.
fn keys(row: &[i32]) -> Vec<usize> {
    (0..TIME - 2).filter(|&t| (1..=21).contains(&row[t])).collect()
}

#[test]
fn the_answer_is_the_value_after_the_queried_key() {
    for distractors in [0, 3, 17] {
        let batch = task(distractors).train(1, 2, 64, TIME);
        for row in 0..64 {
            let ids = batch.row(row);
            let (query, answer) = (ids[TIME - 1], batch.targets[(row + 1) * TIME - 1]);
            let places: Vec<_> = keys(ids).into_iter().filter(|&t| ids[t] == query).collect();
            assert_eq!(places.len(), 1, "the key stands once in the haystack");
            assert_eq!(ids[places[0] + 1], answer);
            assert_eq!(keys(ids).len(), distractors + 1);
            let values = ids.iter().filter(|id| (22..=42).contains(*id)).count();
            assert_eq!(values, distractors + 1);
        }
    }
}

#[test]
fn only_the_last_position_counts() {
    let batch = task(2).validation(0, 8, TIME);
    assert_eq!(batch.answers(), 8);
    assert!((0..8).all(|row| batch.mask[(row + 1) * TIME - 1] == 1.0));
    assert!(batch.ids.iter().chain(&batch.targets).all(|id| (0..64).contains(id)));
}

#[test]
fn the_needle_lies_at_the_depth_asked_for() {
    for (depth, expected) in [(0.0, 0), (0.25, 9), (0.5, 18), (1.0, TIME - 4)] {
        let batch = task(3).at_depth(5, depth, 16, TIME);
        for row in 0..16 {
            let ids = batch.row(row);
            assert_eq!(ids[expected], ids[TIME - 1], "depth {depth}");
        }
    }
}

#[test]
fn depths_of_one_seed_ask_the_same_questions() {
    let task = task(3);
    let (first, last) = (task.at_depth(5, 0.0, 8, TIME), task.at_depth(5, 1.0, 8, TIME));
    assert_eq!(first.targets, last.targets);
    assert_ne!(first.ids, last.ids);
    assert_ne!(task.at_depth(6, 0.0, 8, TIME).targets, first.targets);
}

#[test]
fn training_needles_reach_every_depth() {
    let batch = task(0).train(0, 0, 2000, TIME);
    let mut seen = [false; TIME - 3];
    for row in 0..2000 {
        seen[keys(batch.row(row))[0]] = true;
    }
    assert!(seen.iter().all(|&s| s));
}

#[test]
fn the_batch_is_a_function_of_seed_and_step() {
    let task = task(2);
    let batch = task.train(7, 3, 4, TIME);
    assert_eq!(batch, task.train(7, 3, 4, TIME));
    assert_ne!(batch, task.train(7, 4, 4, TIME));
    assert_ne!(batch, task.train(8, 3, 4, TIME));
    assert_ne!(task.validation(0, 4, TIME), task.train(0, 0, 4, TIME));
}

#[test]
fn symbols_are_readable() {
    assert_eq!(task(0).decode(&[0, 1, 21, 22, 42, 43, 63, 64]), "? k0 k20 v0 v20 n0 n20 <64>");
}

#[test]
fn bad_parameters_are_named_with_valid_ones() {
    let refused = |config| Needle::new(config).unwrap_err().to_string();
    let message = refused(NeedleConfig { distractors: 4, time: 13, vocab_size: 64 });
    assert!(message.contains("time = 13") && message.contains("at least 14"), "{message}");
    let message = refused(NeedleConfig { distractors: 4, time: 14, vocab_size: 15 });
    assert!(message.contains("vocab_size = 15") && message.contains("16"), "{message}");
    let tight = Needle::new(NeedleConfig { distractors: 4, time: 14, vocab_size: 16 }).unwrap();
    tight.train(0, 0, 200, 14); // every position of the needle leaves room for the others
}

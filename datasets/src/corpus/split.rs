//! Which text trains and which is kept back.

use serde::{Deserialize, Serialize};

use crate::random::stable_hash;

/// A piece of text that is never divided between the parts, unless there is no other way.
pub(super) struct Document {
    /// A crate, or a path relative to the folder.
    pub name: String,
    /// Documents of one group go to the same part.
    pub group: String,
    pub text: String,
}

/// The two parts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Split {
    pub train: String,
    pub validation: String,
    pub train_documents: Vec<String>,
    pub validation_documents: Vec<String>,
    /// In words, how it was split.
    pub rule: String,
}

/// The validation text gets at least a tenth of the bytes, and a fifth at most.
const LEAST: f64 = 0.1;
const MOST: f64 = 0.2;

/// Splits documents, in this order of preference:
///
/// 1. Where file names say it (one has the word `train`, another `valid`, `validation`, `dev`,
///    `eval` or `test`), as they say; a name that says nothing trains.
/// 2. Whole groups, in the order of a stable hash of their names, until at least 10 % of the bytes
///    are validation; a group that would lead above 20 % stays in training.
/// 3. Where the groups are too few and too large for that: the last tenth of every document.
pub(super) fn split(documents: Vec<Document>) -> Split {
    let held_out: Vec<bool> = match by_name(&documents).or_else(|| by_hash(&documents)) {
        Some(held_out) => held_out,
        None => return by_tail(documents),
    };
    let mut split = Split { rule: "split by document".into(), ..Split::default() };
    for (document, held_out) in documents.into_iter().zip(held_out) {
        let (text, names) = if held_out {
            (&mut split.validation, &mut split.validation_documents)
        } else {
            (&mut split.train, &mut split.train_documents)
        };
        append(text, &document.text);
        names.push(document.name);
    }
    split
}

/// Whether a name says that the text trains (true), or that it is kept back.
pub(super) fn named(name: &str) -> Option<bool> {
    const HELD_OUT: [&str; 5] = ["valid", "validation", "dev", "eval", "test"];
    let name = name.to_lowercase();
    let says = |words: &[&str]| name.split(|c: char| !c.is_alphanumeric()).any(|word| words.contains(&word));
    match says(&HELD_OUT) {
        true => Some(false),
        false => says(&["train"]).then_some(true),
    }
}

fn by_name(documents: &[Document]) -> Option<Vec<bool>> {
    let held_out: Vec<bool> = documents.iter().map(|d| named(&d.name) == Some(false)).collect();
    let trains = documents.iter().any(|d| named(&d.name) == Some(true));
    (trains && held_out.contains(&true)).then_some(held_out)
}

fn by_hash(documents: &[Document]) -> Option<Vec<bool>> {
    let total: usize = documents.iter().map(|d| d.text.len()).sum();
    let mut groups = std::collections::BTreeMap::<&str, usize>::new();
    for document in documents {
        *groups.entry(&document.group).or_default() += document.text.len();
    }
    let mut order: Vec<_> = groups.into_iter().collect();
    order.sort_by_key(|(name, _)| (stable_hash(name.as_bytes()), *name));

    let (least, most) = ((total as f64 * LEAST).ceil() as usize, (total as f64 * MOST) as usize);
    let mut taken = std::collections::BTreeSet::new();
    let mut bytes = 0;
    for (name, size) in order {
        if bytes < least && bytes + size <= most {
            bytes += size;
            taken.insert(name);
        }
    }
    (bytes >= least && bytes > 0).then(|| documents.iter().map(|d| taken.contains(d.group.as_str())).collect())
}

fn by_tail(documents: Vec<Document>) -> Split {
    let mut split = Split { rule: "the last tenth of every document".into(), ..Split::default() };
    for document in documents {
        let cut = document.text.floor_char_boundary((document.text.len() as f64 * 0.9) as usize);
        let (train, validation) = document.text.split_at(cut);
        append(&mut split.train, train);
        append(&mut split.validation, validation);
        split.train_documents.push(document.name.clone());
        split.validation_documents.push(document.name);
    }
    split
}

/// Documents begin on a line of their own.
fn append(text: &mut String, more: &str) {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(more);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(sizes: impl IntoIterator<Item = (String, usize)>) -> Vec<Document> {
        sizes
            .into_iter()
            .map(|(name, size)| Document {
                group: name.split('-').next().unwrap().to_owned(),
                text: "x".repeat(size - 1) + "\n",
                name,
            })
            .collect()
    }

    #[test]
    fn no_group_is_in_both_parts_and_validation_has_its_tenth() {
        for (groups, size) in [(10, 100), (40, 37), (300, 9)] {
            let sizes = (0..groups).flat_map(|g| (0..3).map(move |i| (format!("group{g}-{i}"), size)));
            let split = split(documents(sizes));
            let group = |name: &String| name.split('-').next().unwrap().to_owned();
            let train: std::collections::BTreeSet<_> = split.train_documents.iter().map(group).collect();
            assert!(split.validation_documents.iter().all(|name| !train.contains(&group(name))));
            let total = groups * 3 * size;
            assert_eq!(split.train.len() + split.validation.len(), total);
            let share = split.validation.len() as f64 / total as f64;
            assert!((LEAST..=MOST).contains(&share), "{share} for {groups} groups");
        }
    }

    #[test]
    fn one_large_document_gives_its_tail() {
        let split = split(documents([("only".to_owned(), 1000)]));
        assert_eq!((split.train.len(), split.validation.len()), (900, 100));
        assert_eq!(split.train_documents, split.validation_documents);
    }

    #[test]
    fn a_cut_never_divides_a_character() {
        let text = "ü".repeat(33);
        let document = Document { name: "a".into(), group: "a".into(), text: text.clone() };
        let split = split(vec![document]);
        assert_eq!(split.train + &split.validation, text);
    }

    #[test]
    fn names_that_say_train_and_validation_are_believed() {
        let split = split(documents([
            ("wiki.test.txt".to_owned(), 50),
            ("wiki.train.txt".to_owned(), 60),
            ("wiki.valid.txt".to_owned(), 70),
            ("latest.txt".to_owned(), 80), // contains "test", is not the word
        ]));
        assert_eq!(split.validation_documents, ["wiki.test.txt", "wiki.valid.txt"]);
        assert_eq!(split.train_documents, ["wiki.train.txt", "latest.txt"]);
    }
}

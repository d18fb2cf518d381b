//! What the comparisons share: a family's files, how far apart two tensors are, and how a tensor of
//! ours is made of theirs.

use burn::tensor::TensorData;
use std::path::{Path, PathBuf};
use zoo::checkpoint::{self, Tensors};

pub fn folder(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/data").join(family)
}

pub fn reference(family: &str) -> Tensors {
    checkpoint::read(&folder(family).join("reference.safetensors")).expect("a reference").0
}

/// The gradients of a reference, without their prefix.
pub fn reference_gradients(family: &str) -> Tensors {
    let named = |(name, data): (String, TensorData)| Some((name.strip_prefix("grad.")?.to_owned(), data));
    reference(family).into_iter().filter_map(named).collect()
}

/// The fields of a `config.json`.
pub struct Fields(serde_json::Value);

impl Fields {
    pub fn of(family: &str) -> Self {
        let json = std::fs::read_to_string(folder(family).join("config.json")).unwrap();
        Self(serde_json::from_str(&json).unwrap())
    }
    pub fn size(&self, name: &str) -> usize {
        self.0[name].as_u64().unwrap_or_else(|| panic!("{name}: a whole number, not {}", self.0[name])) as usize
    }
    pub fn number(&self, name: &str) -> f64 {
        self.0[name].as_f64().unwrap_or_else(|| panic!("{name}: a number, not {}", self.0[name]))
    }
    pub fn flag(&self, name: &str) -> bool {
        self.0[name].as_bool().unwrap_or_else(|| panic!("{name}: a boolean, not {}", self.0[name]))
    }
    pub fn inner(&self, name: &str) -> Self {
        Self(self.0[name].clone())
    }
}

/// The largest difference, as a part of the largest value expected.
fn relative(what: &str, found: &TensorData, expected: &TensorData) -> f64 {
    assert_eq!(found.shape(), expected.shape(), "{what}");
    let values = |data: &TensorData| data.iter::<f64>().collect::<Vec<_>>();
    let (found, expected) = (values(found), values(expected));
    let scale = expected.iter().fold(0f64, |most, x| most.max(x.abs()));
    assert!(scale > 0.0, "{what}: the reference is zero");
    found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / scale
}

pub fn assert_close(what: &str, found: &TensorData, expected: &TensorData, tolerance: f64) {
    let error = relative(what, found, expected);
    assert!(error < tolerance, "{what}: off by {error:e}, allowed {tolerance:e}");
}

/// Rows of one of their tensors: `count` from row `from` of each of `groups` equal groups.
#[derive(Clone)]
pub struct Rows {
    theirs: String,
    groups: usize,
    from: usize,
    count: Option<usize>,
}

/// All of them.
pub fn all(theirs: &str) -> Rows {
    Rows { theirs: theirs.into(), groups: 1, from: 0, count: None }
}

pub fn rows(theirs: &str, groups: usize, from: usize, count: usize) -> Rows {
    Rows { theirs: theirs.into(), groups, from, count: Some(count) }
}

/// Our names, each with the rows that follow one another in it.
pub type Layout = Vec<(String, Vec<Rows>)>;

/// Those of our tensors that are theirs under another name or the same one.
pub fn renamed(names: &[(&str, &str)]) -> Layout {
    names.iter().map(|(ours, theirs)| (ours.to_string(), vec![all(theirs)])).collect()
}

/// The same layout below two prefixes.
pub fn below(ours: &str, theirs: &str, layout: Layout) -> Layout {
    let part = |rows: Rows| Rows { theirs: format!("{theirs}{}", rows.theirs), ..rows };
    layout.into_iter().map(|(name, parts)| (format!("{ours}{name}"), parts.into_iter().map(part).collect())).collect()
}

/// The four projections of softmax attention, below `prefix` of ours.
pub fn projections(prefix: &str) -> Layout {
    ["q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight"]
        .map(|name| (format!("{prefix}{name}"), vec![all(name)]))
        .into()
}

/// Their tensors as ours, in the shapes of `ours`, each of theirs used.
pub fn translate(layout: &Layout, theirs: &Tensors, ours: &Tensors) -> Tensors {
    let mut taken = 0;
    let translated = layout.iter().map(|(name, parts)| {
        let values = parts.iter().flat_map(|part| {
            let data = theirs.get(&part.theirs).unwrap_or_else(|| panic!("they have no {}", part.theirs));
            let values: Vec<f32> = data.iter::<f32>().collect();
            let group = values.len() / part.groups;
            let width = values.len() / data.shape()[0];
            let count = part.count.map_or(group, |count| count * width);
            (0..part.groups)
                .flat_map(move |g| values[g * group + part.from * width..][..count].to_vec())
                .collect::<Vec<_>>()
        });
        let values: Vec<f32> = values.collect();
        taken += values.len();
        let shape = ours.get(name).unwrap_or_else(|| panic!("we have no {name}")).shape().to_vec();
        (name.clone(), TensorData::new(values, shape))
    });
    let translated = translated.collect();
    assert_eq!(taken, theirs.values().map(TensorData::num_elements).sum::<usize>(), "not all of theirs is used");
    translated
}

//! `model.safetensors`, or the shards that an index names, open.

use super::layout::Shapes;
use super::problem;
use crate::ZooError;
use crate::checkpoint::{File, INDEX, WEIGHTS, read_text};
use burn::tensor::TensorData;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

pub(super) struct Shards {
    pub files: Vec<File>,
    /// Which file holds a tensor.
    places: BTreeMap<String, usize>,
}

impl Shards {
    /// # Errors
    /// A missing or damaged file; an index that names what is not there, or a place outside `dir`.
    pub fn open(dir: &Path) -> Result<Self, ZooError> {
        let index = dir.join(INDEX);
        // A link that leads nowhere is an index that cannot be read, not the absence of one.
        if index.symlink_metadata().is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound) {
            let file = File::open(&dir.join(WEIGHTS))?;
            let places = file.stored().into_keys().map(|name| (name, 0)).collect();
            return Ok(Self { files: vec![file], places });
        }
        let weight_map = weight_map(&index)?;
        let names: BTreeSet<&String> = weight_map.values().collect();
        let (mut files, mut places) = (Vec::new(), BTreeMap::new());
        for (number, shard) in names.into_iter().enumerate() {
            // A shard lies beside its index and nowhere else.
            if Path::new(shard).components().count() != 1 || shard.contains(['/', '\\']) || shard == ".." {
                return Err(problem(&index, format!("`{shard}` is no file name")));
            }
            let file = File::open(&dir.join(shard))?;
            let held = file.stored().into_keys().filter(|name| weight_map.get(name) == Some(shard));
            places.extend(held.map(|name| (name, number)));
            files.push(file);
        }
        let absent: Vec<&str> = weight_map.keys().filter(|n| !places.contains_key(*n)).map(String::as_str).collect();
        if !absent.is_empty() {
            return Err(problem(&index, format!("not in the shards it names: {}", absent.join(", "))));
        }
        Ok(Self { files, places })
    }

    /// The shape of every tensor.
    pub fn shapes(&self) -> Shapes {
        let stored: Vec<_> = self.files.iter().map(File::stored).collect();
        self.places.iter().map(|(name, &file)| (name.clone(), stored[file][name].shape.clone())).collect()
    }

    /// # Errors
    /// A name that no file holds; what cannot be a weight.
    pub fn weight(&self, name: &str) -> Result<TensorData, ZooError> {
        self.files[self.places.get(name).copied().unwrap_or(0)].weight(name)
    }
}

/// Which shard holds a tensor, as an index says.
pub(super) fn weight_map(index: &Path) -> Result<BTreeMap<String, String>, ZooError> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let Index { weight_map } = serde_json::from_str(&read_text(index)?).map_err(|e| problem(index, e.to_string()))?;
    Ok(weight_map)
}

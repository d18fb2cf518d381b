//! What a build consists of, by cargo's own plan: which crates, what each is made from, how long it may take.

use super::build::{Cargo, Watch};
use super::run::output;
use anyhow::{Context, Result};
use semver::Version;
use serde::Deserialize;
use serde_json::Value;
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Every compilation of a `cargo build --workspace`.
#[derive(Debug, Default)]
pub struct Plan {
    pub units: Vec<Unit>,
    /// What the package `notebooks` depends on: the name that a cell writes, cargo's name of the package, and
    /// its features.
    pub preloaded: BTreeMap<String, (String, Vec<String>)>,
    /// What [`super::project::project`] makes of it.
    pub project: Value,
}

#[derive(Debug, Clone)]
pub struct Unit {
    /// As cargo writes it in its messages.
    pub package: String,
    pub target: String,
    /// About how long one core takes.
    pub seconds: f64,
    /// When its source was last changed.
    pub changed: Option<SystemTime>,
    /// The same for the same package, features and profile on the same dependencies: cargo does not
    /// compile it again.
    identity: u64,
}

/// cargo's `--unit-graph`.
#[derive(Deserialize)]
struct Graph {
    units: Vec<Node>,
}

#[derive(Deserialize)]
pub struct Node {
    pub pkg_id: String,
    pub target: Target,
    profile: Profile,
    pub features: Vec<String>,
    mode: String,
    pub dependencies: Vec<Edge>,
}

#[derive(Deserialize)]
pub struct Target {
    pub name: String,
    kind: Vec<String>,
    pub src_path: PathBuf,
    pub edition: String,
}

#[derive(Deserialize)]
struct Profile {
    opt_level: String,
}

#[derive(Deserialize)]
pub struct Edge {
    pub index: usize,
    pub extern_crate_name: String,
}

impl Node {
    pub fn is_of(&self, package: &str) -> bool {
        named(&self.pkg_id).split('@').next() == Some(package)
    }

    /// Compiled for others to use, macros apart.
    pub fn is_library(&self) -> bool {
        let kinds = &self.target.kind;
        self.mode == "build" && ["lib", "rlib", "dylib"].iter().any(|kind| kinds.iter().any(|own| own == kind))
    }
}

impl Target {
    pub fn crate_name(&self) -> String {
        self.name.replace('-', "_")
    }
}

#[cfg(test)]
impl Unit {
    pub fn for_test(name: &str, seconds: f64) -> Self {
        Self { package: name.into(), target: name.into(), seconds, changed: None, identity: 0 }
    }
}

impl Plan {
    /// Asks cargo; nothing is compiled. Crates that the lock file does not name are looked up.
    pub fn of(cargo: &Cargo, watch: &mut dyn Watch) -> Result<Self> {
        let mut plan = cargo.command();
        plan.args(["build", "--workspace", "--unit-graph", "-Zunstable-options"]);
        // The plan is an unstable option; only this cargo, which runs no compiler, gets to see it.
        plan.env("RUSTC_BOOTSTRAP", "1");
        let text = output(&mut plan, cargo.apart, watch)?;
        Ok(Self::read(serde_json::from_str(&text).context("cargo's plan cannot be read")?))
    }

    fn read(Graph { units: nodes }: Graph) -> Self {
        let mut identities = vec![None; nodes.len()];
        let mut sizes = HashMap::new();
        let mut plan = Self { project: super::project::project(&nodes), ..Self::default() };
        for (at, node) in nodes.iter().enumerate() {
            let source = node.target.src_path.parent().unwrap_or(Path::new("")).to_path_buf();
            let (bytes, changed) = *sizes.entry(source).or_insert_with_key(|folder| rust(folder));
            plan.units.push(Unit {
                package: node.pkg_id.clone(),
                target: node.target.crate_name(),
                seconds: seconds(bytes, &node.profile.opt_level),
                changed,
                identity: identity(at, &nodes, &mut identities),
            });
            if node.is_of("notebooks") && node.mode == "build" {
                let edges = node.dependencies.iter();
                plan.preloaded.extend(edges.map(|edge| {
                    let node = &nodes[edge.index];
                    (edge.extern_crate_name.clone(), (node.pkg_id.clone(), node.features.clone()))
                }));
            }
        }
        plan
    }

    /// What this build compiles that `other` did not, and what has been edited since.
    pub fn beyond(&self, other: &Self, edited: impl Fn(&Unit) -> bool) -> Vec<&Unit> {
        let known: HashSet<u64> = other.units.iter().map(|unit| unit.identity).collect();
        self.units.iter().filter(|unit| !known.contains(&unit.identity) || edited(unit)).collect()
    }

    /// About how long `units` take where all cores are free.
    pub fn estimate<'a>(units: impl IntoIterator<Item = &'a Unit>) -> Duration {
        Duration::from_secs_f64(units.into_iter().map(|unit| unit.seconds).sum::<f64>() / cores())
    }
}

pub fn cores() -> f64 {
    std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64)
}

/// Seconds of one core, by the source: fitted to a cold build of this workspace on an AMD EPYC of 2025. Single
/// crates are off by several times (generic code is compiled where it is used), the sum is not.
fn seconds(bytes: u64, level: &str) -> f64 {
    let by_megabyte = if level == "0" { 1.3 } else { 26.0 };
    0.3 + by_megabyte * bytes as f64 / 1e6
}

/// `path+file:///a/b/zoo#0.1.0` and `registry+…#serde@1.0.228` as `name@version`: where a workspace lies is
/// no part of what it is.
pub fn named(package: &str) -> String {
    let (place, name) = package.rsplit_once('#').unwrap_or(("", package));
    match name.contains('@') {
        true => name.into(),
        false => format!("{}@{name}", place.rsplit('/').next().unwrap_or_default()),
    }
}

/// `registry+…#serde@1.0.228` → 1.0.228.
pub fn version(package: &str) -> Version {
    let name = named(package);
    let text = name.rsplit('@').next().unwrap_or_default();
    Version::parse(text).unwrap_or(Version::new(0, 0, 0))
}

fn identity(at: usize, nodes: &[Node], known: &mut Vec<Option<u64>>) -> u64 {
    if let Some(identity) = known[at] {
        return identity;
    }
    let Node { pkg_id, target, profile, features, mode, dependencies } = &nodes[at];
    let below: Vec<u64> = dependencies.iter().map(|edge| identity(edge.index, nodes, known)).collect();
    let mut hasher = DefaultHasher::new();
    (named(pkg_id), &target.name, &profile.opt_level, features, mode, below).hash(&mut hasher);
    *known[at].insert(hasher.finish())
}

/// How much Rust is in the folder and below, and when it was last changed.
fn rust(folder: &Path) -> (u64, Option<SystemTime>) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let all = entries.map(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => rust(&entry.path()),
        Ok(_) if entry.path().extension().is_some_and(|kind| kind == "rs") => {
            entry.metadata().map_or((0, None), |file| (file.len(), file.modified().ok()))
        }
        _ => (0, None),
    });
    all.fold((0, None), |(bytes, last), (more, changed)| (bytes + more, last.max(changed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_compiles_what_is_new_and_what_has_been_edited() {
        let unit = |name: &str, identity| Unit { identity, ..Unit::for_test(name, 1.0) };
        let before = Plan { units: vec![unit("a", 1), unit("b", 2)], ..Plan::default() };
        let after = Plan { units: vec![unit("a", 1), unit("b", 2), unit("c", 3)], ..Plan::default() };
        let names = |edited: &str| -> Vec<String> {
            after.beyond(&before, |unit| unit.package == edited).iter().map(|unit| unit.package.clone()).collect()
        };
        assert_eq!(names("none"), ["c"]);
        assert_eq!(names("b"), ["b", "c"]);
        assert_eq!(names("c"), ["c"], "once");
    }

    #[test]
    fn the_last_change_of_a_source_is_that_of_its_newest_file_wherever_it_lies() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("deep")).unwrap();
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        for (name, seconds) in [("lib.rs", 10), ("deep/part.rs", 30), ("notes.txt", 90)] {
            let file = std::fs::File::create(folder.path().join(name)).unwrap();
            file.set_len(5).unwrap();
            file.set_modified(at(seconds)).unwrap();
        }
        assert_eq!(rust(folder.path()), (10, Some(at(30))));
    }
}

//! What a build consists of, by cargo's own plan: which crates, what each is made from, how long it may take.

use anyhow::{Context, Result, bail};
use semver::Version;
use serde::Deserialize;
use serde_json::Value;
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

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
        Self { package: name.into(), target: name.into(), seconds, identity: 0 }
    }
}

impl Plan {
    /// Asks cargo; nothing is compiled. Crates that the lock file does not name are looked up.
    pub fn of(cargo: &Path, workspace: &Path) -> Result<Self> {
        let output = Command::new(cargo)
            .args(["build", "--workspace", "--unit-graph", "-Zunstable-options"])
            // The plan is an unstable option; only this cargo, which runs no compiler, gets to see it.
            .env("RUSTC_BOOTSTRAP", "1")
            .current_dir(workspace)
            .output()
            .context("cannot run cargo; is the Rust toolchain installed?")?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(Self::read(serde_json::from_slice(&output.stdout).context("cargo's plan cannot be read")?))
    }

    fn read(Graph { units: nodes }: Graph) -> Self {
        let mut identities = vec![None; nodes.len()];
        let mut sizes = HashMap::new();
        let mut plan = Self { project: super::project::project(&nodes), ..Self::default() };
        for (at, node) in nodes.iter().enumerate() {
            let source = node.target.src_path.parent().unwrap_or(Path::new("")).to_path_buf();
            let bytes = *sizes.entry(source).or_insert_with_key(|folder| rust_bytes(folder));
            plan.units.push(Unit {
                package: node.pkg_id.clone(),
                target: node.target.crate_name(),
                seconds: seconds(bytes, &node.profile.opt_level),
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

    /// What this build compiles that `other` did not.
    pub fn beyond(&self, other: &Self) -> Vec<&Unit> {
        let known: HashSet<u64> = other.units.iter().map(|unit| unit.identity).collect();
        self.units.iter().filter(|unit| !known.contains(&unit.identity)).collect()
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

/// How much Rust is in the folder and below.
fn rust_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => rust_bytes(&entry.path()),
            Ok(_) if entry.path().extension().is_some_and(|kind| kind == "rs") => {
                entry.metadata().map_or(0, |m| m.len())
            }
            _ => 0,
        })
        .sum()
}

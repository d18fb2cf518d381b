//! Adds a crate to the session: what `:dep` does for a crate that is not inside.

use super::attempt::{Attempt, LOCK, MANIFEST, Manifests, manifests};
use super::build::{Cargo, Watch};
use super::plan::{self, Plan, Unit};
use super::{make, modified, read, write};
use crate::toolkit::{Inside, Toolkit};
use anyhow::{Context, Result, anyhow};
use semver::VersionReq;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::{Table, Value};

/// A dependency as a cell asks for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Addition {
    /// As the cell's code writes it.
    pub name: String,
    /// As `Cargo.toml` has it, without the name: `"1"`, `{ version = "1", features = ["x"] }`.
    wanted: Value,
    /// As `Cargo.toml` writes it, with its hyphens.
    key: String,
}

impl Addition {
    /// Reads what follows `:dep`: `name`, `name@1`, `name = "1"`, `name = { … }`.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        let wrong = |why: &str| {
            anyhow!(
                "`{text}` {why}; it is written `:dep NAME`, `:dep NAME = \"1\"` or `:dep NAME = {{ version = \"1\", features = [\"…\"] }}`"
            )
        };
        let letter = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
        let is_name = |name: &str| !name.is_empty() && name.chars().all(letter);
        let (name, version) = text.split_once('@').unwrap_or((text, ANY));
        let (key, wanted) = match is_name(name) {
            true => (name.to_string(), Value::from(version)),
            false => {
                let table = text.parse::<Table>().map_err(|error| wrong(error.message()))?;
                let entry = table.into_iter().next().filter(|(key, _)| is_name(key));
                entry.ok_or_else(|| wrong("names no crate"))?
            }
        };
        Ok(Self { name: key.replace('-', "_"), wanted, key })
    }

    /// The versions it asks for; None where it names a folder or a repository.
    pub fn versions(&self) -> Option<VersionReq> {
        let text = match &self.wanted {
            Value::Table(table) if table.contains_key("path") || table.contains_key("git") => None,
            Value::Table(table) => table.get("version").map_or(Some(ANY), Value::as_str),
            version => version.as_str(),
        };
        // What cannot be read is cargo's to complain of.
        VersionReq::parse(text?).ok()
    }

    /// The features it asks for.
    pub fn features(&self) -> Vec<&str> {
        let list = self.wanted.get("features").and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// A line of `Cargo.toml`. A folder given from where the notebook is becomes a whole path.
    fn line(&self) -> Result<String> {
        let mut wanted = self.wanted.clone();
        if let Some(Value::String(path)) = wanted.get_mut("path") {
            *path = std::path::absolute(path.as_str())?.display().to_string();
        }
        Ok(format!("{} = {wanted}", self.key))
    }
}

const ANY: &str = "*";

/// An addition that cargo can carry out, and what it comes to.
#[derive(Debug)]
pub struct Proposal {
    pub name: String,
    /// What is compiled, as `name version`, the project's own packages left out.
    pub new: Vec<String>,
    /// How many crates of all are compiled, and about how long that and linking take.
    pub compiled: usize,
    pub time: Duration,
    /// Nothing is to be done: it is in a folder or a repository, and an earlier run of the same line has added it.
    pub inside: bool,
    before: Manifests,
    after: Manifests,
}

/// Asks cargo what an addition would come to, in a copy of the workspace's manifests: nothing is changed.
pub fn propose(toolkit: &Toolkit, addition: &Addition, watch: &mut dyn Watch) -> Result<Proposal> {
    let workspace = &toolkit.workspace;
    // An addition that broke off is no part of the project.
    Attempt::open(target(toolkit)?, workspace)?;
    let program = cargo(toolkit);
    let cargo = Cargo { program: &program, rustc: Some(&toolkit.rustc), workspace, target: None, apart: true };
    let now = Plan::of(&cargo, watch)?;
    let before = manifests(workspace)?;
    let folder = mirror(workspace)?;
    // As cargo will call it.
    let mirror = folder.path().canonicalize()?;
    let mut manifest = with(&before[0], &addition.key, &addition.line()?);
    write(&mirror.join(MANIFEST), &manifest)?;
    // What cargo complains about stands in the workspace.
    let real = |error: anyhow::Error| {
        let (copy, real) = (mirror.display().to_string(), workspace.display().to_string());
        anyhow!("{}", format!("{error:#}").replace(&copy, &real))
    };
    let then = Plan::of(&Cargo { workspace: &mirror, ..cargo }, watch).map_err(real)?;
    let (package, features) =
        then.preloaded.get(&addition.name).context("cargo does not list it among the dependencies")?;
    // «Any version» was good for the question; what is written down is the answer.
    if addition.wanted.as_str() == Some(ANY) {
        let line = format!("{} = \"{}\"", addition.key, plan::version(package));
        manifest = with(&before[0], &addition.key, &line);
    }
    let after = [manifest, read(&mirror.join(LOCK))?];
    let own = format!("path+file://{}", mirror.display());
    let linked = modified(&toolkit.dylib);
    // Of crates in folders, by their Rust. What has changed in the project itself is not what the line asks for.
    let edited =
        |unit: &Unit| unit.package.starts_with("path+") && !unit.package.starts_with(&own) && unit.changed > linked;
    let units = then.beyond(&now, edited);
    let foreign = units.iter().filter(|unit| !unit.package.starts_with(&own));
    let mut new: Vec<String> = foreign.map(|unit| plan::named(&unit.package).replace('@', " ")).collect();
    new.sort();
    new.dedup();
    let same = |inside: &Inside| {
        inside.preloaded
            && inside.version == plan::version(package)
            && inside.features == *features
            && modified(&inside.path).is_some_and(|made| Some(made) <= linked)
    };
    Ok(Proposal {
        name: addition.name.clone(),
        new,
        compiled: units.len(),
        time: Plan::estimate(units.iter().copied()) + Duration::from_secs_f64(toolkit.linked_in),
        inside: units.is_empty() && after == before && toolkit.crates.get(&addition.name).is_some_and(same),
        before,
        after,
    })
}

impl Proposal {
    /// Writes it into the workspace, compiles, and links the session anew. Where that fails the workspace is
    /// as it was.
    pub fn carry_out(&self, toolkit: &Toolkit, watch: &mut dyn Watch) -> Result<Toolkit> {
        let (program, target, workspace) = (cargo(toolkit), target(toolkit)?, &toolkit.workspace);
        let attempt = Attempt::open(target, workspace)?;
        let attempt = attempt.context("another kernel is adding a crate; run the line again when it has done so")?;
        let rustc = Some(toolkit.rustc.as_path());
        let cargo = Cargo { program: &program, rustc, workspace, target: Some(target), apart: true };
        let made = attempt.begin(&self.before, &self.after).and_then(|()| make(&cargo, &toolkit.prefix, watch));
        let loaded = made.and_then(|made| Toolkit::load(&made.session));
        match &loaded {
            Ok(_) => attempt.end()?,
            Err(_) => attempt.undo()?,
        }
        loaded
    }
}

/// …/target of …/target/debug/session.
fn target(toolkit: &Toolkit) -> Result<&Path> {
    toolkit.session().ancestors().nth(2).context("a session without a target folder")
}

/// The cargo that comes with the compiler.
fn cargo(toolkit: &Toolkit) -> PathBuf {
    let beside = toolkit.rustc.with_file_name("cargo");
    if beside.is_file() { beside } else { "cargo".into() }
}

/// A folder that cargo takes for the workspace, with manifests of its own where they are to change.
fn mirror(workspace: &Path) -> Result<tempfile::TempDir> {
    let mirror = tempfile::tempdir()?;
    for entry in std::fs::read_dir(workspace)?.flatten() {
        let (name, place) = (entry.file_name(), mirror.path().join(entry.file_name()));
        match name.to_str() {
            Some("target" | ".git" | "notebooks") => {}
            Some("Cargo.toml" | LOCK) => drop(std::fs::copy(entry.path(), place)?),
            _ => symlink(entry.path(), place)?,
        }
    }
    std::fs::create_dir(mirror.path().join("notebooks"))?;
    std::fs::copy(workspace.join("notebooks/lib.rs"), mirror.path().join("notebooks/lib.rs"))?;
    Ok(mirror)
}

/// The manifest with `line` at the end of its dependencies, or in the place of an older one for the same key.
fn with(manifest: &str, key: &str, line: &str) -> String {
    let mut lines: Vec<&str> = manifest.lines().collect();
    let start = lines.iter().position(|line| line.trim() == "[dependencies]").map_or(lines.len(), |at| at + 1);
    let end = lines[start..].iter().position(|line| line.starts_with('[')).map_or(lines.len(), |at| start + at);
    let old = |line: &str| line.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with(['=', '.']));
    match lines[start..end].iter().position(|line| old(line)) {
        Some(at) => lines[start + at] = line,
        None => {
            let last = lines[start..end].iter().rposition(|line| !line.trim().is_empty());
            lines.insert(last.map_or(start, |at| start + at + 1), line);
        }
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addition(text: &str) -> Addition {
        Addition::parse(text).unwrap()
    }

    #[test]
    fn a_dependency_is_read_in_every_form_evcxr_has() {
        let line = |text: &str| addition(text).line().unwrap();
        assert_eq!(line("rand-distr"), "rand-distr = \"*\"");
        assert_eq!(line("rand-distr@0.6"), "rand-distr = \"0.6\"");
        assert_eq!(line("rand-distr = \"0.6\""), "rand-distr = \"0.6\"");
        let table = "{ features = [\"a\", \"b\"], version = \"1\" }";
        assert_eq!(line(&format!("x = {table}")), format!("x = {table}"));
        assert_eq!(line("rand-distr@=0.6.1"), "rand-distr = \"=0.6.1\"");
        assert_eq!(line("rand-distr.version = '0.6' # new"), "rand-distr = { version = \"0.6\" }");
        assert_eq!(addition("rand-distr").name, "rand_distr");
        for nonsense in ["", "= \"1\"", "a b = \"1\"", "\"a b\" = \"1\"", "../x", "x = { version = 1", "x = y"] {
            assert!(Addition::parse(nonsense).unwrap_err().to_string().contains(":dep NAME"), "{nonsense}");
        }
    }

    #[test]
    fn a_folder_becomes_a_whole_path_and_nothing_else_does() {
        let line = |text: &str| addition(text).line().unwrap();
        let here = std::env::current_dir().unwrap();
        let whole = |path: &str| here.join(path).display().to_string();
        assert_eq!(line("x = { path = \"../y\" }"), format!("x = {{ path = \"{}\" }}", whole("../y")));
        assert_eq!(line("x = { path = '../y' }"), format!("x = {{ path = \"{}\" }}", whole("../y")));
        let expected = format!("x = {{ package = \"y\", path = \"{}\" }}", whole("y"));
        assert_eq!(line("x = { path = \"y\", package = \"y\" }"), expected);
    }

    #[test]
    fn the_versions_that_will_do_are_known() {
        let will_do = |text: &str, version: &str| {
            addition(text).versions().is_some_and(|wanted| wanted.matches(&version.parse().unwrap()))
        };
        assert!(will_do("rand", "0.10.1") && will_do("rand = \"0.10\"", "0.10.1"));
        assert!(will_do("rand = { features = [\"small_rng\"], version = \"0.10\" }", "0.10.1"));
        assert!(!will_do("rand = \"0.8\"", "0.10.1") && !will_do("rand@0.8", "0.10.1"));
        assert!(!will_do("rand = { path = \"mine\" }", "0.10.1"));
        assert!(!will_do("rand = { git = \"ssh://git@github.com/mine\" }", "0.10.1"));
        assert!(!will_do("rand = 0", "0.10.1") && !will_do("rand = \"newest\"", "0.10.1"));
        assert!(!will_do("rand = { version = \">=0.8, <0.9\" }", "0.10.1"));
        let both = addition("x = { features = [\"a\", \"b\"], version = \"1\" }");
        assert_eq!(both.features(), ["a", "b"]);
        assert!(addition("x = \"1\"").features().is_empty());
    }

    #[test]
    fn a_line_joins_the_dependencies_or_takes_the_place_of_its_elder() {
        let manifest = "[package]\nname = \"n\"\n\n[dependencies]\ncsv.workspace = true\ncsv-core = \"1\"\n\n[lints]\n";
        let added = with(manifest, "rand", "rand = \"1\"");
        assert_eq!(added, manifest.replace("core = \"1\"\n", "core = \"1\"\nrand = \"1\"\n"));
        assert_eq!(with(&added, "rand", "rand = \"1\""), added, "a second time nothing changes");
        let replaced = with(manifest, "csv", "csv = \"2\"");
        assert_eq!(replaced, manifest.replace("csv.workspace = true", "csv = \"2\""));
        assert_eq!(with("[dependencies]", "a", "a = \"1\""), "[dependencies]\na = \"1\"\n");
    }
}

//! Adds a crate to the session: what `:dep` does for a crate that is not inside.

use super::build::{Cargo, Watch};
use super::plan::{self, Plan, Unit};
use super::{make, write};
use crate::toolkit::Toolkit;
use anyhow::{Context, Result, bail};
use semver::VersionReq;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A dependency as a cell asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addition {
    /// As the cell's code writes it.
    pub name: String,
    /// As `Cargo.toml` has it, without the name: `"1"`, `{ version = "1", features = ["x"] }`.
    wanted: String,
    /// As `Cargo.toml` writes it, with its hyphens.
    package: String,
}

impl Addition {
    /// Reads what follows `:dep`: `name`, `name@1`, `name = "1"`, `name = { … }`.
    pub fn parse(text: &str) -> Result<Self> {
        let (package, wanted) = match text.split_once('=') {
            Some((package, wanted)) => (package.trim(), wanted.trim().to_string()),
            None => {
                let (package, version) = text.trim().split_once('@').unwrap_or((text.trim(), ANY));
                (package, format!("\"{version}\""))
            }
        };
        let package = package.trim_matches('"').to_string();
        let letter = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
        if package.is_empty() || !package.chars().all(letter) {
            bail!(
                "`{text}` names no crate; it is written `:dep NAME`, `:dep NAME = \"1\"` or `:dep NAME = {{ version = \"1\", features = [\"…\"] }}`"
            );
        }
        Ok(Self { name: package.replace('-', "_"), wanted, package })
    }

    /// The versions it asks for; None where it names a folder or a repository.
    pub fn versions(&self) -> Option<VersionReq> {
        let elsewhere = ["path", "git"].iter().any(|key| value(&self.wanted, key).is_some());
        let text = match self.wanted.starts_with('{') {
            true => value(&self.wanted, "version").unwrap_or(ANY),
            false => self.wanted.trim_matches('"'),
        };
        (!elsewhere).then(|| VersionReq::parse(text).ok()).flatten()
    }

    /// The features it asks for.
    pub fn features(&self) -> Vec<&str> {
        let list = value(&self.wanted, "features").unwrap_or_default();
        let names = list.trim_matches(['[', ']']).split(',').map(|name| name.trim().trim_matches('"'));
        names.filter(|name| !name.is_empty()).collect()
    }

    /// A line of `Cargo.toml`. A folder given from where the notebook is becomes a whole path.
    fn line(&self) -> Result<String> {
        let mut wanted = self.wanted.clone();
        if let Some(path) = value(&self.wanted, "path") {
            wanted = wanted.replace(&format!("\"{path}\""), &format!("\"{}\"", std::path::absolute(path)?.display()));
        }
        Ok(format!("{} = {wanted}", self.package))
    }
}

const ANY: &str = "*";

/// What `key` has in an inline table: a string without its quotes, or a list as it is written.
fn value<'a>(table: &'a str, key: &str) -> Option<&'a str> {
    let (mut quoted, mut depth) = (false, 0);
    // Commas in strings and lists separate nothing here.
    let mut parts = table.trim().strip_prefix('{')?.strip_suffix('}')?.split(|c| {
        quoted ^= c == '"';
        depth += i32::from(!quoted && c == '[') - i32::from(!quoted && c == ']');
        c == ',' && !quoted && depth == 0
    });
    let (_, value) = parts.find_map(|part| part.split_once('=').filter(|(name, _)| name.trim() == key))?;
    Some(value.trim().trim_matches('"'))
}

/// An addition that cargo can carry out, and what it comes to.
#[derive(Debug)]
pub struct Proposal {
    pub name: String,
    /// What is compiled, as `name version`, the project's own packages left out.
    pub new: Vec<String>,
    /// How many crates of all are compiled, and about how long that and linking take.
    pub compiled: usize,
    pub time: Duration,
    manifest: String,
    lock: String,
}

/// Asks cargo what an addition would come to, in a copy of the workspace's manifests: nothing is changed.
pub fn propose(toolkit: &Toolkit, addition: &Addition) -> Result<Proposal> {
    let workspace = &toolkit.workspace;
    let cargo = cargo(toolkit);
    let before = Plan::of(&cargo, workspace)?;
    let text = read(&workspace.join(MANIFEST))?;
    let mirror = mirror(workspace)?;
    let mut manifest = with(&text, &addition.package, &addition.line()?);
    write(&mirror.path().join(MANIFEST), &manifest)?;
    // What cargo complains about stands in the workspace.
    let real = |error: anyhow::Error| {
        let (copy, real) = (mirror.path().display().to_string(), workspace.display().to_string());
        anyhow::anyhow!("{}", format!("{error:#}").replace(&copy, &real))
    };
    let after = Plan::of(&cargo, mirror.path()).map_err(real)?;
    let (package, _) = after.preloaded.get(&addition.name).context("cargo does not list it among the dependencies")?;
    // «Any version» was good for the question; what is written down is the answer.
    if addition.wanted == format!("\"{ANY}\"") {
        let line = format!("{} = \"{}\"", addition.package, plan::version(package));
        manifest = with(&text, &addition.package, &line);
    }
    let units = after.beyond(&before);
    let ours = |unit: &&&Unit| unit.package.starts_with("path+") && !unit.package.contains(&addition.package);
    let mut new: Vec<String> =
        units.iter().filter(|unit| !ours(unit)).map(|unit| plan::named(&unit.package).replace('@', " ")).collect();
    new.sort();
    new.dedup();
    Ok(Proposal {
        name: addition.name.clone(),
        new,
        compiled: units.len(),
        time: Plan::estimate(units.iter().copied()) + Duration::from_secs_f64(toolkit.linked_in),
        manifest,
        lock: read(&mirror.path().join(LOCK))?,
    })
}

impl Proposal {
    /// Writes it into the workspace, compiles, and links the session anew. Where that fails the workspace is
    /// as it was.
    pub fn carry_out(&self, toolkit: &Toolkit, watch: &mut dyn Watch) -> Result<Toolkit> {
        let files = [MANIFEST, LOCK].map(|file| toolkit.workspace.join(file));
        let before = [read(&files[0])?, read(&files[1])?];
        write(&files[0], &self.manifest)?;
        write(&files[1], &self.lock)?;
        let session = toolkit.dylib.parent().context("a session without a folder")?;
        // …/target/debug/session
        let target = session.ancestors().nth(2).context("a session without a target folder")?;
        let program = cargo(toolkit);
        let cargo = Cargo { program: &program, workspace: &toolkit.workspace, target: Some(target), apart: true };
        let made = make(&cargo, &toolkit.prefix, watch);
        if made.is_err() {
            for (file, text) in files.iter().zip(&before) {
                write(file, text)?;
            }
        }
        Toolkit::load(&made?.session)
    }
}

const MANIFEST: &str = "notebooks/Cargo.toml";
const LOCK: &str = "Cargo.lock";

/// The cargo that comes with the compiler.
fn cargo(toolkit: &Toolkit) -> PathBuf {
    let beside = toolkit.rustc.with_file_name("cargo");
    if beside.is_file() { beside } else { "cargo".into() }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
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

/// The manifest with `line` at the end of its dependencies, in the place of an older one for the package.
fn with(manifest: &str, package: &str, line: &str) -> String {
    let mut lines: Vec<&str> = manifest.lines().collect();
    let start = lines.iter().position(|line| line.trim() == "[dependencies]").map_or(lines.len(), |at| at + 1);
    let end = lines[start..].iter().position(|line| line.starts_with('[')).map_or(lines.len(), |at| start + at);
    let old = |line: &str| line.strip_prefix(package).is_some_and(|rest| rest.trim_start().starts_with(['=', '.']));
    let last = lines[start..end].iter().rposition(|line| !line.trim().is_empty()).map_or(start, |at| start + at + 1);
    lines.insert(last, line);
    if let Some(at) = lines[start..last].iter().position(|line| old(line)) {
        lines.remove(start + at);
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
        let table = "{ version = \"1\", features = [\"a\", \"b\"] }";
        assert_eq!(line(&format!("x = {table}")), format!("x = {table}"));
        assert_eq!(addition("rand-distr").name, "rand_distr");
        let here = std::env::current_dir().unwrap();
        assert_eq!(line("x = { path = \"../y\" }"), format!("x = {{ path = \"{}\" }}", here.join("../y").display()));
        for nonsense in ["", "= \"1\"", "a b = \"1\"", "../x"] {
            assert!(Addition::parse(nonsense).unwrap_err().to_string().contains(":dep NAME"), "{nonsense}");
        }
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
        let replaced = with(manifest, "csv", "csv = \"2\"");
        let expected =
            manifest.replace("csv.workspace = true\n", "").replace("core = \"1\"\n", "core = \"1\"\ncsv = \"2\"\n");
        assert_eq!(replaced, expected);
        assert_eq!(with("[dependencies]", "a", "a = \"1\""), "[dependencies]\na = \"1\"\n");
    }
}

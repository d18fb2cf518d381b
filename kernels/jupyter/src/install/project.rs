//! The project as a rust-analyzer is told of it: the crates whose types a cell meets, by cargo's own plan.
//!
//! These are the project's own, burn's, and those that `notebooks/Cargo.toml` names. Without what lies below them a
//! few private types stay unknown, and rust-analyzer holds a fifth of the memory.

use super::plan::{Node, version};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// `crates` as in a `rust-project.json`, in which each comes after those it depends on; `cell`: what the crate of a
/// cell depends on; `hashbrown`: where the standard library's one foreign crate is, about in its version.
pub fn project(nodes: &[Node]) -> Value {
    let mut walk = Walk { nodes, direct: direct(nodes), numbers: BTreeMap::new(), crates: Vec::new() };
    let newest = |at: &usize| version(&nodes[*at].pkg_id);
    let of = |package: &str| {
        (0..nodes.len()).filter(|at| nodes[*at].is_library() && nodes[*at].is_of(package)).max_by_key(newest)
    };
    let [facade, burn, hashbrown] = ["attention", "burn", "hashbrown"].map(of);
    for at in facade.into_iter().chain(walk.direct.clone().into_values()) {
        walk.number(at);
    }
    let named = walk.direct.iter().map(|(name, at)| (name.as_str(), *at));
    let named = named.chain([("attention", facade), ("burn", burn)].into_iter().filter_map(|(n, at)| Some((n, at?))));
    let cell = named.filter_map(|(name, at)| Some((name, *walk.numbers.get(&at)?)));
    json!({
        "cell": dependencies(cell), "crates": walk.crates,
        "hashbrown": hashbrown.map(|at| &nodes[at].target.src_path),
    })
}

/// What `notebooks/Cargo.toml` names.
fn direct(nodes: &[Node]) -> BTreeMap<String, usize> {
    let notebooks = nodes.iter().filter(|node| node.is_library() && node.is_of("notebooks"));
    notebooks.flat_map(|node| &node.dependencies).map(|edge| (edge.extern_crate_name.clone(), edge.index)).collect()
}

fn dependencies<'a>(all: impl Iterator<Item = (&'a str, usize)>) -> Vec<Value> {
    all.map(|(name, number)| json!({ "crate": number, "name": name })).collect()
}

struct Walk<'a> {
    nodes: &'a [Node],
    direct: BTreeMap<String, usize>,
    numbers: BTreeMap<usize, usize>,
    crates: Vec<Value>,
}

impl Walk<'_> {
    /// The number of a crate, which is entered with what it depends on; none for one that is left out.
    fn number(&mut self, at: usize) -> Option<usize> {
        if let Some(number) = self.numbers.get(&at) {
            return Some(*number);
        }
        let node = &self.nodes[at];
        let own = node.pkg_id.starts_with("path+") || node.target.name.starts_with("burn");
        if !node.is_library() || !own && !self.direct.values().any(|direct| *direct == at) {
            return None;
        }
        let edges = node.dependencies.iter();
        let below: Vec<_> =
            edges.filter_map(|edge| Some((edge.extern_crate_name.as_str(), self.number(edge.index)?))).collect();
        let number = self.crates.len();
        self.numbers.insert(at, number);
        let features = node.features.iter();
        self.crates.push(json!({
            "display_name": node.target.crate_name(),
            "root_module": node.target.src_path,
            "edition": node.target.edition,
            "deps": dependencies(below.into_iter()),
            "cfg": features.map(|feature| format!("feature={feature:?}")).collect::<Vec<_>>(),
            "is_workspace_member": false,
        }));
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(package: &str, name: &str, kind: &str, below: &[(usize, &str)]) -> Value {
        let edges = below.iter().map(|(index, name)| json!({ "index": index, "extern_crate_name": name }));
        json!({
            "pkg_id": package, "profile": { "opt_level": "0" }, "features": ["std"], "mode": "build",
            "target": { "name": name, "kind": [kind], "src_path": format!("/{name}/lib.rs"), "edition": "2024" },
            "dependencies": edges.collect::<Vec<_>>(),
        })
    }

    #[test]
    fn what_a_cell_meets_is_there_and_what_lies_below_is_not() {
        let nodes = json!([
            node("path+file:///p#attention@0.1.0", "attention", "lib", &[(1, "zoo"), (2, "burn"), (4, "rand")]),
            node("path+file:///p/zoo#0.1.0", "zoo", "lib", &[(2, "burn"), (3, "libc"), (5, "build_script_build")]),
            node("registry+x#burn@0.22.1", "burn", "lib", &[(3, "libc")]),
            node("registry+x#libc@0.2.0", "libc", "lib", &[]),
            node("registry+x#rand@0.9.0", "rand", "lib", &[]),
            node("path+file:///p/zoo#0.1.0", "build-script-build", "custom-build", &[]),
            node("registry+x#rand@0.10.0", "rand", "lib", &[]),
            node("path+file:///p/notebooks#0.1.0", "notebooks", "lib", &[(6, "rand"), (8, "anyhow")]),
            node("registry+x#anyhow@1.0.0", "anyhow", "lib", &[]),
            node("registry+x#hashbrown@0.16.1", "hashbrown", "lib", &[]),
        ]);
        let nodes: Vec<Node> = serde_json::from_value(nodes).unwrap();
        let project = project(&nodes);
        let crates = project["crates"].as_array().unwrap();
        let names: Vec<&str> = crates.iter().map(|krate| krate["display_name"].as_str().unwrap()).collect();
        assert_eq!(names, ["burn", "zoo", "attention", "anyhow", "rand"]);
        assert_eq!(crates[2]["deps"], json!([{ "crate": 1, "name": "zoo" }, { "crate": 0, "name": "burn" }]));
        assert_eq!(crates[0]["cfg"], json!(["feature=\"std\""]));
        let cell = project["cell"].as_array().unwrap();
        let seen: Vec<&str> = cell.iter().map(|dependency| dependency["name"].as_str().unwrap()).collect();
        assert_eq!(seen, ["anyhow", "rand", "attention", "burn"]);
        assert_eq!(cell[1]["crate"], 4, "the `rand` that a cell names");
        assert_eq!(project["hashbrown"], "/hashbrown/lib.rs");
    }
}

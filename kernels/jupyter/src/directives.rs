//! The lines of a cell that are not Rust: `:dep`, as evcxr has it, and the `%` words.

use crate::cell::report::CellError;
use crate::cell::scope::Scope;
use crate::install::Addition;
use crate::memory;
use crate::toolkit::Inside;
use std::collections::BTreeMap;
use std::path::PathBuf;

const HELP: &str = "\
%vars             the variables: type, shape, device, bytes
%time CODE        run CODE (or, without any, the cell) and say how long it took
%timeit CODE      run it many times, for the median; nothing it binds is kept
%params           this cell's `let`s are parameters: `-p name=value` of `cargo lab notebook` sets others
%export FILE.rs   write the notebook's imports, macros and items as a module
%device [DEVICE]  which device computes; with cpu, cuda or cuda:N, choose it
%memory [LIMIT]   what session, kernel and their helpers hold; with `8 GB`, what the session may hold at most
%restart          a new session: nothing is kept and nothing is compiled
:dep NAME = …     use a crate; one that is not inside is compiled and linked in, for which no variable may be held
:clear            forget variables, items and imports
:help             this list
`:` and `%` mean the same. Cells with only `:dep` among these also run in evcxr.";

/// What a line asks for.
#[derive(Debug, PartialEq)]
pub enum Directive {
    /// Nothing that is not there already.
    Nothing,
    /// A crate inside the session.
    Dep(String),
    /// A crate that is not, or not in this version.
    Add(Addition),
    Variables,
    Clear,
    Restart,
    Time,
    TimeIt,
    Parameters,
    Export(PathBuf),
    /// Shows the device, after choosing it where one is named.
    Device(Option<String>),
    /// Shows the memory, after setting the limit where one is given.
    Memory(Option<u64>),
    Say(String),
}

pub fn parse(line: &str, crates: &BTreeMap<String, Inside>) -> Result<Directive, CellError> {
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let given = || (!rest.is_empty()).then(|| rest.to_string());
    let wrong = |say: String| CellError::new("CommandError", say);
    Ok(match word.trim_start_matches(['%', ':']) {
        "dep" => dep(rest, crates)?,
        "vars" => Directive::Variables,
        "clear" => Directive::Clear,
        "restart" => Directive::Restart,
        "time" => Directive::Time,
        "timeit" => Directive::TimeIt,
        "params" => Directive::Parameters,
        "export" if rest.ends_with(".rs") => Directive::Export(rest.into()),
        "export" => return Err(wrong(format!("`{word}` needs the name of a file that ends in .rs, got `{rest}`"))),
        "device" if rest.contains(['"', '\\']) => return Err(wrong(format!("`{rest}` is no device"))),
        "device" => Directive::Device(given()),
        "memory" => Directive::Memory(given().map(|text| memory::parse(&text)).transpose().map_err(wrong)?),
        "help" => Directive::Say(HELP.into()),
        _ => {
            let valid = words().collect::<Vec<_>>().join(", ");
            let say = format!("`{word}` is not a command of this kernel; there are {valid}");
            return Err(CellError::new("UnknownCommand", say));
        }
    })
}

/// All of them.
pub fn words() -> impl Iterator<Item = &'static str> {
    HELP.lines().filter_map(|line| line.split(' ').next()).filter(|word| word.starts_with([':', '%']))
}

fn dep(rest: &str, crates: &BTreeMap<String, Inside>) -> Result<Directive, CellError> {
    let addition = Addition::parse(rest).map_err(|error| CellError::new("CommandError", error.to_string()))?;
    // A path to the facade itself, as a notebook for stock evcxr has it, is what we already are.
    if addition.name == "attention" {
        return Ok(Directive::Nothing);
    }
    let will_do = |inside: &Inside| {
        addition.versions().is_some_and(|wanted| wanted.matches(&inside.version))
            && addition.features().iter().all(|name| inside.features.iter().any(|own| own == name))
    };
    Ok(match crates.get(&addition.name).is_some_and(will_do) {
        true => Directive::Dep(addition.name),
        false => Directive::Add(addition),
    })
}

/// The Rust that `%device` stands for. A choice that fails leaves the old one.
pub fn device(choice: Option<&str>) -> String {
    let show = "println!(\"{}\", ::attention::lab::describe(&::attention::device()?));";
    let Some(name) = choice else { return show.into() };
    format!(
        "{{ use ::std::env::*;\nlet key = ::attention::lab::device::VARIABLE;\nlet before = var_os(key);\n\
         unsafe {{ set_var(key, \"{name}\") }};\n\
         if let Err(error) = ::attention::device() {{\n\
         unsafe {{ match before {{ Some(name) => set_var(key, name), None => remove_var(key) }} }};\n\
         Err(error)?;\n}}\n{show} }}"
    )
}

/// The Rust that `%vars` stands for: which shape a value has, only its type knows.
pub fn variables(scope: &Scope) -> String {
    let rows = scope
        .variables
        .iter()
        .map(|(name, variable)| format!("(&&&Of(&{name})).row(\"{name}\", {:?}),\n", short(&variable.ty)));
    format!(
        "{{ use ::attention::inspect::*;\nlet rows: Vec<Row> = vec![\n{}];\nshow(&rows); }}",
        rows.collect::<String>()
    )
}

/// `attention::burn::Tensor<2>` as `Tensor<2>`: paths of modules and crates say little in a table.
pub fn short(ty: &str) -> String {
    let mut out = String::new();
    let mut word = String::new();
    let mut chars = ty.chars().peekable();
    while let Some(c) = chars.next() {
        if c == ':' && chars.peek() == Some(&':') {
            chars.next();
            word.clear();
        } else if c.is_alphanumeric() || c == '_' {
            word.push(c);
        } else {
            out.push_str(&std::mem::take(&mut word));
            out.push(c);
        }
    }
    out + &word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_signs_mean_the_same_and_the_unknown_is_answered_with_the_known() {
        let inside = Inside {
            version: "1.0.9".parse().unwrap(),
            path: PathBuf::new(),
            preloaded: false,
            features: vec!["a".into()],
        };
        let crates = BTreeMap::from([("serde_json".to_string(), inside)]);
        let parse = |line: &str| super::parse(line, &crates);
        assert_eq!(parse(":vars").unwrap(), Directive::Variables);
        assert_eq!(parse("%vars").unwrap(), Directive::Variables);
        assert_eq!(parse("%memory 2 GB").unwrap(), Directive::Memory(Some(2_000_000_000)));
        assert_eq!(parse(":dep serde-json = \"1\"").unwrap(), Directive::Dep("serde_json".into()));
        assert_eq!(parse(":dep attention = { path = \"..\" }").unwrap(), Directive::Nothing);
        for outside in [":dep serde-json = \"2\"", ":dep nowhere"] {
            assert!(matches!(parse(outside).unwrap(), Directive::Add(_)), "{outside}");
        }
        let message = |line: &str| parse(line).unwrap_err().evalue;
        assert!(message("%nonsense").contains("%vars, %time, %timeit"), "{}", message("%nonsense"));
        assert!(message("%export notes.txt").contains(".rs"), "{}", message("%export notes.txt"));
        assert!(message("%memory lots").contains("8 GB"), "{}", message("%memory lots"));
    }

    #[test]
    fn a_type_is_shortened_wherever_paths_stand_in_it() {
        assert_eq!(short("attention::burn::Tensor<2>"), "Tensor<2>");
        assert_eq!(
            short("std::vec::Vec<(u8, std::option::Option<&'static cell_1::P>)>"),
            "Vec<(u8, Option<&'static P>)>"
        );
    }
}

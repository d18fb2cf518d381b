//! Splits a cell into directives, imports, macros, items, statements and a last expression.
//! Everything is a byte range of the user's own text, so that line numbers stay the user's.

use super::exits;
use super::items::{ItemPart, conditions, item_part, thread_locals};
use super::moves::Moves;
use super::report::CellError;
use proc_macro2::{TokenStream, TokenTree};
use std::collections::BTreeSet;
use std::ops::Range;
use syn::parse::Parser;
use syn::spanned::Spanned;
use syn::visit::Visit;
use syn::{Block, Item, Stmt, UseTree};

/// A name a cell's own statements bind at top level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    pub name: String,
    pub mutable: bool,
}

/// One leaf of a `use` declaration, written as a declaration of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Import {
    /// The name it binds; `None` for globs and `as _`.
    pub name: Option<String>,
    pub text: String,
}

#[derive(Debug, Default)]
pub struct Cell {
    /// `:dep …`, `%vars` and the like, with their line numbers.
    pub directives: Vec<(usize, String)>,
    /// The source with directive lines blanked; ranges refer to this text.
    pub source: String,
    pub uses: Vec<(Range<usize>, Vec<Import>)>,
    pub macros: Vec<(String, Range<usize>)>,
    pub items: Vec<ItemPart>,
    /// Macros are among them, for what they name of the statements before them.
    pub statements: Vec<Range<usize>>,
    pub last: Option<Range<usize>>,
    /// The words `return` that leave the cell itself.
    pub returns: Vec<Range<usize>>,
    pub bound: Vec<Bound>,
    /// Identifiers in statements and the last expression, format strings included.
    pub mentioned: BTreeSet<String>,
    /// Under `%timeit` the statements run again and again, and leave nothing behind.
    pub timed: bool,
    pub moves: Moves,
    closures: bool,
}

impl Cell {
    /// Loops, or closures that a library loops over. Of others it is not worth three times the compilation: a closure
    /// that makes the mixers of a model is called once a layer, and a new kind of model is much to compile.
    pub fn repeats(&self) -> bool {
        let mentions = |words: &[&str]| words.iter().any(|word| self.mentioned.contains(*word));
        self.timed || mentions(&["for", "while", "loop"]) || self.closures && mentions(LOOPING)
    }

    /// Makes it a cell that `%timeit` runs.
    pub fn time_it(&mut self) {
        self.timed = true;
        self.bound.clear();
    }

    /// A cell of parameters holds nothing that another value could not replace.
    pub fn only_lets(&self) -> Result<(), CellError> {
        let plain = |text: &str| text.starts_with("let ") || text.starts_with("macro_rules!");
        let lets = self.statements.iter().all(|range| plain(&self.source[range.clone()]));
        match lets && self.last.is_none() && self.items.is_empty() {
            true => Ok(()),
            false => Err(CellError::new("CommandError", "a cell of `%params` holds only `let name = value;`")),
        }
    }

    /// The number of the first statement that ends on this line or behind it; the last expression is one.
    pub fn statement_at(&self, line: usize) -> usize {
        let last_line = |range: &Range<usize>| self.source[..range.end].matches('\n').count() + 1;
        self.statements.iter().take_while(|range| last_line(range) < line).count()
    }

    pub fn runs(&self) -> bool {
        !self.statements.is_empty() || self.last.is_some()
    }
}

/// Takes the lines that begin with `:` or `%` out of the way (as blank lines), wherever they stand
/// before the first line of Rust. Behind `%time` and `%timeit` may stand code, which stays.
pub fn without_directives(code: &str) -> (Vec<(usize, String)>, String) {
    let mut found = Vec::new();
    let mut source = String::with_capacity(code.len());
    let mut leading = true;
    for (index, line) in code.split_inclusive('\n').enumerate() {
        let text = line.trim();
        let directive = leading && (text.starts_with(':') && !text.starts_with("::") || text.starts_with('%'));
        if directive {
            let word = text.split_whitespace().next().unwrap_or_default();
            let timed = TIMED.contains(&word.trim_start_matches(['%', ':']));
            let own = line.find(text).unwrap_or(0) + if timed { word.len() } else { text.len() };
            found.push((index + 1, if timed { word } else { text }.to_string()));
            source.push_str(&" ".repeat(own));
            source.push_str(&line[own..]);
            leading = !timed || word == text;
        } else {
            leading &= text.is_empty() || text.starts_with("//");
            source.push_str(line);
        }
    }
    (found, source)
}

/// Functions of the standard library and of rayon that call a closure for every element.
const LOOPING: &[&str] = &[
    "all",
    "any",
    "binary_search_by",
    "chunk_by",
    "dedup_by",
    "filter",
    "filter_map",
    "find",
    "find_map",
    "flat_map",
    "fold",
    "for_each",
    "from_fn",
    "group_by",
    "inspect",
    "into_par_iter",
    "map",
    "map_while",
    "max_by",
    "max_by_key",
    "min_by",
    "min_by_key",
    "par_iter",
    "partition",
    "position",
    "reduce",
    "repeat_with",
    "retain",
    "scan",
    "skip_while",
    "sort_by",
    "sort_by_key",
    "sort_unstable_by",
    "successors",
    "take_while",
    "try_fold",
    "try_for_each",
];

/// Directives that say how the code behind them is run.
const TIMED: [&str; 2] = ["time", "timeit"];

/// A cell whose Rust does not parse: its directives and source, what syn says, and on which line.
#[derive(Debug)]
pub struct Unparsed {
    pub cell: Cell,
    pub message: String,
    pub line: usize,
}

pub fn parse(code: &str) -> Result<Cell, Box<Unparsed>> {
    let code = code.replace("\r\n", "\n");
    let (directives, source) = without_directives(&code);
    let mut cell = Cell { directives, source: without_title(source), ..Cell::default() };
    let sorted = match Block::parse_within.parse_str(&cell.source) {
        Ok(stmts) => {
            cell.sort(&stmts);
            cell.moves = Moves::of(&stmts);
            cell.returns = exits::returns(&stmts);
            Ok(cell)
        }
        Err(error) => {
            let line = error.span().start().line;
            Err(Box::new(Unparsed { cell, message: error.to_string(), line }))
        }
    };
    // Spans of cells already split are never asked for again; without this they pile up.
    proc_macro2::extra::invalidate_current_thread_spans();
    sorted
}

/// Makes comments of the lines `//! …` at the top, which say what a file is: a cell is none.
fn without_title(source: String) -> String {
    let mut top = true;
    let lines = source.split_inclusive('\n').map(|line| {
        let text = line.trim_start();
        top &= text.is_empty() || text.starts_with("//");
        if top && text.starts_with("//!") { line.replacen("//!", "// ", 1) } else { line.into() }
    });
    lines.collect()
}

/// Is the text a beginning that more lines could complete?
pub fn is_unfinished(code: &str) -> bool {
    let (_, source) = without_directives(code);
    if let Err(unparsed) = parse(code) {
        return unparsed.message.contains("unexpected end of input")
            || (source.parse::<TokenStream>().is_err() && open_brackets(&source) > 0);
    }
    false
}

/// Counts what is open at the end. Good enough for a prompt: brackets inside strings are rare
/// in text that does not lex.
fn open_brackets(source: &str) -> i32 {
    source.chars().fold(0, |open, c| match c {
        '(' | '[' | '{' => open + 1,
        ')' | ']' | '}' => open - 1,
        _ => open,
    })
}

impl Cell {
    fn sort(&mut self, stmts: &[Stmt]) {
        let item = |stmt: &&Stmt| matches!(stmt, Stmt::Item(_)) || thread_locals(stmt, 0..0).is_some();
        let count = stmts.iter().filter(|stmt| !item(stmt)).count();
        let mut seen = 0;
        for stmt in stmts {
            let range = stmt.span().byte_range();
            if let Stmt::Item(item) = stmt {
                self.item(item, range);
                continue;
            }
            if let Some(part) = thread_locals(stmt, range.clone()) {
                self.items.push(part);
                continue;
            }
            seen += 1;
            let tokens: TokenStream = self.source[range.clone()].parse().unwrap_or_default();
            let start = range.start + attributes(&tokens);
            // What is there under a condition is no value.
            let condition = |attribute: &str| attribute.trim_start().starts_with("[cfg");
            let always = !self.source[range.start..start].split('#').any(condition);
            self.mention(tokens);
            let value = match stmt {
                Stmt::Expr(_, semi) => semi.is_none(),
                Stmt::Macro(mac) => mac.semi_token.is_none(),
                _ => false,
            };
            if value && always && seen == count {
                self.last = Some(start..range.end);
                continue;
            }
            if let Stmt::Local(local) = stmt {
                let may_fail = local.init.as_ref().is_some_and(|init| init.diverge.is_some());
                PatternNames { bound: &mut self.bound, may_fail }.visit_pat(&local.pat);
            }
            self.statements.push(range);
        }
        // What is left are macros, which have nothing to run.
        if count == 0 {
            self.statements.clear();
        }
    }

    fn item(&mut self, item: &Item, range: Range<usize>) {
        match item {
            Item::Use(item) => {
                let mut imports = Vec::new();
                let prefix = if item.leading_colon.is_some() { "::" } else { "" };
                leaves(prefix.to_string(), &item.tree, &mut imports);
                let conditions = conditions(&self.source, &item.attrs);
                imports.iter_mut().for_each(|import| import.text.insert_str(0, &conditions));
                self.uses.push((range, imports));
            }
            Item::Macro(item) if item.ident.is_some() => {
                let name = item.ident.as_ref().unwrap().to_string();
                self.mention(item.mac.tokens.clone());
                // Less its attributes: one that says `macro_export` is exported from where all can use it.
                self.statements.push(item.mac.path.span().byte_range().start..range.end);
                self.macros.push((name, range));
            }
            item => {
                let part = item_part(&self.source, item, range);
                self.items.push(part);
            }
        }
    }

    fn mention(&mut self, tokens: TokenStream) {
        for token in tokens {
            match token {
                TokenTree::Group(group) => self.mention(group.stream()),
                TokenTree::Ident(ident) => {
                    self.mentioned.insert(ident.to_string());
                }
                TokenTree::Literal(literal) => self.format_arguments(&literal.to_string()),
                TokenTree::Punct(punct) => self.closures |= punct.as_char() == '|',
            }
        }
    }

    /// `"{x:?} {y}"` mentions x and y; `{:width$}` mentions width.
    fn format_arguments(&mut self, literal: &str) {
        if !literal.contains('{') {
            return;
        }
        for word in literal.split(|c: char| !(c.is_alphanumeric() || c == '_')) {
            self.mentioned.insert(word.to_string());
        }
    }
}

/// How long the attributes and doc comments in front of an expression are.
fn attributes(tokens: &TokenStream) -> usize {
    // Of each the `#`, then the rest in brackets.
    let mut firsts = tokens.clone().into_iter().step_by(2);
    let own = firsts.find(|token| !matches!(token, TokenTree::Punct(punct) if punct.as_char() == '#'));
    own.map_or(0, |token| token.span().byte_range().start)
}

fn leaves(prefix: String, tree: &UseTree, into: &mut Vec<Import>) {
    match tree {
        UseTree::Path(path) => leaves(format!("{prefix}{}::", path.ident), &path.tree, into),
        UseTree::Group(group) => {
            group.items.iter().for_each(|tree| leaves(prefix.clone(), tree, into));
        }
        UseTree::Glob(_) => into.push(Import { name: None, text: format!("use {prefix}*;") }),
        UseTree::Name(name) if name.ident == "self" => {
            let path = prefix.trim_end_matches("::").to_string();
            let last = path.rsplit("::").next().unwrap_or(&path).to_string();
            into.push(Import { name: Some(last), text: format!("use {path};") });
        }
        UseTree::Name(name) => {
            into.push(Import { name: Some(name.ident.to_string()), text: format!("use {prefix}{};", name.ident) })
        }
        UseTree::Rename(rename) => {
            let path = match rename.ident == "self" {
                true => prefix.trim_end_matches("::").to_string(),
                false => format!("{prefix}{}", rename.ident),
            };
            let bound = rename.rename.to_string();
            let text = format!("use {path} as {bound};");
            into.push(Import { name: (bound != "_").then_some(bound), text });
        }
    }
}

struct PatternNames<'a> {
    bound: &'a mut Vec<Bound>,
    /// Followed by an `else`.
    may_fail: bool,
}

impl<'ast> Visit<'ast> for PatternNames<'_> {
    fn visit_pat_ident(&mut self, pat: &'ast syn::PatIdent) {
        let name = pat.ident.to_string();
        // In `let None = x else {…}` a constant looks like a binding; without an `else` there can be none.
        let constant = self.may_fail && name.starts_with(char::is_uppercase);
        if !constant {
            self.bound.retain(|bound| bound.name != name);
            self.bound.push(Bound { name, mutable: pat.mutability.is_some() });
        }
        if let Some((_, inner)) = &pat.subpat {
            self.visit_pat(inner);
        }
    }

    fn visit_expr(&mut self, _: &'ast syn::Expr) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(code: &str) -> Cell {
        parse(code).unwrap_or_else(|unparsed| panic!("{}", unparsed.message))
    }

    fn texts<'a>(cell: &'a Cell, ranges: &[Range<usize>]) -> Vec<&'a str> {
        ranges.iter().map(|range| &cell.source[range.clone()]).collect()
    }

    #[test]
    fn a_cell_is_split_into_its_parts() {
        let cell = cell(
            "// first\nuse std::{fmt, io::{self, Read as _}};\nstruct P { x: f32 }\n\
             macro_rules! m { () => { 1 } }\nlet p = P { x: 1.0 };\np.x += 1.0;\np.x // shown",
        );
        let statements = ["macro_rules! m { () => { 1 } }", "let p = P { x: 1.0 };", "p.x += 1.0;"];
        assert_eq!(texts(&cell, &cell.statements), statements);
        assert_eq!(&cell.source[cell.last.clone().unwrap()], "p.x");
        assert_eq!(cell.items[0].names, ["P"]);
        assert_eq!(cell.macros[0].0, "m");
        let imports: Vec<_> = cell.uses[0].1.iter().map(|import| import.text.as_str()).collect();
        assert_eq!(imports, ["use std::fmt;", "use std::io;", "use std::io::Read as _;"]);
    }

    #[test]
    fn only_an_expression_at_the_end_is_shown() {
        assert!(cell("1 + 1").last.is_some());
        assert!(cell("1 + 1;").last.is_none());
        assert!(cell("vec![1]").last.is_some());
        assert!(cell("for _ in 0..1 {}\nlet x = 1;").last.is_none());
        let shown = |code: &str| {
            let cell = cell(code);
            cell.source[cell.last.unwrap()].to_string()
        };
        assert_eq!(shown("/// Prints é.\n#[allow(unused)]\nfor i in 0..3 {}"), "for i in 0..3 {}");
        assert_eq!(shown("/** One. */ println!()"), "println!()");
        assert!(cell("#[cfg(test)]\nif a { b() }").last.is_none());
    }

    #[test]
    fn macros_alone_have_nothing_to_run() {
        assert!(!cell("macro_rules! m { () => { 1 } }").runs());
        assert!(cell("macro_rules! m { () => { 1 } }\nm!()").runs());
    }

    #[test]
    fn every_kind_of_pattern_binds_its_names() {
        let cell = cell(
            "let (mut a, [b, ..]) = x; let P { c, d: Q(e) } = y; let f @ Some(_g) = z else { return };\n\
             let (Q, 数据) = w; let None = v else { return };",
        );
        let names: Vec<_> = cell.bound.iter().map(|b| (b.name.as_str(), b.mutable)).collect();
        let expected = [
            ("a", true),
            ("b", false),
            ("c", false),
            ("e", false),
            ("f", false),
            ("_g", false),
            ("Q", false),
            ("数据", false),
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn what_repeats_is_told_from_what_is_called_once() {
        for many in ["for x in 0..9 {}", "xs.iter().map(|x| x * x).sum::<f64>()", "loop { break }"] {
            assert!(cell(many).repeats(), "{many}");
        }
        for once in ["Decoder::with_mixers(&c, 0, &d, |_, init| M::new(init))?", "let f = a || b;", "1 + 1"] {
            assert!(!cell(once).repeats(), "{once}");
        }
    }

    #[test]
    fn names_in_format_strings_are_mentioned() {
        let mentioned = cell("println!(\"{x:?} {y:>width$} {}\", z.w)").mentioned;
        for name in ["x", "y", "width", "z"] {
            assert!(mentioned.contains(name), "{name} in {mentioned:?}");
        }
    }

    #[test]
    fn directives_leave_the_line_numbers_alone() {
        let cell = cell(":dep burn = \"1\"\n\nlet x = 1;");
        assert_eq!(cell.directives, [(1, ":dep burn = \"1\"".to_string())]);
        assert_eq!(cell.source[..cell.statements[0].start].matches('\n').count(), 2);
        let timed = self::cell("%vars\n  %time let y = 2;\ny");
        assert_eq!(timed.directives, [(1, "%vars".to_string()), (2, "%time".to_string())]);
    }

    #[test]
    fn everything_without_a_visibility_becomes_public() {
        let code = "#[derive(Debug)]\nstruct P(u8, pub(crate) u8);\nimpl P { const N: u8 = 1; async unsafe fn f(&self) {} }\nenum E { A }\nunsafe trait T {}";
        let cell = cell(code);
        let public: Vec<_> = cell
            .items
            .iter()
            .map(|item| crate::cell::generate::published(&cell.source, &item.range, &item.publish))
            .collect();
        assert_eq!(
            public,
            [
                "#[derive(Debug)]\npub struct P(pub u8, pub u8);",
                "impl P { pub const N: u8 = 1; pub async unsafe fn f(&self) {} }",
                "pub enum E { A }",
                "pub unsafe trait T {}",
            ]
        );
    }

    #[test]
    fn an_open_bracket_or_string_waits_for_more() {
        for open in ["fn f() {", "let x = (1,", "vec![", "struct S {\n    x: f32,"] {
            assert!(is_unfinished(open), "{open}");
        }
        for closed in ["", "1 + 1", "let x = )", "fn f() {}", "let s = \"{\";"] {
            assert!(!is_unfinished(closed), "{closed}");
        }
    }
}

//! What becomes of the variables that a cell moves when it is left before its end, by `?` or by `return`.
//!
//! Such a variable is its closure's own, so that whatever leaves the closure drops it. What leaves the statements
//! therefore stays in the closure, and comes to the places behind them where variables can be put back still: those that
//! are set again wherever they are moved from anywhere, the others from before the statement that moves them first.
//!
//! ```text
//! let __left: CellResult = '__left1: {
//!     let __left: CellResult = '__left0: { try bikeshed CellResult {
//!         let text = read("corpus")?;
//!         break '__left1 try bikeshed CellResult {
//!             let trainer = Trainer::new(model, text)?;
//!             return Ok(());
//!         };
//!     } };
//!     put("model", model);
//!     __left
//! };
//! __left
//! ```
//!
//! rustc refuses a place that a move can lead to, as it does at the end of the cell. A panic has no such place, nor has a
//! `return` that a macro writes: what they drop is lost.

use super::generate::{Run, Source, again, early, late, replaced};
use super::parse::Cell;
use std::collections::BTreeMap;
use std::ops::Range;
use syn::Stmt;
use syn::spanned::Spanned;
use syn::visit::Visit;

#[derive(Debug, Default)]
pub struct Exits<'a> {
    /// Put back from wherever the cell is left.
    always: Vec<&'a str>,
    /// Put back where the cell is left before the statement of this number.
    before: BTreeMap<usize, Vec<&'a str>>,
}

impl<'a> Exits<'a> {
    /// `inside`: the variables that the closure has captured by value.
    pub fn new(cell: &Cell, run: &Run<'_>, inside: &[&'a String]) -> Self {
        let mut exits = Exits::default();
        let count = cell.statements.len() + usize::from(cell.last.is_some());
        // The statements of a `%timeit` have a closure of their own, which can move nothing.
        for name in inside.iter().filter(|_| !cell.timed) {
            let refused = |key: fn(&str) -> String| run.moved.contains(&key(name));
            let first = run.since.get(*name).map_or(0, |line| cell.statement_at(*line));
            if cell.moves.resets(name) && !refused(again) && !refused(late) {
                exits.always.push(name);
            } else if (1..count).contains(&first) && !refused(early) {
                exits.before.entry(first).or_default().push(name);
            }
        }
        exits
    }

    pub fn is_empty(&self) -> bool {
        self.always.is_empty() && self.before.is_empty()
    }

    /// Before all statements.
    pub fn open(&self, out: &mut Source) {
        for place in (0..=self.before.len()).rev() {
            out.generated(&format!("let __left: ::attention::cell_runtime::CellResult = '__left{place}: {{"));
        }
        out.generated("try bikeshed ::attention::cell_runtime::CellResult {");
    }

    /// Before the statement of this number.
    pub fn pass(&self, out: &mut Source, statement: usize) {
        if self.before.contains_key(&statement) {
            let place = self.place(statement);
            out.generated(&format!("break '__left{place} try bikeshed ::attention::cell_runtime::CellResult {{"));
        }
    }

    /// Which place is behind what leaves this statement.
    fn place(&self, statement: usize) -> usize {
        self.before.range(..=statement).count()
    }

    /// A statement's text, with what its `return`s become.
    pub fn text(&self, cell: &Cell, range: &Range<usize>, statement: usize) -> String {
        let own = |word: &&Range<usize>| !self.is_empty() && range.start <= word.start && word.end <= range.end;
        let words: Vec<_> = cell.returns.iter().filter(own).cloned().collect();
        let leave = format!("break '__left{}", self.place(statement));
        replaced(&cell.source, range, &words, |_| &leave)
    }

    /// Behind all statements; what comes here has ended.
    pub fn close(&self, out: &mut Source) {
        out.generated("return ::std::result::Result::Ok(());");
        self.before.keys().for_each(|_| out.generated("};"));
        out.generated("} };");
        for names in self.before.values() {
            names.iter().for_each(|name| out.put(&early(name), name, ""));
            out.generated("__left };");
        }
        self.always.iter().for_each(|name| out.put(&late(name), name, ""));
        out.generated("__left");
    }
}

/// Where the words `return` are that leave the cell itself.
pub fn returns(stmts: &[Stmt]) -> Vec<Range<usize>> {
    let mut returns = Returns::default();
    stmts.iter().for_each(|stmt| returns.visit_stmt(stmt));
    returns.0
}

#[derive(Default)]
struct Returns(Vec<Range<usize>>);

impl<'ast> Visit<'ast> for Returns {
    fn visit_expr_return(&mut self, expr: &'ast syn::ExprReturn) {
        self.0.push(expr.return_token.span().byte_range());
        syn::visit::visit_expr_return(self, expr);
    }

    // Those in there leave these.
    fn visit_expr_closure(&mut self, _: &'ast syn::ExprClosure) {}
    fn visit_expr_async(&mut self, _: &'ast syn::ExprAsync) {}
    fn visit_item(&mut self, _: &'ast syn::Item) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::parse::parse;
    use std::collections::BTreeSet;

    /// The puts and the parts of the statements in the order in which they stand.
    fn written(code: &str, since: &[(&str, usize)], refused: &[String]) -> String {
        let cell = parse(code).unwrap();
        let since = since.iter().map(|(name, line)| (name.to_string(), *line)).collect();
        let moved = refused.iter().cloned().collect::<BTreeSet<_>>();
        let names = ["a".to_string(), "b".to_string()];
        let exits = Exits::new(&cell, &Run { moved: &moved, since: &since, reveal: false }, &[&names[0], &names[1]]);
        let mut out = Source::default();
        exits.open(&mut out);
        for (statement, range) in cell.statements.iter().enumerate() {
            exits.pass(&mut out, statement);
            out.generated(&exits.text(&cell, range, statement));
        }
        exits.close(&mut out);
        out.text.replace("::attention::cell_runtime::", "").replace("::std::result::Result::", "")
    }

    #[test]
    fn a_way_out_passes_the_places_of_what_is_not_yet_moved() {
        let code = "f()?;\nif x { return Ok(()); }\ng(a)?;\nif y { return z; }\nh(b)?;";
        let expected = "let __left: CellResult = '__left2: {\nlet __left: CellResult = '__left1: {\n\
                        let __left: CellResult = '__left0: {\ntry bikeshed CellResult {\nf()?;\n\
                        if x { break '__left0 Ok(()); }\nbreak '__left1 try bikeshed CellResult {\ng(a)?;\n\
                        if y { break '__left1 z; }\nbreak '__left2 try bikeshed CellResult {\nh(b)?;\nreturn Ok(());\n\
                        };\n};\n} };\n put(\"a\", a);\n__left };\n put(\"b\", b);\n__left };\n__left\n";
        assert_eq!(written(code, &[("a", 3), ("b", 5)], &[]), expected);
    }

    #[test]
    fn only_what_leaves_the_cell_itself_is_a_return_of_it() {
        let code = "if a { return Ok(()); }\nlet f = || return 1;\nasync { return 2 };\nfn g() { return }\n\
                    for _ in 0..3 { return if b { return c } else { d }; }\nmacro_rules! m { () => { return } }";
        assert_eq!(parse(code).unwrap().returns, [7..13, 99..105, 113..119]);
    }

    #[test]
    fn what_is_set_again_is_put_back_from_everywhere_unless_rustc_refuses() {
        let code = "f()?;\nfor _ in 0..3 {\n    a = g(a);\n    f()?;\n}\nk();";
        let puts = |refused: &[String]| written(code, &[("a", 3)], refused).matches("put").count();
        let text = written(code, &[("a", 3)], &[]);
        assert!(text.ends_with("} };\n put(\"a\", a);\n__left\n"), "{text}");
        let text = written(code, &[("a", 3)], &[late("a")]);
        assert!(text.contains("f()?;\nbreak '__left1 try") && text.ends_with("__left };\n__left\n"), "{text}");
        assert_eq!([puts(&[again("a")]), puts(&[late("a"), early("a")])], [1, 0]);
    }
}

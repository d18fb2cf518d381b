//! What a cell seems to move: `Trainer::new(config, model, data)` takes a model away.
//!
//! Only rustc knows, and it tells one round of compilation later. A guess that it confirms saves that round.

use super::generate::{again, old};
use super::parse::Cell;
use super::scope::Scope;
use std::collections::{BTreeMap, BTreeSet};
use syn::spanned::Spanned;
use syn::visit::{Visit, visit_expr_call, visit_expr_method_call};
use syn::{Expr, Local, Pat, Stmt};

/// By the text alone.
#[derive(Debug, Default)]
pub struct Moves {
    /// Variables that stand by themselves as an argument of a call, with the first line of such a call.
    pub given: BTreeMap<String, usize>,
    /// Those that `Type::new(…)` or the like made: of a type that is hardly ever copied.
    made: BTreeSet<String>,
    /// Those that are set again: `model = step(model)`.
    set: BTreeSet<String>,
    /// Those of them that a `?` keeps from being set, when it leaves: `model = step(model)?`.
    unset: BTreeSet<String>,
    /// Those that are given and not set again behind that.
    away: BTreeSet<String>,
}

impl Moves {
    pub fn of(stmts: &[Stmt]) -> Self {
        let mut moves = Self::default();
        stmts.iter().for_each(|stmt| moves.visit_stmt(stmt));
        moves
    }

    fn give<'a>(&mut self, arguments: impl IntoIterator<Item = &'a Expr>) {
        for argument in arguments {
            if let Some(name) = name(argument) {
                self.away.insert(name.clone());
                self.given.entry(name).or_insert(argument.span().start().line);
            }
        }
    }

    /// Whether the cell seems to set the variable again wherever it has moved it.
    pub fn resets(&self, name: &str) -> bool {
        self.set.contains(name) && !self.unset.contains(name) && !self.away.contains(name)
    }
}

impl<'ast> Visit<'ast> for Moves {
    fn visit_expr_call(&mut self, call: &'ast syn::ExprCall) {
        self.give(&call.args);
        visit_expr_call(self, call);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        self.give(&call.args);
        visit_expr_method_call(self, call);
    }

    fn visit_expr_assign(&mut self, assign: &'ast syn::ExprAssign) {
        syn::visit::visit_expr_assign(self, assign);
        if let Some(name) = name(&assign.left) {
            if leaves(&assign.right) {
                self.unset.insert(name.clone());
            }
            self.away.remove(&name);
            self.set.insert(name);
        }
    }

    fn visit_local(&mut self, local: &'ast Local) {
        if let (Pat::Ident(pat), Some(init)) = (&local.pat, &local.init)
            && constructs(&init.expr)
        {
            self.made.insert(pat.ident.to_string());
        }
        syn::visit::visit_local(self, local);
    }

    // What they move, they move when they are called.
    fn visit_expr_closure(&mut self, _: &'ast syn::ExprClosure) {}
    fn visit_item(&mut self, _: &'ast syn::Item) {}
}

fn name(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Path(path) => path.path.get_ident().map(ToString::to_string),
        _ => None,
    }
}

/// Whether there is a `?` in it.
fn leaves(expr: &Expr) -> bool {
    struct Found(bool);
    impl<'ast> Visit<'ast> for Found {
        fn visit_expr_try(&mut self, _: &'ast syn::ExprTry) {
            self.0 = true;
        }
        fn visit_expr_closure(&mut self, _: &'ast syn::ExprClosure) {}
    }
    let mut found = Found(false);
    found.visit_expr(expr);
    found.0
}

/// Whether it is `Type::function(…)`, with `?` or `.unwrap()` behind it.
fn constructs(expr: &Expr) -> bool {
    match expr {
        Expr::Try(expr) => constructs(&expr.expr),
        Expr::MethodCall(call) => (call.method == "unwrap" || call.method == "expect") && constructs(&call.receiver),
        Expr::Call(call) => match &*call.func {
            Expr::Path(path) => {
                let owner = path.path.segments.iter().rev().nth(1);
                owner.is_some_and(|segment| segment.ident.to_string().starts_with(char::is_uppercase))
            }
            _ => false,
        },
        _ => false,
    }
}

/// In the words of [`Run::moved`](super::generate::Run): what rustc is to confirm, and what has to be said to it before,
/// so that it can.
pub fn guess(scope: &Scope, cell: &Cell) -> (BTreeSet<String>, BTreeSet<String>) {
    let Moves { given, made, set, .. } = &cell.moves;
    let (mut moved, mut said) = (BTreeSet::new(), BTreeSet::new());
    for name in given.keys().filter(|name| !set.contains(*name)) {
        if cell.bound.iter().any(|bound| bound.name == *name) {
            moved.extend(made.contains(name).then(|| name.clone()));
        } else if scope.variables.get(name).is_some_and(|variable| is_owned(&variable.ty)) {
            moved.insert(again(name));
            said.insert(old(name));
        }
    }
    (moved, said)
}

/// Types with a path, such as `attention::prelude::Decoder`; numbers and references are copied.
fn is_owned(ty: &str) -> bool {
    ty.contains("::") && !ty.starts_with('&')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::parse::parse;
    use crate::cell::scope::Variable;

    fn guessed(code: &str) -> Vec<String> {
        let variable = |ty: &str| Variable { ty: ty.into(), mutable: false };
        let mut scope = Scope::default();
        scope.variables.insert("model".into(), variable("attention::prelude::Decoder"));
        scope.variables.insert("width".into(), variable("usize"));
        let (moved, said) = guess(&scope, &parse(code).unwrap_or_else(|unparsed| panic!("{}", unparsed.message)));
        moved.into_iter().chain(said).collect()
    }

    #[test]
    fn what_is_handed_over_whole_is_guessed_to_be_moved() {
        assert_eq!(guessed("let t = Trainer::new(config.clone(), model, data)?;"), ["again model", "old model"]);
        assert_eq!(guessed("let m = Decoder::with_mixers(&c)?; let run = Trainer::new(m)?.run()?;"), ["m"]);
        assert_eq!(guessed("v.push(model)"), ["again model", "old model"]);
    }

    #[test]
    fn what_an_item_of_the_cell_does_with_names_of_its_own_is_not_looked_at() {
        let moves = parse("fn h(model: M) { f(model) }\nlet t = model.into_trainer()?;").unwrap().moves;
        assert!(moves.given.is_empty(), "{moves:?}");
    }

    #[test]
    fn what_is_set_again_is_told_from_what_a_question_mark_may_leave_unset() {
        let code = "for _ in 0..3 {\n    a = f(a);\n    b = f(b)?;\n    let e = f(d);\n    d = e;\n}\n\
                    g(c)?;\nx = f(x);\ng(x)?;";
        let moves = parse(code).unwrap().moves;
        assert_eq!(["a", "b", "c", "d", "x"].map(|name| moves.resets(name)), [true, false, false, true, false]);
        assert_eq!(["a", "b", "c", "d", "x"].map(|name| moves.given[name]), [2, 3, 7, 4, 8]);
    }

    #[test]
    fn what_is_lent_copied_printed_or_used_in_a_closure_is_not() {
        for code in [
            "f(&model)",
            "f(width)",
            "let n = 3; f(n)",
            "println!(\"{}\", model)",
            "model.forward(x)",
            "model = step(model)",
            "let m = Decoder::new(); g(|x| f(m, x))",
        ] {
            assert_eq!(guessed(code), [""; 0], "{code}");
        }
    }
}

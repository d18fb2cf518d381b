//! Which implementation of which operator ran, so that a slow path is never taken unseen.

use std::cell::RefCell;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Implementation {
    /// Plain tensor operations.
    Reference,
}

/// One call of an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ran {
    pub operator: &'static str,
    pub implementation: Implementation,
}

thread_local! {
    static TRACE: RefCell<Option<Vec<Ran>>> = const { RefCell::new(None) };
}

/// Runs `f` and returns what it returned and the operators that ran on this thread, in order.
pub fn trace<T>(f: impl FnOnce() -> T) -> (T, Vec<Ran>) {
    let outer = TRACE.replace(Some(Vec::new()));
    let result = f();
    let ran = TRACE.replace(outer).unwrap_or_default();
    (result, ran)
}

pub(crate) fn record(operator: &'static str, implementation: Implementation) {
    TRACE.with_borrow_mut(|trace| {
        if let Some(trace) = trace {
            trace.push(Ran { operator, implementation });
        }
    });
}

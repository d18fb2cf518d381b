//! Which implementation of which operator runs, so that a slow path is never taken unseen.

use std::cell::{Cell, RefCell};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Implementation {
    /// Plain tensor operations, on any device.
    Reference,
    /// Tiles, SIMD and threads, in f32 and f64.
    Cpu,
}

/// One call of an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ran {
    pub operator: &'static str,
    pub implementation: Implementation,
}

thread_local! {
    static TRACE: RefCell<Option<Vec<Ran>>> = const { RefCell::new(None) };
    static REFERENCE_ONLY: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` and returns what it returned and the operators that ran on this thread, in order.
pub fn trace<T>(f: impl FnOnce() -> T) -> (T, Vec<Ran>) {
    let outer = TRACE.replace(Some(Vec::new()));
    let result = f();
    let ran = TRACE.replace(outer).unwrap_or_default();
    (result, ran)
}

/// Runs `f` with every operator of this thread in plain tensor operations: the truth that the fast
/// forms are measured against.
pub fn by_reference<T>(f: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            REFERENCE_ONLY.set(self.0);
        }
    }
    let _restore = Restore(REFERENCE_ONLY.replace(true));
    f()
}

/// What [`trace`] and [`by_reference`] have set on a thread.
#[derive(Debug)]
pub(crate) struct State(Option<Vec<Ran>>, bool);

/// Takes the state of this thread along.
pub(crate) fn leave() -> State {
    State(TRACE.take(), REFERENCE_ONLY.get())
}

/// Sets the state of this thread and returns what it was.
pub(crate) fn enter(State(trace, reference): State) -> State {
    State(TRACE.replace(trace), REFERENCE_ONLY.replace(reference))
}

pub(crate) fn reference_only() -> bool {
    REFERENCE_ONLY.get()
}

pub(crate) fn record(operator: &'static str, implementation: Implementation) {
    TRACE.with_borrow_mut(|trace| {
        if let Some(trace) = trace {
            trace.push(Ran { operator, implementation });
        }
    });
}

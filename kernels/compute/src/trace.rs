//! Which implementation of which operator runs, so that a slow path is never taken unseen.

use std::cell::{Cell, RefCell};
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Implementation {
    /// Plain tensor operations, on any device.
    Reference,
    /// Tiles, SIMD and threads, in f32 and f64.
    Cpu,
    /// CUDA kernels of our own.
    Cuda,
}

/// Why the reference runs on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Because {
    /// There are kernels, and none of them was ever seen to be right on such a GPU.
    NeverTried,
    /// There are kernels, and they are switched off.
    SwitchedOff,
    /// There is no kernel for this.
    NoKernel(&'static str),
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variable = crate::cuda::VARIABLE;
        match self {
            Self::NeverTried => {
                write!(f, "its CUDA kernels have not passed `selftest` on such a GPU; {variable}=1 tries them")
            }
            Self::SwitchedOff => write!(f, "its CUDA kernels are switched off by {variable}=0"),
            Self::NoKernel(what) => write!(f, "no CUDA kernel for {what}"),
        }
    }
}

/// One call of an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ran {
    pub operator: &'static str,
    pub implementation: Implementation,
    /// Said of the reference on a GPU.
    pub because: Option<Because>,
}

/// `cpu`, or `reference: no CUDA kernel for a bias`.
impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", format!("{:?}", self.implementation).to_lowercase())?;
        self.because.map_or(Ok(()), |because| write!(f, ": {because}"))
    }
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

pub(crate) fn record(ran: Ran) {
    TRACE.with_borrow_mut(|trace| {
        if let Some(trace) = trace {
            trace.push(ran);
        }
    });
}

//! How the last expression of a cell is shown, decided by method lookup in one compilation.
//!
//! The cell calls `(&value).evcxr_display()`. Lookup tries `T::evcxr_display(&self)` first (the
//! type's own method, or any trait's, as evcxr has it), then `&T: Debug`, then anything at all.

use std::cell::RefCell;
use std::fmt::Debug;

thread_local! {
    static RESULT: RefCell<Option<String>> = const { RefCell::new(None) };
}

pub(crate) fn take_result() -> Option<String> {
    RESULT.with(|result| result.borrow_mut().take())
}

/// Not generic: this is compiled once and not into every cell.
fn show(value: &dyn Debug) {
    let text = format!("{value:?}");
    RESULT.with(|result| *result.borrow_mut() = Some(text));
}

fn show_name(name: &str) {
    RESULT.with(|result| *result.borrow_mut() = Some(format!("<{name}>")));
}

/// The unit value shows nothing.
pub trait ShowUnit {
    fn evcxr_display(&self);
}

impl ShowUnit for () {
    fn evcxr_display(&self) {}
}

pub trait ShowDebug {
    fn evcxr_display(&self);
}

impl<T: Debug> ShowDebug for &T {
    fn evcxr_display(&self) {
        show(*self);
    }
}

/// A value without `Debug` is named by its type; an error would help nobody.
pub trait ShowAny {
    fn evcxr_display(&mut self);
}

impl<T> ShowAny for &T {
    fn evcxr_display(&mut self) {
        show_name(std::any::type_name::<T>());
    }
}

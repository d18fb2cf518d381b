//! What the last expression of a cell left to be shown as its result.

use std::cell::RefCell;
use std::fmt::Debug;

thread_local! {
    static RESULT: RefCell<Option<String>> = const { RefCell::new(None) };
}

pub(crate) fn take_result() -> Option<String> {
    RESULT.with(|result| result.borrow_mut().take())
}

/// Shows a value as `{:?}`. Called by generated code; not generic, so it is compiled once.
pub fn debug(value: &dyn Debug) {
    let text = format!("{value:?}");
    RESULT.with(|result| *result.borrow_mut() = Some(text));
}

/// Shows a value without `Debug` by the name of its type; an error would help nobody.
pub fn type_name(name: &str) {
    RESULT.with(|result| *result.borrow_mut() = Some(format!("<{name}>")));
}

//! The variables that live from cell to cell.

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeMap;

// One thread runs all cells, so variables need not be Send.
thread_local! {
    static STORE: RefCell<BTreeMap<String, Box<dyn Any>>> = const { RefCell::new(BTreeMap::new()) };
}

/// Keeps `value` for later cells.
pub fn put<T: 'static>(name: &str, value: T) {
    put_any(name, Box::new(value));
}

// The generic functions are compiled into every cell, so the work is done in these.

/// The value it replaces is dropped after the store is free again: its `Drop` may be user code.
fn put_any(name: &str, value: Box<dyn Any>) {
    let old = STORE.with(|store| store.borrow_mut().insert(name.into(), value));
    drop(old);
}

fn take_any(name: &str) -> Box<dyn Any> {
    let value = STORE.with(|store| store.borrow_mut().remove(name));
    value.unwrap_or_else(|| panic!("variable `{name}` is not there any more"))
}

fn wrong_type(name: &str, value: Box<dyn Any>, expected: &str) -> ! {
    put_any(name, value);
    panic!("variable `{name}` is not a {expected}")
}

/// Takes a variable out. The kernel only asks for what is there, with the type rustc gave it.
pub fn take<T: 'static>(name: &str) -> T {
    match take_any(name).downcast::<T>() {
        Ok(value) => *value,
        Err(other) => wrong_type(name, other, std::any::type_name::<T>()),
    }
}

pub(crate) fn names() -> Vec<String> {
    STORE.with(|store| store.borrow().keys().cloned().collect())
}

pub(crate) fn clear() {
    let old = STORE.with(|store| std::mem::take(&mut *store.borrow_mut()));
    drop(old);
}

//! How values look below a notebook cell: HTML to be read, and the same in plain text.
//!
//! - `tensor`: shape, type, device, a summary, a strip of the values
//! - `frame`: a table
//! - `tree`: a module's parts and how many parameters each has
//!
//! A notebook shows a cell's last expression by the method `evcxr_display` of its type. Types of other
//! crates get it from [`Show`]; what has none is shown by [`Value`], to which a cell's code hands it.

mod frame;
mod tensor;
mod tree;

pub(crate) use frame::whole;

use burn::module::Module;
use burn::tensor::DType;
use std::fmt::Debug;

/// A type of another crate that has a look of its own in a notebook.
pub trait Show {
    /// Shows the value below the cell.
    fn evcxr_display(&self);
}

/// A value, and what looking for its own `evcxr_display` came to: `()`, then it is shown, or [`Other`].
///
/// `(&&&&Value(&value, other)).finish()` takes the first way that the type has: [`ByShow`],
/// [`ByModule`], [`ByDebug`], [`ByName`].
pub struct Value<'a, T, Own>(pub &'a T, pub Own);

/// The type has no `evcxr_display`.
pub struct Other;

impl<T> Value<'_, T, ()> {
    pub fn finish(&self) {}
}

pub trait ByShow {
    fn finish(&self);
}

impl<T: Show> ByShow for &&&Value<'_, T, Other> {
    fn finish(&self) {
        self.0.evcxr_display();
    }
}

pub trait ByModule {
    fn finish(&self);
}

impl<M: Module> ByModule for &&Value<'_, M, Other> {
    fn finish(&self) {
        // Numbers, texts and lists of them are modules too, without parameters.
        match tree::Tree::of(self.0) {
            Some(tree) => tree.show(),
            None => cell_runtime::show::debug(self.0),
        }
    }
}

pub trait ByDebug {
    fn finish(&self);
}

impl<T: Debug> ByDebug for &Value<'_, T, Other> {
    fn finish(&self) {
        cell_runtime::show::debug(self.0);
    }
}

pub trait ByName {
    fn finish(&self);
}

impl<T> ByName for Value<'_, T, Other> {
    fn finish(&self) {
        cell_runtime::show::type_name(std::any::type_name::<T>());
    }
}

/// The type of a tensor's elements, `f32` or `bool`, without how it is stored.
pub fn dtype(dtype: DType) -> String {
    let stored = format!("{dtype:?}").to_lowercase();
    stored.split('(').next().unwrap_or_default().into()
}

/// Text as it may stand in HTML, in attributes too.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

/// 1234567 as `1 234 567`.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_in_groups_of_three() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1\u{202f}000", "1\u{202f}234\u{202f}567"]);
    }
}

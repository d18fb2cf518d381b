//! The table of a notebook's variables. The kernel's `%vars` writes code that calls this.

use burn::module::Module;
use burn::tensor::{Bool, Float, Int, Tensor};
use cell_runtime::display_bundle;
use lab::show::escape;

/// A variable as the table has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub name: String,
    pub ty: String,
    /// `[2, 3] f32`, `1 003 520 parameters`, `12 elements`, or nothing.
    pub shape: String,
    pub device: String,
    /// What the value holds, as far as its type tells.
    pub bytes: usize,
}

impl Row {
    fn new(name: &str, ty: &str, bytes: usize) -> Self {
        Row { name: name.into(), ty: ty.into(), shape: String::new(), device: String::new(), bytes }
    }
}

/// A value to be described. `(&&&Of(&value)).row(…)` takes the first of [`DescribeData`],
/// [`DescribeModule`] and [`DescribeAny`] that knows the type.
pub struct Of<'a, T>(pub &'a T);

pub trait DescribeData {
    fn row(&self, name: &str, ty: &str) -> Row;
}

pub trait DescribeModule {
    fn row(&self, name: &str, ty: &str) -> Row;
}

pub trait DescribeAny {
    fn row(&self, name: &str, ty: &str) -> Row;
}

macro_rules! describe_tensor {
    ($($kind:ty),*) => {$(
        impl<const D: usize> DescribeData for &&Of<'_, Tensor<D, $kind>> {
            fn row(&self, name: &str, ty: &str) -> Row {
                let dims = self.0.dims();
                let dtype = self.0.dtype();
                let bytes = dims.iter().product::<usize>() * dtype.size();
                let shape = format!("{dims:?} {}", lab::show::dtype(dtype));
                Row { shape, device: place(&self.0.device()), ..Row::new(name, ty, bytes) }
            }
        }
    )*};
}
describe_tensor!(Float, Int, Bool);

fn place(device: &burn::tensor::Device) -> String {
    let text = lab::describe(device);
    text.split(" (").next().unwrap_or(&text).to_string()
}

impl<T> DescribeData for &&Of<'_, Vec<T>> {
    fn row(&self, name: &str, ty: &str) -> Row {
        let (length, bytes) = (self.0.len(), size_of::<Vec<T>>() + self.0.capacity() * size_of::<T>());
        Row { shape: format!("{length} elements"), ..Row::new(name, ty, bytes) }
    }
}

impl DescribeData for &&Of<'_, String> {
    fn row(&self, name: &str, ty: &str) -> Row {
        let shape = format!("{} characters", self.0.chars().count());
        Row { shape, ..Row::new(name, ty, size_of::<String>() + self.0.capacity()) }
    }
}

impl<M: Module> DescribeModule for &Of<'_, M> {
    fn row(&self, name: &str, ty: &str) -> Row {
        let parameters = self.0.num_params();
        let device = self.0.devices().first().map(place).unwrap_or_default();
        // Parameters are f32 unless somebody has cast them.
        let bytes = size_of::<M>() + parameters * size_of::<f32>();
        // Numbers are modules too.
        let shape = if parameters > 0 { format!("{parameters} parameters") } else { String::new() };
        Row { shape, device, ..Row::new(name, ty, bytes) }
    }
}

impl<T> DescribeAny for Of<'_, T> {
    fn row(&self, name: &str, ty: &str) -> Row {
        Row::new(name, ty, size_of::<T>())
    }
}

/// Shows the rows as a table, in HTML and in plain text.
pub fn show(rows: &[Row]) {
    if rows.is_empty() {
        return cell_runtime::display("text/plain", "no variables");
    }
    let head = ["name", "type", "shape", "device", "bytes"].map(String::from);
    let body = rows
        .iter()
        .map(|row| [row.name.clone(), row.ty.clone(), row.shape.clone(), row.device.clone(), row.bytes.to_string()]);
    let table: Vec<[String; 5]> = std::iter::once(head).chain(body).collect();
    let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..5).map(width).collect();
    let line = |row: &[String; 5]| {
        let cells = row.iter().zip(&widths).map(|(text, width)| format!("{text:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_string()
    };
    let text = table.iter().map(line).collect::<Vec<_>>().join("\n");
    let cells = |row: &[String; 5], tag: &str| {
        row.iter().map(|text| format!("<{tag} style=\"text-align:left\">{}</{tag}>", escape(text))).collect::<String>()
    };
    let body = table[1..].iter().map(|row| format!("<tr>{}</tr>", cells(row, "td"))).collect::<String>();
    let html = format!("<table><thead><tr>{}</tr></thead><tbody>{body}</tbody></table>", cells(&table[0], "th"));
    display_bundle(&[("text/html", &html), ("text/plain", &text)]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn what_has_no_parameters_says_nothing_of_them() {
        let layer = burn::nn::LinearConfig::new(2, 3).init(&Device::flex());
        assert_eq!(DescribeModule::row(&&Of(&layer), "layer", "Linear").shape, "9 parameters");
        assert_eq!(DescribeModule::row(&&Of(&0.5f64), "rate", "f64").shape, "");
    }

    #[test]
    fn a_tensor_of_bools_is_bool_however_it_is_stored() {
        let mask = Tensor::<1, Bool>::from_data([true, false], &Device::flex());
        assert_eq!(DescribeData::row(&&&Of(&mask), "mask", "Tensor<1, Bool>").shape, "[2] bool");
    }
}

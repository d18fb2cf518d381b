//! Tensors: shape, type, device, a summary, a strip of the values, and the values themselves.

use super::{Show, escape, grouped};
use crate::plot::picture;
use burn::tensor::{Bool, Float, Int, Tensor, TensorData};

/// Cells of the strip at most, along and across.
const STRIP: (usize, usize) = (96, 24);

macro_rules! show_tensor {
    ($($kind:ty),*) => {$(
        impl<const D: usize> Show for Tensor<D, $kind> {
            fn evcxr_display(&self) {
                let device = crate::describe(&self.device());
                let device = device.split(" (").next().unwrap_or_default();
                show(&self.to_data(), device, &self.to_string());
            }
        }
    )*};
}
show_tensor!(Float, Int, Bool);

fn show(data: &TensorData, device: &str, values: &str) {
    let look = Look::new(data, device);
    let text = format!("{}\n{values}", look.line());
    cell_runtime::display_bundle(&[("text/html", &look.html(values)), ("text/plain", &text)]);
}

struct Look {
    shape: Vec<usize>,
    /// `f32 on CPU`.
    place: String,
    summary: String,
    strip: Option<String>,
}

impl Look {
    fn new(data: &TensorData, device: &str) -> Self {
        let dtype = super::dtype(data.dtype());
        let values: Vec<f64> = data.iter::<f64>().collect();
        let summary = if dtype == "bool" {
            format!("{} of {} true", grouped(values.iter().filter(|v| **v != 0.0).count()), grouped(values.len()))
        } else {
            summary(&values)
        };
        let shape = data.shape().to_vec();
        let strip = strip(&values, shape.last().copied().unwrap_or(1));
        Self { shape, place: format!("{dtype} on {device}"), summary, strip }
    }

    fn line(&self) -> String {
        format!("{:?} {}: {}", self.shape, self.place, self.summary)
    }

    fn html(&self, values: &str) -> String {
        let strip = self.strip.as_deref().unwrap_or_default();
        format!(
            "<div><b>Tensor {:?}</b> {}<br>{}{strip}<details><summary style=\"cursor:pointer\">values</summary>\
             <pre>{}</pre></details></div>",
            self.shape,
            escape(&self.place),
            escape(&self.summary),
            escape(values)
        )
    }
}

/// Least, mean and greatest of the finite values, and how many are not finite.
fn summary(values: &[f64]) -> String {
    if values.is_empty() {
        return "no values".into();
    }
    let finite = || values.iter().copied().filter(|value| value.is_finite());
    let (count, nan) = (finite().count(), values.iter().filter(|value| value.is_nan()).count());
    let infinite = values.len() - count - nan;
    let mut parts = Vec::new();
    if count > 0 {
        let mean = finite().sum::<f64>() / count as f64;
        let named = [("min", finite().fold(f64::INFINITY, f64::min)), ("mean", mean)];
        let named = named.into_iter().chain([("max", finite().fold(f64::NEG_INFINITY, f64::max))]);
        parts.extend(named.map(|(name, value)| format!("{name} {}", crate::plot::number(value))));
    }
    parts.push(if nan == 0 { "no NaN".into() } else { format!("{} NaN", grouped(nan)) });
    if infinite > 0 {
        parts.push(format!("{} infinite", grouped(infinite)));
    }
    parts.join(" · ")
}

/// The values as a small picture, rows of the last axis one below the other; blocks of cells are averaged.
fn strip(values: &[f64], columns: usize) -> Option<String> {
    if values.len() < 2 || columns == 0 {
        return None;
    }
    let rows = values.len() / columns;
    let (across, along) = (rows.div_ceil(STRIP.1), columns.div_ceil(STRIP.0));
    let mean = |row: usize, column: usize| {
        let block = (row..rows.min(row + across)).flat_map(|r| {
            let line = &values[r * columns..][column..columns.min(column + along)];
            line.iter().copied().filter(|value| value.is_finite())
        });
        let (sum, count) = block.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
        if count > 0.0 { sum / count } else { f64::NAN }
    };
    let pooled: Vec<f64> = (0..rows)
        .step_by(across)
        .flat_map(|row| (0..columns).step_by(along).map(move |column| (row, column)))
        .map(|(row, column)| mean(row, column))
        .collect();
    let (width, height) = (columns.div_ceil(along), rows.div_ceil(across));
    let picture = picture(&pooled, width)?;
    let side = (384 / width).clamp(4, 16);
    let note = if across * along > 1 {
        format!("each point is the mean of {across} × {along} values")
    } else {
        String::new()
    };
    Some(format!(
        "<br><img alt=\"\" title=\"{note}\" style=\"image-rendering:pixelated;margin:4px 0\" width=\"{}\" height=\"{}\" \
         src=\"{picture}\">",
        width * side,
        (height * side).max(10)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    fn look<const D: usize>(tensor: &Tensor<D>) -> Look {
        Look::new(&tensor.to_data(), "CPU")
    }

    #[test]
    fn a_tensor_says_what_and_where_it_is_and_what_is_wrong_with_it() {
        let device = Device::flex();
        let tensor = Tensor::<2>::from_data([[1.0, -2.5], [f32::NAN, f32::INFINITY]], &device);
        assert_eq!(look(&tensor).line(), "[2, 2] f32 on CPU: min −2.5 · mean −0.75 · max 1 · 1 NaN · 1 infinite");
        let mask = Tensor::<1, Bool>::from_data([true, false, true], &device);
        assert_eq!(Look::new(&mask.to_data(), "CPU").line(), "[3] bool on CPU: 2 of 3 true");
        assert!(look(&Tensor::<1>::zeros([0], &device)).line().ends_with("no values"));
    }

    #[test]
    fn the_strip_is_small_however_large_the_tensor() {
        let device = Device::flex();
        let html = look(&Tensor::<4>::ones([3, 4, 50, 1000], &device)).html("<b>");
        assert!(
            html.len() < 3000 && html.contains("mean of 25 × 11 values") && html.contains("data:image/png"),
            "{html}"
        );
        assert!(html.contains("&lt;b&gt;") && !html.contains("<b><"));
        assert!(look(&Tensor::<1>::ones([1], &device)).strip.is_none(), "one value needs no picture");
    }
}

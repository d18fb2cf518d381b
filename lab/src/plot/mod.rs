//! Figures for print and for notebook cells, as SVG.
//!
//! - [`Lines`]: series with bands and optional log axes (loss curves, time against length)
//! - [`HeatMap`]: one matrix with token labels and a colour bar (an attention pattern)
//! - [`AttentionGrid`]: many small heat maps with one colour bar (layers × heads, variants)
//! - [`Bars`]: bars with intervals, in groups or not
//! - [`Histogram`]: distributions, overlaid or one above the other
//! - [`Panel`]: figures side by side
//! - [`Sketch`]: anything else, drawn with `plotters`
//!
//! Builders take what they are given and never fail; what is wrong is said by [`Figure::svg`] and
//! [`Figure::save`] as a [`PlotError`], and [`Figure::show`] fails the cell with it. The same input
//! gives the same bytes. A variant has the same colour in every figure ([`color_of`]).

mod bars;
mod canvas;
mod colour_bar;
mod error;
mod frame;
mod grid;
mod heat_map;
mod histogram;
mod lines;
mod matrix;
mod palette;
mod panel;
mod png;
mod scale;
mod sketch;
mod text;
mod tokens;

pub use bars::Bars;
pub use canvas::Drawing;
pub use error::PlotError;
pub use grid::AttentionGrid;
pub use heat_map::HeatMap;
pub use histogram::Histogram;
pub use lines::Lines;

pub use palette::{PALETTE, color_of};
pub use panel::Panel;
/// The library behind [`Sketch`], for cells that draw with it.
pub use plotters;
pub use sketch::Sketch;
pub use tokens::byte_tokens;

use std::path::Path;

/// Something that can be drawn, saved and shown.
pub trait Figure {
    /// Draws the figure, or says what is wrong with its data.
    fn draw(&self) -> Result<Drawing, PlotError>;

    /// The figure as a whole SVG document.
    fn svg(&self) -> Result<String, PlotError> {
        Ok(self.draw()?.document())
    }

    /// Writes the SVG to `path`, making its folder; a file already there is replaced at once or
    /// stays as it was.
    fn save(&self, path: impl AsRef<Path>) -> Result<(), PlotError>
    where
        Self: Sized,
    {
        let (svg, path) = (self.svg()?, path.as_ref());
        write(path, &svg).map_err(|source| PlotError::Save { path: path.to_path_buf(), source })
    }

    /// Shows the figure below the notebook cell.
    ///
    /// # Panics
    /// When it cannot be drawn, so that the cell fails instead of going on without its picture.
    fn show(&self) {
        match self.svg() {
            Ok(svg) => cell_runtime::display("image/svg+xml", &svg),
            Err(error) => panic!("this figure cannot be drawn: {error}"),
        }
    }

    /// [`Figure::show`], under the name by which a notebook displays a cell's last expression.
    fn evcxr_display(&self) {
        self.show();
    }
}

fn write(path: &Path, svg: &str) -> std::io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder)?;
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o644));
    }
    let mut file = builder.prefix(".figure-").tempfile_in(folder)?;
    std::io::Write::write_all(&mut file, svg.as_bytes())?;
    file.persist(path)?;
    Ok(())
}

/// The methods of [`Figure`] on the types themselves: a cell need not import the trait.
macro_rules! without_import {
    ($($figure:ty),*) => {$(
        impl $figure {
            /// See [`Figure::svg`].
            pub fn svg(&self) -> Result<String, PlotError> {
                Figure::svg(self)
            }
            /// See [`Figure::save`].
            pub fn save(&self, path: impl AsRef<Path>) -> Result<(), PlotError> {
                Figure::save(self, path)
            }
            /// See [`Figure::show`].
            pub fn show(&self) {
                Figure::show(self);
            }
            /// See [`Figure::evcxr_display`].
            pub fn evcxr_display(&self) {
                Figure::show(self);
            }
        }
    )*};
}
without_import!(AttentionGrid, Bars, HeatMap, Histogram, Lines, Panel, Sketch);

/// A number that can be drawn, so that `Vec<f32>`, `&[f64]`, ranges and iterators all serve.
pub trait Number: Copy {
    /// The value as drawn.
    fn get(self) -> f64;
}

macro_rules! number {
    ($($t:ty),*) => {$(
        impl Number for $t {
            fn get(self) -> f64 {
                self as f64
            }
        }
    )*};
}
number!(f32, f64, i8, i16, i32, i64, isize, u8, u16, u32, u64, usize);

impl<T: Number> Number for &T {
    fn get(self) -> f64 {
        (*self).get()
    }
}

fn numbers(values: impl IntoIterator<Item = impl Number>) -> Vec<f64> {
    values.into_iter().map(|v| drawable(v.get())).collect()
}

/// Differences of larger numbers overflow and of smaller ones vanish, so those are drawn as what
/// they are in effect.
fn drawable(value: f64) -> f64 {
    match value.abs() {
        size if size > 1e300 => f64::INFINITY.copysign(value),
        size if size < 1e-300 => 0.0,
        _ => value,
    }
}

/// A range given by the user, or what is wrong with it.
fn checked_range(
    figure: &str,
    what: &str,
    range: Option<(f64, f64)>,
    log: bool,
) -> Result<Option<(f64, f64)>, PlotError> {
    let range = range.map(|(lo, hi)| (drawable(lo), drawable(hi)));
    match range {
        Some((lo, hi)) if !(lo.is_finite() && hi.is_finite() && lo < hi) => {
            Err(PlotError::value(figure, what, format!("{lo}..{hi}"), "two finite numbers, the smaller first"))
        }
        Some((lo, hi)) if log && lo <= 0.0 => {
            Err(PlotError::value(figure, what, format!("{lo}..{hi}"), "positive numbers on a log axis"))
        }
        range => Ok(range),
    }
}

/// `1 value is`, `3 values are`.
fn counted(n: usize, thing: &str) -> String {
    if n == 1 { format!("1 {thing} is") } else { format!("{n} {thing}s are") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "</text><script>alert('&\u{1}\n\u{202e}\u{ffff}\")</script>]]>";

    /// One of each figure, with a hostile text wherever text goes.
    fn figures() -> Vec<Box<dyn Figure>> {
        let t = HOSTILE;
        let pattern = [[1.0, 0.0], [-0.25, f32::NAN]];
        vec![
            Box::new(Lines::new(t).x(t, t).y(t, t).note(t).level(t, 2.0).line(t, [1, 2], [1.0, 3.0]).line_with_band(
                "b",
                [1, 2],
                [1.0, f64::NAN],
                [0.5, 1.0],
                [2.0, f64::INFINITY],
            )),
            Box::new(HeatMap::new(t, pattern).x(t, t).y(t, t).value(t, t).note(t).tokens([t, t]).annotate()),
            Box::new(HeatMap::new(t, (0..200).map(|i| (0..200).map(move |j| i * j)))),
            Box::new(AttentionGrid::new(t).panel(t, pattern).x(t, t).y(t, t).value(t, t).tokens([t, t]).note(t)),
            Box::new(Bars::new(t).x(t, t).y(t, t).bar(t, 1).bar_with_interval("b", 2.0, 1.0, 3.0).note(t)),
            Box::new(Bars::new(t).groups([t, "b"]).series(t, [1.0, f64::NAN]).legend_below()),
            Box::new(Histogram::new(t).x(t, t).data(t, [1.0, 2.0, f64::NAN]).note(t)),
            Box::new(Histogram::new(t).data(t, [1.0]).data("b", [1.0]).small_multiples()),
            Box::new(Panel::new(t).figure(Bars::new(t).bar(t, 1))),
            Box::new(Sketch::new(100, 50, |area| {
                use plotters::prelude::*;
                let text = Text::new(HOSTILE, (5, 5), ("sans-serif", 12));
                Ok(area.draw(&text)?)
            })),
        ]
    }

    /// What is wrong with `svg` as XML, if anything.
    fn malformed(svg: &str) -> Option<String> {
        let mut open: Vec<&str> = Vec::new();
        let mut rest = svg;
        while let Some(start) = rest.find('<') {
            let (text, tag) = rest.split_at(start);
            if text.contains('>') {
                return Some(format!("loose > in {text:?}"));
            }
            let end = tag.find('>')?;
            let inside = &tag[1..end];
            let name = inside.trim_start_matches('/').split([' ', '/']).next()?;
            if inside.matches('"').count() % 2 == 1 || inside.contains('<') || name.is_empty() {
                return Some(format!("broken tag {inside:?}"));
            }
            if inside.starts_with('/') {
                if open.pop() != Some(name) {
                    return Some(format!("{name} closed out of order"));
                }
            } else if !inside.ends_with('/') {
                open.push(name);
            }
            rest = &tag[end + 1..];
        }
        for (i, _) in svg.match_indices('&') {
            let entity = svg[i + 1..].split(';').next()?;
            if !["amp", "lt", "gt", "quot", "apos", "#39"].contains(&entity) {
                return Some(format!("loose & before {entity:.20}"));
            }
        }
        let forbidden = |c: char| (c.is_control() && c != '\n') || matches!(c, '\u{fffe}' | '\u{ffff}');
        if let Some(c) = svg.chars().find(|c| forbidden(*c)) {
            return Some(format!("character {c:?}"));
        }
        (!open.is_empty()).then(|| format!("left open: {open:?}"))
    }

    #[test]
    fn every_figure_is_well_formed_whatever_the_text() {
        for (i, figure) in figures().iter().enumerate() {
            let svg = figure.svg().unwrap();
            assert_eq!(malformed(&svg), None, "figure {i}: {svg}");
            assert!(!svg.contains("<script"), "figure {i}");
        }
        assert!(malformed("<a><b></a></b>").is_some() && malformed("<a>&x</a>").is_some());
    }

    #[test]
    fn extreme_values_neither_panic_nor_leak_into_coordinates() {
        let extreme = [f64::MAX, f64::MIN, f64::MIN_POSITIVE, 5e-324, 1e300, -1e300, 1e-299, 1e18, 1e18 + 256.0, 1.0];
        for a in extreme {
            for b in extreme {
                let (x, y) = ([1.0, a, 3.0, b], [b, 1.0, a, 2.0]);
                let figures: [Box<dyn Figure>; 7] = [
                    Box::new(Lines::new("").line("n", x, y).level("l", a)),
                    Box::new(Lines::new("").line("n", x, y).log_x().log_y()),
                    Box::new(Lines::new("").line("n", x, y).log2_x().y_range(a, b)),
                    Box::new(HeatMap::new("", [x, y]).annotate()),
                    Box::new(HeatMap::new("", [x, y]).range(a, b)),
                    Box::new(Bars::new("").bar("a", a).bar_with_interval("b", b, b, b)),
                    Box::new(Histogram::new("").data("n", x)),
                ];
                for (i, figure) in figures.iter().enumerate() {
                    if let Ok(svg) = figure.svg() {
                        let svg = svg.replace("not finite", "");
                        assert!(!svg.contains("NaN") && !svg.contains("inf"), "figure {i} of {a} and {b}: {svg}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_same_input_gives_the_same_bytes() {
        for (a, b) in figures().iter().zip(figures()) {
            assert_eq!(a.svg().unwrap(), b.svg().unwrap());
        }
    }

    #[test]
    fn saving_makes_the_folder_and_a_broken_figure_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("figures/a.svg");
        let good = Bars::new("good").bar("gated", 1.0);
        good.save(&path).unwrap();
        assert!(Bars::new("bad").save(&path).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), good.svg().unwrap());
        let blocked = path.join("below a file.svg");
        let error = good.save(&blocked).unwrap_err().to_string();
        assert!(error.contains("below a file.svg"), "{error}");
    }
}

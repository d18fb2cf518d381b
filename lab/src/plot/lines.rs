use super::axis::{Axis, Scale};
use super::captions::{Captions, captioned};
use super::ink::{FAINT, stroke};
use super::legend::{Key, Sample, line, marker};
use super::number::{checked_range, drawable, numbers};
use super::page::{Chart, Page, Plot};
use super::palette::{self, Style};
use super::series::Series;
use super::{Drawing, Figure, Number, PlotError};
use plotters::element::IntoDynElement;
use plotters::prelude::{Color, Polygon};

/// Curves of several series, each with an optional band.
///
/// Series differ in colour, dash and marker. A value that is not finite breaks the line and is
/// counted in a note below the figure.
///
/// ```
/// use lab::plot::Lines;
/// let steps = [0, 100, 200];
/// let figure = Lines::new("Validation loss")
///     .x("training step", "")
///     .y("loss", "nats/byte")
///     .line("baseline", steps, [5.5, 3.1, 2.4])
///     .line_with_band("gated", steps, [5.5, 2.9, 2.2], [5.4, 2.8, 2.1], [5.6, 3.0, 2.3]);
/// assert!(figure.svg().is_ok());
/// ```
#[derive(Clone, Debug)]
pub struct Lines {
    captions: Captions,
    x: Side,
    y: Side,
    curves: Vec<(Vec<f64>, Series)>,
    levels: Vec<(String, f64)>,
    markers: Option<bool>,
    ordered: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Side {
    scale: Scale,
    range: Option<(f64, f64)>,
}

/// How reference lines look.
const LEVEL: Style = Style { colour: FAINT, dash: Some((1.5, 3.0)), marker: 0 };

captioned!(Lines: x y size);

impl Lines {
    /// An empty figure.
    pub fn new(title: impl Into<String>) -> Self {
        let (captions, side) = (Captions::new(title), Side::default());
        Self { captions, x: side, y: side, curves: Vec::new(), levels: Vec::new(), markers: None, ordered: false }
    }

    /// Adds a curve.
    pub fn line(
        mut self,
        name: impl Into<String>,
        x: impl IntoIterator<Item = impl Number>,
        y: impl IntoIterator<Item = impl Number>,
    ) -> Self {
        let series = Series { name: name.into(), values: numbers(y), interval: None };
        self.curves.push((numbers(x), series));
        self
    }

    /// Adds a curve with the band from `lo` to `hi` around it.
    pub fn line_with_band(
        mut self,
        name: impl Into<String>,
        x: impl IntoIterator<Item = impl Number>,
        y: impl IntoIterator<Item = impl Number>,
        lo: impl IntoIterator<Item = impl Number>,
        hi: impl IntoIterator<Item = impl Number>,
    ) -> Self {
        let series = Series { name: name.into(), values: numbers(y), interval: Some((numbers(lo), numbers(hi))) };
        self.curves.push((numbers(x), series));
        self
    }

    /// Adds a horizontal reference line (chance, a published value), named in the legend.
    pub fn level(mut self, name: impl Into<String>, value: f64) -> Self {
        self.levels.push((name.into(), drawable(value)));
        self
    }

    /// Logarithmic horizontal axis with ticks at powers of ten.
    pub fn log_x(mut self) -> Self {
        self.x.scale = Scale::Log(10.0);
        self
    }

    /// Logarithmic horizontal axis with ticks at powers of two (lengths, batch sizes).
    pub fn log2_x(mut self) -> Self {
        self.x.scale = Scale::Log(2.0);
        self
    }

    /// Logarithmic vertical axis with ticks at powers of ten.
    pub fn log_y(mut self) -> Self {
        self.y.scale = Scale::Log(10.0);
        self
    }

    /// Shows `lo..=hi` of the horizontal axis only.
    pub fn x_range(mut self, lo: f64, hi: f64) -> Self {
        self.x.range = Some((lo, hi));
        self
    }

    /// Shows `lo..=hi` of the vertical axis only.
    pub fn y_range(mut self, lo: f64, hi: f64) -> Self {
        self.y.range = Some((lo, hi));
        self
    }

    /// Markers on the points or not; by default, where there are at most 16 of them.
    pub fn markers(mut self, on: bool) -> Self {
        self.markers = Some(on);
        self
    }

    /// Colours by the order of the series instead of by name (layers, sizes).
    pub fn ordered(mut self) -> Self {
        self.ordered = true;
        self
    }

    /// Checks lengths and values; returns notes about what is left out.
    fn check(&self) -> Result<Vec<String>, PlotError> {
        let title = &self.captions.title;
        if self.curves.is_empty() {
            return Err(PlotError::empty(title, "the list of lines"));
        }
        let positive = |side: Side, what: String, value: f64| match side.scale {
            Scale::Log(_) if value <= 0.0 => {
                let expected = "a positive number, since the axis is logarithmic";
                Err(PlotError::data(title, format!("{what} is {value}"), expected))
            }
            _ => Ok(()),
        };
        for (x, s) in &self.curves {
            s.check(title, x.len(), &format!("there are {} values of x", x.len()))?;
            if !x.iter().zip(&s.values).any(|(x, y)| x.is_finite() && y.is_finite()) {
                return Err(PlotError::empty(title, format!("line {:?}", s.name)));
            }
            // A band may reach below zero; it is cut at the axis.
            for (i, (x, y)) in x.iter().zip(&s.values).enumerate() {
                positive(self.x, format!("x[{i}] of line {:?}", s.name), *x)?;
                positive(self.y, format!("y[{i}] of line {:?}", s.name), *y)?;
            }
        }
        for (name, value) in &self.levels {
            if !value.is_finite() {
                return Err(PlotError::data(title, format!("level {name:?} is {value}"), "a finite number"));
            }
            positive(self.y, format!("level {name:?}"), *value)?;
        }
        Ok(self.curves.iter().filter_map(|(_, series)| series.missing()).collect())
    }

    /// Both axes, `w × h` pixels.
    fn axes(&self, (w, h): (f64, f64)) -> Result<(Axis, Axis), PlotError> {
        let x = self.curves.iter().flat_map(|(x, _)| x.iter().copied());
        let y = self.curves.iter().flat_map(|(_, s)| s.all()).chain(self.levels.iter().map(|(_, v)| *v));
        let whole = x.clone().all(|v| v.fract() == 0.0);
        let range =
            |side: Side, what| checked_range(&self.captions.title, what, side.range, side.scale != Scale::Linear);
        let x = self.x.scale.fit(x, range(self.x, "x range")?);
        let y = self.y.scale.fit(y, range(self.y, "y range")?);
        Ok((Axis::bottom(self.x.scale, x, w, whole), Axis::side(self.y.scale, y, h, false)))
    }

    fn marked(&self, x: &[f64]) -> bool {
        x.len() == 1 || self.markers.unwrap_or(self.curves.iter().all(|(x, _)| x.len() <= 16))
    }

    fn paint(&self, plot: &mut Plot, styles: &[Style], (x_axis, y_axis): (&Axis, &Axis)) -> Result<(), PlotError> {
        let level = |(_, value): &(String, f64)| {
            let ends = vec![(x_axis.range.0, *value), (x_axis.range.1, *value)];
            line(ends, stroke(LEVEL.colour, 1.5), LEVEL.dash)
        };
        let mut elements: Vec<_> = self.levels.iter().map(level).collect();
        for ((x, s), style) in self.curves.iter().zip(styles) {
            for run in runs(x.len(), |k| x[k].is_finite() && s.ends(k).is_some()) {
                let ends: Vec<_> = run.filter_map(|k| Some((x[k], s.ends(k)?))).collect();
                let upper = ends.iter().map(|(x, (_, hi))| (*x, *hi));
                let lower = ends.iter().rev().map(|(x, (lo, _))| (*x, *lo));
                let band: Vec<_> = upper.chain(lower).collect();
                elements.push(Polygon::new(band, style.colour.mix(0.18)).into_dyn());
            }
        }
        let mut markers = Vec::new();
        for ((x, s), style) in self.curves.iter().zip(styles) {
            for run in runs(x.len(), |k| x[k].is_finite() && s.values[k].is_finite()) {
                let points: Vec<_> = run.map(|k| (x[k], s.values[k])).collect();
                // A point without neighbours would vanish without a marker.
                if self.marked(x) || points.len() == 1 {
                    let shown = points.iter().step_by(x.len().div_ceil(16));
                    let shown = shown.filter(|point| x_axis.holds(point.0) && y_axis.holds(point.1));
                    markers.extend(shown.map(|point| marker(*point, style.marker, style.colour)));
                }
                elements.push(line(points, stroke(style.colour, 1.8), style.dash));
            }
        }
        plot.svg.clipped(plot.chart.plotting_area(), elements)?;
        // Half a marker at the border would look like an error.
        plot.chart.draw_series(markers)?;
        Ok(())
    }
}

impl Figure for Lines {
    fn draw(&self) -> Result<Drawing, PlotError> {
        let notes = self.check()?;
        let size = self.captions.size.unwrap_or((460.0, 290.0));
        let (x, y) = self.axes(size)?;
        let mut styles = palette::styles(self.curves.iter().map(|(_, s)| s.name.as_str()), self.ordered);
        if self.curves.len() == 1 {
            styles[0].dash = None;
        }
        let sample = |x: &[f64]| if self.marked(x) { Sample::MarkedLine } else { Sample::Line };
        let curves = self.curves.iter().zip(&styles).map(|((x, s), style)| Key::new(&s.name, *style, sample(x)));
        let levels = self.levels.iter().map(|(name, _)| Key::new(name, LEVEL, Sample::Line));
        // One nameless curve needs no legend.
        let alone = self.curves.len() == 1 && self.curves[0].1.name.is_empty();
        let keys = curves.filter(|_| !alone).chain(levels).collect();
        let axes = (x.clone(), y.clone());
        let paint = Box::new(move |plot: &mut Plot| self.paint(plot, &styles, (&axes.0, &axes.1)));
        let charts = vec![Chart { title: String::new(), x, y, paint }];
        Page { notes, keys, charts, ..Page::new(&self.captions, size) }.draw()
    }
}

/// The stretches of `0..n` where `good` holds.
fn runs(n: usize, good: impl Fn(usize) -> bool) -> Vec<std::ops::Range<usize>> {
    let mut runs = Vec::new();
    let mut start = 0;
    for i in 0..=n {
        if i == n || !good(i) {
            if start < i {
                runs.push(start..i);
            }
            start = i + 1;
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Lines {
        Lines::new("Loss").line("baseline", [1, 2, 3], [3.0, 2.0, 1.0]).line("mine", [1, 2, 3], [2.0, 1.5, 1.0])
    }

    #[test]
    fn the_legend_has_every_series_and_level() {
        let svg = two().level("chance", 2.5).svg().unwrap();
        for name in ["baseline", "mine", "chance"] {
            assert!(svg.contains(&format!(">{name}</text>")), "{name}");
        }
    }

    #[test]
    fn a_length_mismatch_names_the_line_and_both_lengths() {
        let error = two().line("gated", [1, 2, 3], [1.0, 2.0]).svg().unwrap_err().to_string();
        assert!(error.contains("gated") && error.contains('2') && error.contains('3'), "{error}");
    }

    #[test]
    fn zero_on_a_log_axis_is_refused_by_place() {
        let error = two().line("gated", [1, 2], [1.0, 0.0]).log_y().svg().unwrap_err().to_string();
        assert!(error.contains("y[1]") && error.contains("gated"), "{error}");
    }

    #[test]
    fn a_value_that_is_not_finite_breaks_the_line_and_is_counted() {
        let svg = Lines::new("").line("softmax", [1, 2, 3, 4, 5], [1.0, 2.0, f64::NAN, 2.0, 1.0]).svg().unwrap();
        assert!(svg.contains("softmax: 1 value is not finite") && !svg.contains("NaN"), "{svg}");
        let curve = svg.lines().find(|line| line.contains("stroke-width=\"1.8\"")).unwrap();
        assert_eq!(curve.matches('M').count(), 2, "{curve}");
        assert!(Lines::new("").line("a", [1], [f64::NAN]).svg().is_err());
    }

    #[test]
    fn curves_beyond_the_range_are_clipped() {
        let svg = two().y_range(1.2, 1.4).svg().unwrap();
        assert!(svg.contains("overflow=\"hidden\""));
        assert!(two().y_range(2.0, 1.0).svg().is_err());
    }
}

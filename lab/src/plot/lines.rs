use super::canvas::{Anchor, FAINT, Set, Stroke};
use super::frame::{Frame, Key, Legend, SMALL, Side, marker};
use super::scale::{Kind, Scale};
use super::{Drawing, Figure, Number, PlotError, checked_range, counted, numbers, palette, text};

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
    title: String,
    x: Axis,
    y: Axis,
    series: Vec<Series>,
    levels: Vec<(String, f64)>,
    area: (f64, f64),
    legend: Legend,
    markers: Option<bool>,
    ordered: bool,
    notes: Vec<String>,
}

#[derive(Clone, Debug)]
struct Axis {
    label: String,
    kind: Kind,
    range: Option<(f64, f64)>,
}

#[derive(Clone, Debug)]
struct Series {
    name: String,
    x: Vec<f64>,
    y: Vec<f64>,
    band: Option<(Vec<f64>, Vec<f64>)>,
}

impl Lines {
    /// An empty figure.
    pub fn new(title: impl Into<String>) -> Self {
        let axis = Axis { label: String::new(), kind: Kind::Linear, range: None };
        Self {
            title: title.into(),
            x: axis.clone(),
            y: axis,
            series: Vec::new(),
            levels: Vec::new(),
            area: (460.0, 290.0),
            legend: Legend::Right,
            markers: None,
            ordered: false,
            notes: Vec::new(),
        }
    }

    /// Label and unit of the horizontal axis (unit `""`: none).
    pub fn x(mut self, label: &str, unit: &str) -> Self {
        self.x.label = text::with_unit(label, unit);
        self
    }

    /// Label and unit of the vertical axis (unit `""`: none).
    pub fn y(mut self, label: &str, unit: &str) -> Self {
        self.y.label = text::with_unit(label, unit);
        self
    }

    /// Adds a curve.
    pub fn line(
        mut self,
        name: impl Into<String>,
        x: impl IntoIterator<Item = impl Number>,
        y: impl IntoIterator<Item = impl Number>,
    ) -> Self {
        self.series.push(Series { name: name.into(), x: numbers(x), y: numbers(y), band: None });
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
        self.series.push(Series {
            name: name.into(),
            x: numbers(x),
            y: numbers(y),
            band: Some((numbers(lo), numbers(hi))),
        });
        self
    }

    /// Adds a horizontal reference line (chance, a published value), named in the legend.
    pub fn level(mut self, name: impl Into<String>, value: f64) -> Self {
        self.levels.push((name.into(), value));
        self
    }

    /// Logarithmic horizontal axis with ticks at powers of ten.
    pub fn log_x(mut self) -> Self {
        self.x.kind = Kind::Log;
        self
    }

    /// Logarithmic horizontal axis with ticks at powers of two (lengths, batch sizes).
    pub fn log2_x(mut self) -> Self {
        self.x.kind = Kind::Log2;
        self
    }

    /// Logarithmic vertical axis with ticks at powers of ten.
    pub fn log_y(mut self) -> Self {
        self.y.kind = Kind::Log;
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

    /// Puts the legend below the axis instead of at its right.
    pub fn legend_below(mut self) -> Self {
        self.legend = Legend::Below;
        self
    }

    /// Size of the data area in pixels (the figure is larger by its labels).
    pub fn size(mut self, width: u32, height: u32) -> Self {
        self.area = (f64::from(width.max(60)), f64::from(height.max(40)));
        self
    }

    /// Adds a line of small print: what the band is, how many seeds.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Checks lengths and values; returns notes about what is left out.
    fn check(&self) -> Result<Vec<String>, PlotError> {
        let mut notes = Vec::new();
        if self.series.is_empty() {
            return Err(PlotError::empty(&self.title, "the list of lines"));
        }
        for s in &self.series {
            let n = s.x.len();
            let because = format!("its x has {n} values");
            let length = |what: &str, got: usize| match got == n {
                true => Ok(()),
                false => {
                    let what = format!("{what} of line {:?}", s.name);
                    Err(PlotError::length(&self.title, what, got, n, &because))
                }
            };
            length("y", s.y.len())?;
            if let Some((lo, hi)) = &s.band {
                length("lower band", lo.len())?;
                length("upper band", hi.len())?;
            }
            let finite = |i: &usize| s.x[*i].is_finite() && s.y[*i].is_finite();
            let shown = (0..n).filter(finite).count();
            if shown == 0 {
                return Err(PlotError::empty(&self.title, format!("line {:?}", s.name)));
            }
            if shown < n {
                notes.push(format!("{}: {} not finite and left out", s.name, counted(n - shown, "value")));
            }
            let band = s.band.iter().flat_map(|(lo, hi)| lo.iter().chain(hi));
            for (axis, letter, values) in [
                (&self.x, "x", s.x.iter().collect::<Vec<_>>()),
                (&self.y, "y", s.y.iter().collect()),
                (&self.y, "band", band.collect()),
            ] {
                let low = values.iter().position(|v| **v <= 0.0);
                // A band may reach below zero; it is cut at the axis.
                if let (Some(i), true, true) = (low, axis.kind != Kind::Linear, letter != "band") {
                    let what = format!("{letter}[{i}] of line {:?}", s.name);
                    let expected = "a positive number, since the axis is logarithmic";
                    return Err(PlotError::value(&self.title, what, values[i], expected));
                }
            }
        }
        for (name, value) in &self.levels {
            if !super::drawable(*value).is_finite() || (self.y.kind != Kind::Linear && *value <= 0.0) {
                let expected = match self.y.kind {
                    Kind::Linear => "a finite number",
                    _ => "a positive finite number, since the axis is logarithmic",
                };
                return Err(PlotError::value(&self.title, format!("level {name:?}"), value, expected));
            }
        }
        Ok(notes)
    }

    fn scales(&self) -> Result<(Scale, Scale), PlotError> {
        let range = |axis: &Axis, what| checked_range(&self.title, what, axis.range, axis.kind != Kind::Linear);
        let x = self.series.iter().flat_map(|s| s.x.iter().copied());
        let y = self.series.iter().flat_map(|s| {
            let band = s.band.iter().flat_map(|(lo, hi)| lo.iter().chain(hi));
            s.y.iter().chain(band).copied()
        });
        let y = y.chain(self.levels.iter().map(|(_, v)| *v));
        Ok((
            Scale::fit(self.x.kind, x, range(&self.x, "x range")?),
            Scale::fit(self.y.kind, y, range(&self.y, "y range")?),
        ))
    }
}

impl Figure for Lines {
    fn draw(&self) -> Result<Drawing, PlotError> {
        let mut notes = self.notes.clone();
        notes.extend(self.check()?);
        let (mut x, y) = self.scales()?;
        x.whole = self.series.iter().flat_map(|s| &s.x).all(|v| v.fract() == 0.0);
        let (w, h) = self.area;
        let mut styles = palette::styles(self.series.iter().map(|s| s.name.as_str()));
        if self.ordered {
            styles = palette::in_order(self.series.len());
        }
        let colour = |i: usize| match self.ordered {
            true => palette::ramp(i, self.series.len()),
            false => styles[i].colour.to_string(),
        };
        let few = self.series.iter().all(|s| s.x.len() <= 16);
        let marked = self.markers.unwrap_or(few);
        let mut keys: Vec<Key> = self
            .series
            .iter()
            .enumerate()
            .map(|(i, s)| Key {
                name: s.name.clone(),
                colour: colour(i),
                dash: styles[i].dash,
                marker: (marked || s.x.len() == 1).then_some(styles[i].marker),
                patch: false,
            })
            .collect();
        keys.extend(self.levels.iter().map(|(name, _)| Key {
            name: name.clone(),
            colour: FAINT.into(),
            dash: "1.5 3",
            marker: None,
            patch: false,
        }));
        let samples: Vec<Option<usize>> = keys.iter().map(|k| k.marker).collect();
        // One nameless curve needs no legend.
        if keys.len() == 1 && keys[0].name.is_empty() {
            keys.clear();
        }
        let frame = Frame {
            title: &self.title,
            area: self.area,
            x: Side::bottom(&x, w, self.x.label.clone()),
            y: Side::left(&y, h, self.y.label.clone()),
            keys,
            legend: self.legend,
            notes: &notes,
        };
        let (mut d, area) = frame.open();
        // Far outside is as good as at the border, and keeps coordinates short.
        let px = |v: f64| (x.at(v) * w).clamp(-1e4, 1e4);
        let py = |v: f64| match v <= 0.0 && y.kind != Kind::Linear {
            true => h + 10.0,
            false => ((1.0 - y.at(v)) * h).clamp(-1e4, 1e4),
        };
        d.clipped(area, |d| {
            for (_, value) in &self.levels {
                d.line((0.0, py(*value)), (w, py(*value)), Stroke(FAINT, 1.5, "1.5 3"));
            }
            for (i, s) in self.series.iter().enumerate() {
                let Some((lo, hi)) = &s.band else { continue };
                let finite = |k: &usize| s.x[*k].is_finite() && lo[*k].is_finite() && hi[*k].is_finite();
                for run in runs(s.x.len(), finite) {
                    let upper = run.clone().map(|k| (px(s.x[k]), py(hi[k])));
                    let lower = run.rev().map(|k| (px(s.x[k]), py(lo[k])));
                    d.shape(&upper.chain(lower).collect::<Vec<_>>(), &colour(i), 0.18);
                }
            }
            for (i, s) in self.series.iter().enumerate() {
                let finite = |k: &usize| s.x[*k].is_finite() && s.y[*k].is_finite();
                for run in runs(s.x.len(), finite) {
                    let points: Vec<_> = run.map(|k| (px(s.x[k]), py(s.y[k]))).collect();
                    d.path(&points, Stroke(&colour(i), 1.8, styles[i].dash));
                    // A point without neighbours would vanish.
                    if points.len() == 1 && samples[i].is_none() {
                        d.circle(points[0], 2.5, &colour(i));
                    }
                }
            }
        });
        // Markers are drawn last and unclipped: half a marker at the border looks like an error.
        for (i, s) in self.series.iter().enumerate() {
            let Some(shape) = samples[i] else { continue };
            for k in (0..s.x.len()).step_by(s.x.len().div_ceil(16)) {
                let (cx, cy) = (px(s.x[k]), py(s.y[k]));
                if (-0.5..=w + 0.5).contains(&cx) && (-0.5..=h + 0.5).contains(&cy) {
                    marker(&mut d, (area[0] + cx, area[1] + cy), shape, &colour(i));
                }
            }
        }
        if self.series.len() == 1 && self.series[0].x.len() == 1 {
            let s = &self.series[0];
            let label = super::scale::number(s.y[0]);
            let at = (area[0] + px(s.x[0]), area[1] + py(s.y[0]) - 14.0);
            d.text(at, &label, Set::new(SMALL, Anchor::Middle));
        }
        Ok(d)
    }
}

/// The stretches of `0..n` where `good` holds.
fn runs(n: usize, good: impl Fn(&usize) -> bool) -> Vec<std::ops::Range<usize>> {
    let mut runs = Vec::new();
    let mut start = 0;
    for i in 0..=n {
        if i == n || !good(&i) {
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
        let svg = Lines::new("").line("a", [1, 2, 3, 4, 5], [1.0, 2.0, f64::NAN, 2.0, 1.0]).svg().unwrap();
        assert!(svg.contains("a: 1 value is not finite") && !svg.contains("NaN"), "{svg}");
        assert_eq!(svg.matches("stroke-width=\"1.8\"").count(), 2);
        assert!(Lines::new("").line("a", [1], [f64::NAN]).svg().is_err());
    }

    #[test]
    fn curves_beyond_the_range_are_clipped() {
        let svg = two().y_range(1.2, 1.4).svg().unwrap();
        assert!(svg.contains("overflow=\"hidden\""));
        assert!(two().y_range(2.0, 1.0).svg().is_err());
    }
}

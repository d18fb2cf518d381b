use super::axis::{Axis, Scale};
use super::captions::{Captions, captioned};
use super::ink::{FAINT, INK, SMALL, font, stroke, units};
use super::legend::{Key, Sample};
use super::number::{extent, number, numbers};
use super::page::{Chart, Page, Plot};
use super::series::Series;
use super::{Drawing, Figure, Number, PlotError, palette, text};
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

/// Bars from zero, each with an optional interval; one by one, or in groups.
///
/// ```
/// use lab::plot::Bars;
/// let alone = Bars::new("Needle accuracy")
///     .y("accuracy", "%")
///     .bar("baseline", 41.0)
///     .bar_with_interval("gated", 63.0, 58.0, 68.0);
/// let grouped = Bars::new("Accuracy by task")
///     .y("accuracy", "%")
///     .groups(["MQAR", "needle"])
///     .series("baseline", [88.0, 41.0])
///     .series_with_interval("gated", [93.0, 63.0], [91.0, 58.0], [95.0, 68.0]);
/// assert!(alone.svg().is_ok() && grouped.svg().is_ok());
/// ```
#[derive(Clone, Debug)]
pub struct Bars {
    captions: Captions,
    /// Empty: each series is a bar of its own.
    groups: Vec<String>,
    series: Vec<Series>,
    labels: bool,
}

captioned!(Bars: x y size);

impl Bars {
    /// A figure without bars.
    pub fn new(title: impl Into<String>) -> Self {
        Self { captions: Captions::new(title), groups: Vec::new(), series: Vec::new(), labels: true }
    }

    /// Adds a bar.
    pub fn bar(self, name: impl Into<String>, value: impl Number) -> Self {
        self.series(name, [value])
    }

    /// Adds a bar with its interval from `lo` to `hi`.
    pub fn bar_with_interval(
        self,
        name: impl Into<String>,
        value: impl Number,
        lo: impl Number,
        hi: impl Number,
    ) -> Self {
        self.series_with_interval(name, [value], [lo], [hi])
    }

    /// Names the groups; then each series has one bar in each of them.
    pub fn groups(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.groups = names.into_iter().map(Into::into).collect();
        self
    }

    /// Adds a series: one value for each group.
    pub fn series(mut self, name: impl Into<String>, values: impl IntoIterator<Item = impl Number>) -> Self {
        self.series.push(Series { name: name.into(), values: numbers(values), interval: None });
        self
    }

    /// Adds a series with an interval for each group.
    pub fn series_with_interval(
        mut self,
        name: impl Into<String>,
        values: impl IntoIterator<Item = impl Number>,
        lo: impl IntoIterator<Item = impl Number>,
        hi: impl IntoIterator<Item = impl Number>,
    ) -> Self {
        let interval = Some((numbers(lo), numbers(hi)));
        self.series.push(Series { name: name.into(), values: numbers(values), interval });
        self
    }

    /// No numbers above the bars.
    pub fn without_values(mut self) -> Self {
        self.labels = false;
        self
    }

    /// The range of the value axis: from zero, with room for the numbers.
    fn range(&self) -> (f64, f64) {
        let all = self.series.iter().flat_map(Series::all).chain([0.0]);
        let (least, most) = extent(all).unwrap_or_default();
        let (lo, hi) = Scale::Linear.fit([least, most], None);
        let room = if self.labels { 0.06 * (hi - lo) } else { 0.0 };
        // No room beyond a zero that no bar crosses.
        (if least < 0.0 { lo - room } else { 0.0 }, if most > 0.0 || least == 0.0 { hi + room } else { 0.0 })
    }

    /// Draws the bars `wide` slots wide; the slots, one for each name, are `1` wide.
    fn paint(&self, plot: &mut Plot, wide: f64, colours: &[RGBColor]) -> Result<(), PlotError> {
        for (k, (s, colour)) in self.series.iter().zip(colours).enumerate() {
            for (i, value) in s.values.iter().enumerate() {
                let x = match self.groups.len() {
                    0 => k as f64 + 0.5,
                    _ => i as f64 + 0.5 + (k as f64 - (self.series.len() - 1) as f64 / 2.0) * wide,
                };
                let label = |text: String, (y, away): (f64, f64), colour| {
                    let style = font(SMALL, colour, HPos::Center);
                    EmptyElement::at((x, y)) + Text::new(text, (0, units(away)), style)
                };
                if !value.is_finite() {
                    plot.chart.draw_series([label("n/a".into(), (0.0, -9.0), FAINT)])?;
                    continue;
                }
                let half = 0.47 * wide;
                plot.chart.draw_series([Rectangle::new([(x - half, 0.0), (x + half, *value)], colour.filled())])?;
                if let Some((lo, hi)) = s.ends(i) {
                    let cap = |y: f64| [(x - 0.1 * wide, y), (x + 0.1 * wide, y)];
                    // White below the ink keeps the interval visible on a black bar.
                    for (colour, width) in [(WHITE, 3.4), (INK, 1.4)] {
                        let path = |ends: [_; 2]| PathElement::new(ends, stroke(colour, width));
                        plot.chart.draw_series([[(x, lo), (x, hi)], cap(lo), cap(hi)].map(path))?;
                    }
                }
                if self.labels {
                    let (lo, hi) = s.ends(i).unwrap_or((*value, *value));
                    let place = if *value < 0.0 { (lo.min(*value), 9.0) } else { (hi.max(*value), -9.0) };
                    plot.chart.draw_series([label(number(*value), place, INK)])?;
                }
            }
        }
        let slots = plot.chart.x_range().end;
        plot.chart.draw_series([PathElement::new([(0.0, 0.0), (slots, 0.0)], stroke(INK, 1.0))])?;
        Ok(())
    }
}

impl Figure for Bars {
    fn draw(&self) -> Result<Drawing, PlotError> {
        let title = &self.captions.title;
        let grouped = !self.groups.is_empty();
        let because = if grouped { "one for each group" } else { "there are no groups(…)" };
        self.series.iter().try_for_each(|s| s.check(title, self.groups.len().max(1), because))?;
        if !self.series.iter().any(|s| s.values.iter().any(|v| v.is_finite())) {
            return Err(PlotError::empty(title, "the list of bars"));
        }
        let names = if grouped { self.groups.clone() } else { self.series.iter().map(|s| s.name.clone()).collect() };
        let (slots, beside) = (names.len() as f64, if grouped { self.series.len() as f64 } else { 1.0 });
        // Many bars make the figure wider: there is room for the number at each bar.
        let numbers = self.series.iter().flat_map(|s| &s.values).map(|v| text::width(&number(*v), SMALL));
        let least = if self.labels { numbers.fold(14.0, f64::max) + 4.0 } else { 10.0 };
        let (w, h) = self.captions.size.unwrap_or((380.0, 260.0));
        let w = w.max(slots * (beside * least + 16.0));
        let slot = w / slots;
        let wide = ((slot - (0.3 * slot).min(16.0)) / beside).min(66.0) / slot;

        let name = |(i, name): (usize, &String)| (i as f64 + 0.5, text::shorten(&text::plain(name), 40));
        let x = Axis::labelled((0.0, slots), names.iter().enumerate().map(name).collect(), true);
        let y = Axis::side(Scale::Linear, self.range(), h, false);
        let styles = palette::styles(self.series.iter().map(|s| s.name.as_str()), false);
        let series = self.series.iter().zip(&styles).filter(|_| grouped);
        let keys = series.map(|(s, style)| Key::new(&s.name, *style, Sample::Patch)).collect();
        let colours: Vec<RGBColor> = styles.iter().map(|style| style.colour).collect();
        let notes = self.series.iter().filter_map(Series::missing).collect();
        let paint = Box::new(move |plot: &mut Plot| self.paint(plot, wide, &colours));
        let charts = vec![Chart { title: String::new(), x, y, paint }];
        Page { notes, keys, charts, ..Page::new(&self.captions, (w, h)) }.draw()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_of_another_length_than_the_groups_names_both() {
        let bars = Bars::new("tasks").groups(["a", "b", "c"]).series("gated", [1.0, 2.0]);
        let error = bars.svg().unwrap_err().to_string();
        assert!(error.contains("gated") && error.contains("length 2, expected 3"), "{error}");
    }

    #[test]
    fn bars_start_at_zero() {
        assert_eq!(Bars::new("").bar("a", 0.9).bar("b", 0.91).range().0, 0.0);
        assert_eq!(Bars::new("").bar("a", -0.9).range().1, 0.0);
    }

    #[test]
    fn every_bar_has_name_value_and_colour() {
        let svg = Bars::new("").bar("gated", 0.25).bar("hybrid", 0.5).svg().unwrap();
        for part in [">gated<", ">hybrid<", ">0.25<", ">0.5<", palette::color_of("gated"), palette::color_of("hybrid")]
        {
            assert!(svg.contains(part), "{part}");
        }
    }

    #[test]
    fn nothing_to_draw_is_an_error() {
        assert!(Bars::new("").svg().is_err());
        assert!(Bars::new("").bar("a", f64::NAN).svg().is_err());
        assert!(Bars::new("").bar_with_interval("a", 1.0, 2.0, 0.0).svg().is_err());
    }
}

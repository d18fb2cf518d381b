use super::axis::{Axis, SMALL, Scale};
use super::legend::{Key, Sample};
use super::number::{checked_range, counted, extent, number, numbers};
use super::page::{Captions, Chart, FAINT, INK, Page, Plot, captioned, font, stroke, units};
use super::{Drawing, Figure, Number, PlotError, palette, text};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

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
    bars: Vec<Series>,
    groups: Vec<String>,
    series: Vec<Series>,
    range: Option<(f64, f64)>,
    labels: bool,
}

/// One value for each group (a bar that stands alone has one).
#[derive(Clone, Debug)]
struct Series {
    name: String,
    values: Vec<f64>,
    interval: Option<(Vec<f64>, Vec<f64>)>,
}

captioned!(Bars: x y size legend_below);

impl Bars {
    /// A figure without bars.
    pub fn new(title: impl Into<String>) -> Self {
        let captions = Captions::new(title);
        Self { captions, bars: Vec::new(), groups: Vec::new(), series: Vec::new(), range: None, labels: true }
    }

    /// Adds a bar.
    pub fn bar(mut self, name: impl Into<String>, value: impl Number) -> Self {
        self.bars.push(Series { name: name.into(), values: numbers([value]), interval: None });
        self
    }

    /// Adds a bar with its interval from `lo` to `hi`.
    pub fn bar_with_interval(
        mut self,
        name: impl Into<String>,
        value: impl Number,
        lo: impl Number,
        hi: impl Number,
    ) -> Self {
        self.bars.push(Series {
            name: name.into(),
            values: numbers([value]),
            interval: Some((numbers([lo]), numbers([hi]))),
        });
        self
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
        self.series.push(Series {
            name: name.into(),
            values: numbers(values),
            interval: Some((numbers(lo), numbers(hi))),
        });
        self
    }

    /// Shows `lo..=hi` of the value axis. Bars start at zero, so `lo` above zero is refused.
    pub fn y_range(mut self, lo: f64, hi: f64) -> Self {
        self.range = Some((lo, hi));
        self
    }

    /// No numbers above the bars.
    pub fn without_values(mut self) -> Self {
        self.labels = false;
        self
    }

    fn check(&self) -> Result<(), PlotError> {
        let title = &self.captions.title;
        let wrong = |what: &str, got: String, expected: &str| Err(PlotError::value(title, what, got, expected));
        match (self.bars.len(), self.groups.len(), self.series.len()) {
            (0, 0, 0) => return Err(PlotError::empty(title, "the list of bars")),
            (0, 0, n) => {
                return wrong("the count of groups", format!("0 for {n} series"), "names given by groups(…)");
            }
            (0, n, 0) => {
                return wrong("the count of series", format!("0 for {n} groups"), "at least one series(…)");
            }
            (b, g, s) if b > 0 && g + s > 0 => {
                return wrong(
                    "the data",
                    format!("{b} single bars and {s} series in {g} groups"),
                    "one kind of the two",
                );
            }
            _ => {}
        }
        let groups = self.groups.len().max(usize::from(!self.bars.is_empty()));
        for s in self.bars.iter().chain(&self.series) {
            let sides = s.interval.iter().flat_map(|(lo, hi)| [("lower ends", lo), ("upper ends", hi)]);
            for (what, values) in std::iter::once(("values", &s.values)).chain(sides) {
                if values.len() != groups {
                    let what = format!("{what} of series {:?}", s.name);
                    return Err(PlotError::length(
                        title,
                        what,
                        values.len(),
                        groups,
                        format!("there are {groups} groups"),
                    ));
                }
            }
            if let Some((lo, hi)) = &s.interval
                && let Some(i) = (0..groups).find(|i| lo[*i] > hi[*i])
            {
                let what = format!("interval {i} of {:?}", s.name);
                return Err(PlotError::value(title, what, format!("{}..{}", lo[i], hi[i]), "the lower end first"));
            }
        }
        if let Some((lo, hi)) = checked_range(title, "y range", self.range, false)?
            && (lo > 0.0 || hi < 0.0)
        {
            return wrong("y range", format!("{lo}..{hi}"), "a range with zero in it, since bars start there");
        }
        Ok(())
    }

    fn all(&self) -> impl Iterator<Item = &Series> + Clone {
        self.bars.iter().chain(&self.series)
    }

    /// The range of the value axis: from zero, with room for the numbers.
    fn values(&self) -> Result<(f64, f64), PlotError> {
        let shown = self.all().flat_map(|s| {
            let ends = s.interval.iter().flat_map(|(lo, hi)| lo.iter().chain(hi));
            s.values.iter().chain(ends).copied()
        });
        if !self.all().any(|s| s.values.iter().any(|v| v.is_finite())) {
            return Err(PlotError::empty(&self.captions.title, "every bar (no value is finite)"));
        }
        let (least, most) = extent(shown.chain([0.0])).unwrap_or_default();
        let (lo, hi) = Scale::Linear.fit([least, most], self.range);
        let room = if self.labels { 0.06 * (hi - lo) } else { 0.0 };
        Ok(match self.range {
            Some(range) => range,
            // No room beyond a zero that no bar crosses.
            None => {
                (if least < 0.0 { lo - room } else { 0.0 }, if most > 0.0 || least == 0.0 { hi + room } else { 0.0 })
            }
        })
    }

    /// Draws the bars `wide` slots wide; the slots, one for each name, are `1` wide.
    fn paint(&self, plot: &mut Plot, wide: f64, colours: &[RGBColor]) -> Result<(), PlotError> {
        let grouped = self.bars.is_empty();
        for (k, (s, colour)) in self.all().zip(colours).enumerate() {
            for (i, value) in s.values.iter().enumerate() {
                let x = match grouped {
                    true => i as f64 + 0.5 + (k as f64 - (self.series.len() - 1) as f64 / 2.0) * wide,
                    false => k as f64 + 0.5,
                };
                if !value.is_finite() {
                    let style = font(SMALL, FAINT, HPos::Center, VPos::Center);
                    let label = EmptyElement::at((x, 0.0)) + Text::new("n/a", (0, units(-9.0)), style);
                    plot.chart.draw_series([label])?;
                    continue;
                }
                let half = 0.47 * wide;
                plot.chart.draw_series([Rectangle::new([(x - half, 0.0), (x + half, *value)], colour.filled())])?;
                let ends = s.interval.as_ref().map(|(lo, hi)| (lo[i], hi[i]));
                let ends = ends.filter(|(lo, hi)| lo.is_finite() && hi.is_finite());
                if let Some((lo, hi)) = ends {
                    let cap = 0.1 * wide;
                    let strokes = [
                        vec![(x, lo), (x, hi)],
                        vec![(x - cap, lo), (x + cap, lo)],
                        vec![(x - cap, hi), (x + cap, hi)],
                    ];
                    // White below the ink keeps the interval visible on a black bar.
                    for (colour, width) in [(WHITE, 3.4), (INK, 1.4)] {
                        let path = |points: &Vec<_>| PathElement::new(points.clone(), stroke(colour, width));
                        plot.chart.draw_series(strokes.iter().map(path))?;
                    }
                }
                if self.labels {
                    let (lo, hi) = ends.unwrap_or((*value, *value));
                    let (y, away) = if *value < 0.0 { (lo.min(*value), 9.0) } else { (hi.max(*value), -9.0) };
                    let style = font(SMALL, INK, HPos::Center, VPos::Center);
                    let label = EmptyElement::at((x, y)) + Text::new(number(*value), (0, units(away)), style);
                    plot.chart.draw_series([label])?;
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
        self.check()?;
        let grouped = self.bars.is_empty();
        let names = if grouped { self.groups.clone() } else { self.bars.iter().map(|b| b.name.clone()).collect() };
        let (slots, beside) = (names.len() as f64, self.series.len().max(1) as f64);
        // Many bars make the figure wider: there is room for the number at each bar.
        let numbers = self.all().flat_map(|s| &s.values).map(|v| text::width(&number(*v), SMALL));
        let least = if self.labels { numbers.fold(14.0, f64::max) + 4.0 } else { 10.0 };
        let (w, h) = self.captions.size.unwrap_or((380.0, 260.0));
        let w = w.max(slots * (beside * least + 16.0));
        let wide =
            ((w / slots - (0.3 * w / slots).min(16.0)) / beside).min(if grouped { 60.0 } else { 72.0 }) * slots / w;

        let name = |(i, name): (usize, &String)| (i as f64 + 0.5, text::shorten(&text::plain(name), 40));
        let x = Axis::labelled((0.0, slots), names.iter().enumerate().map(name).collect(), true);
        let y = Axis::side(Scale::Linear, self.values()?, h, false);
        let styles = palette::styles(self.all().map(|s| s.name.as_str()));
        let series = self.series.iter().zip(&styles);
        let keys = series.map(|(s, style)| Key::new(&s.name, *style, Sample::Patch)).collect();
        let colours: Vec<RGBColor> = styles.iter().map(|style| style.colour).collect();
        let missing = self.all().flat_map(|s| &s.values).filter(|v| !v.is_finite()).count();
        let notes = match missing {
            0 => Vec::new(),
            n => vec![format!("{} not finite and left out", counted(n, "value"))],
        };
        let paint = Box::new(move |plot: &mut Plot| self.paint(plot, wide, &colours));
        let charts = vec![Chart { title: String::new(), x, y, paint }];
        Page { captions: &self.captions, notes, size: (w, h), columns: 1, charts, mesh: true, keys, colours: None }
            .draw()
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
        let error = Bars::new("").bar("a", 0.9).y_range(0.8, 1.0).svg().unwrap_err().to_string();
        assert!(error.contains("0.8..1"), "{error}");
        assert_eq!(Bars::new("").bar("a", 0.9).bar("b", 0.91).values().unwrap().0, 0.0);
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

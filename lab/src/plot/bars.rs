use super::canvas::{Anchor, INK, Set, Stroke};
use super::frame::{Frame, Key, Legend, SMALL, Side};
use super::scale::{Kind, Scale, number};
use super::{Drawing, Figure, Number, PlotError, checked_range, counted, numbers, palette, text};

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
    title: String,
    x_label: String,
    y_label: String,
    bars: Vec<Series>,
    groups: Vec<String>,
    series: Vec<Series>,
    range: Option<(f64, f64)>,
    labels: bool,
    area: (f64, f64),
    legend: Legend,
    notes: Vec<String>,
}

/// One value for each group (a bar that stands alone has one).
#[derive(Clone, Debug)]
struct Series {
    name: String,
    values: Vec<f64>,
    interval: Option<(Vec<f64>, Vec<f64>)>,
}

impl Bars {
    /// A figure without bars.
    pub fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            x_label: String::new(),
            y_label: String::new(),
            bars: Vec::new(),
            groups: Vec::new(),
            series: Vec::new(),
            range: None,
            labels: true,
            area: (380.0, 260.0),
            legend: Legend::Right,
            notes: Vec::new(),
        }
    }

    /// Label and unit of the horizontal axis (unit `""`: none).
    pub fn x(mut self, label: &str, unit: &str) -> Self {
        self.x_label = text::with_unit(label, unit);
        self
    }

    /// Label and unit of the values (unit `""`: none).
    pub fn y(mut self, label: &str, unit: &str) -> Self {
        self.y_label = text::with_unit(label, unit);
        self
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

    /// Puts the legend below the axis instead of at its right.
    pub fn legend_below(mut self) -> Self {
        self.legend = Legend::Below;
        self
    }

    /// Size of the data area in pixels; many bars make it wider.
    pub fn size(mut self, width: u32, height: u32) -> Self {
        self.area = (f64::from(width.max(60)), f64::from(height.max(40)));
        self
    }

    /// Adds a line of small print: what the interval is, how many seeds.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    fn check(&self) -> Result<(), PlotError> {
        let wrong = |what: &str, got: String, expected: &str| Err(PlotError::value(&self.title, what, got, expected));
        match (self.bars.len(), self.groups.len(), self.series.len()) {
            (0, 0, 0) => return Err(PlotError::empty(&self.title, "the list of bars")),
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
                        &self.title,
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
                return Err(PlotError::value(
                    &self.title,
                    what,
                    format!("{}..{}", lo[i], hi[i]),
                    "the lower end first",
                ));
            }
        }
        if let Some((lo, hi)) = checked_range(&self.title, "y range", self.range, false)?
            && (lo > 0.0 || hi < 0.0)
        {
            return wrong("y range", format!("{lo}..{hi}"), "a range with zero in it, since bars start there");
        }
        Ok(())
    }

    fn scale(&self) -> Result<Scale, PlotError> {
        let all = self.bars.iter().chain(&self.series);
        if !all.clone().any(|s| s.values.iter().any(|v| v.is_finite())) {
            return Err(PlotError::empty(&self.title, "every bar (no value is finite)"));
        }
        let values = all.flat_map(|s| {
            let ends = s.interval.iter().flat_map(|(lo, hi)| lo.iter().chain(hi));
            s.values.iter().chain(ends).copied()
        });
        let mut scale = Scale::fit(Kind::Linear, values.chain([0.0]), self.range);
        if self.range.is_none() {
            // Room for the numbers, but none beyond a zero that no bar crosses.
            let full = scale.hi - scale.lo;
            let room = if self.labels { 0.06 * full } else { 0.0 };
            let least = |s: &Series| s.values.iter().chain(s.interval.iter().flat_map(|(lo, _)| lo)).any(|v| *v < 0.0);
            let most = |s: &Series| s.values.iter().chain(s.interval.iter().flat_map(|(_, hi)| hi)).any(|v| *v > 0.0);
            let below = self.bars.iter().chain(&self.series).any(least);
            let above = self.bars.iter().chain(&self.series).any(most);
            scale.lo = if below { scale.lo - room } else { 0.0 };
            scale.hi = if above || !below { scale.hi + room } else { 0.0 };
        }
        Ok(scale)
    }
}

impl Figure for Bars {
    fn draw(&self) -> Result<Drawing, PlotError> {
        self.check()?;
        let scale = self.scale()?;
        let grouped = self.bars.is_empty();
        let series = if grouped { &self.series } else { &self.bars };
        let names: Vec<String> =
            if grouped { self.groups.clone() } else { self.bars.iter().map(|b| b.name.clone()).collect() };
        let names: Vec<String> = names.iter().map(|n| text::shorten(&text::plain(n), 40)).collect();
        let beside = if grouped { series.len() } else { 1 };
        let slots = names.len();
        // Room for the number above each bar.
        let widest =
            series.iter().flat_map(|s| &s.values).map(|v| text::width(&number(*v), SMALL)).fold(14.0, f64::max);
        let least = if self.labels { widest + 4.0 } else { 10.0 };
        let w = self.area.0.max(slots as f64 * (beside as f64 * least + 16.0));
        let h = self.area.1;
        let slot = w / slots as f64;
        let bar = ((slot - 16.0) / beside as f64).min(if grouped { 60.0 } else { 72.0 });

        let styles = palette::styles(series.iter().map(|s| s.name.as_str()));
        let middle = |i: usize| (i as f64 + 0.5) / slots as f64;
        let x = Side {
            label: self.x_label.clone(),
            turned: names.iter().any(|n| text::width(n, SMALL) > slot - 6.0),
            ticks: names.iter().enumerate().map(|(i, n)| (middle(i), n.clone())).collect(),
            ..Side::default()
        };
        let keys = |s: (usize, &Series)| Key {
            name: s.1.name.clone(),
            colour: styles[s.0].colour.into(),
            dash: "",
            marker: None,
            patch: true,
        };
        let missing = series.iter().flat_map(|s| &s.values).filter(|v| !v.is_finite()).count();
        let mut notes = self.notes.clone();
        if missing > 0 {
            notes.push(format!("{} not finite and left out", counted(missing, "value")));
        }
        let frame = Frame {
            title: &self.title,
            area: (w, h),
            x,
            y: Side::left(&scale, h, self.y_label.clone()),
            keys: if grouped { series.iter().enumerate().map(keys).collect() } else { Vec::new() },
            legend: self.legend,
            notes: &notes,
        };
        let (mut d, [left, top, ..]) = frame.open();
        let py = |v: f64| top + (1.0 - scale.at(v).clamp(0.0, 1.0)) * h;
        for (k, s) in series.iter().enumerate() {
            for (i, value) in s.values.iter().enumerate() {
                let place = if grouped { i } else { k };
                let offset = if grouped { k as f64 - (beside - 1) as f64 / 2.0 } else { 0.0 };
                let x = left + middle(place) * w + offset * bar;
                if !value.is_finite() {
                    d.text((x, py(0.0) - 9.0), "n/a", Set::new(SMALL, Anchor::Middle).faint());
                    continue;
                }
                let (upper, lower) = (py(value.max(0.0)), py(value.min(0.0)));
                let gap = (bar * 0.06).min(2.0);
                d.rect([x - bar / 2.0 + gap, upper, bar - 2.0 * gap, lower - upper], styles[k].colour);
                let (mut above, mut below) = (upper, lower);
                let ends = s.interval.as_ref().map(|(lo, hi)| (lo[i], hi[i]));
                if let Some((lo, hi)) = ends.filter(|(lo, hi)| lo.is_finite() && hi.is_finite()) {
                    let (a, b) = (py(hi), py(lo));
                    let cap = (bar * 0.2).min(6.0);
                    // White below the black keeps the interval visible on a black bar.
                    for (colour, width) in [("#ffffff", 3.4), (INK, 1.4)] {
                        d.line((x, a), (x, b), Stroke(colour, width, ""));
                        d.line((x - cap, a), (x + cap, a), Stroke(colour, width, ""));
                        d.line((x - cap, b), (x + cap, b), Stroke(colour, width, ""));
                    }
                    (above, below) = (above.min(a), below.max(b));
                }
                if self.labels {
                    let y = if *value < 0.0 { below + 9.0 } else { above - 9.0 };
                    d.text((x, y), &number(*value), Set::new(SMALL, Anchor::Middle));
                }
            }
        }
        d.line((left, py(0.0)), (left + w, py(0.0)), Stroke(INK, 1.0, ""));
        Ok(d)
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
        let scale = Bars::new("").bar("a", 0.9).bar("b", 0.91).scale().unwrap();
        assert_eq!(scale.lo, 0.0);
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

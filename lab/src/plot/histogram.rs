use super::canvas::Stroke;
use super::frame::{Frame, Key, Legend, Side, TITLE, draw_notes, headline, wrapped_notes};
use super::scale::{Kind, Scale};
use super::{Drawing, Figure, Number, PlotError, checked_range, counted, numbers, palette, text};

/// How values are distributed: the share of each series' values in each bin.
///
/// All series have the same bins. Without [`Histogram::bins`] their width follows Freedman and
/// Diaconis.
///
/// ```
/// use lab::plot::Histogram;
/// let figure = Histogram::new("Gate scores")
///     .x("sigmoid gate", "")
///     .data("layer 0", [0.1, 0.2, 0.2, 0.7])
///     .data("layer 1", [0.0, 0.1, 0.1, 0.1])
///     .range(0.0, 1.0)
///     .bins(10)
///     .small_multiples();
/// assert!(figure.svg().is_ok());
/// ```
#[derive(Clone, Debug)]
pub struct Histogram {
    title: String,
    x_label: String,
    data: Vec<(String, Vec<f64>)>,
    bins: Option<usize>,
    range: Option<(f64, f64)>,
    apart: bool,
    ordered: bool,
    area: Option<(f64, f64)>,
    legend: Legend,
    notes: Vec<String>,
}

impl Histogram {
    /// A figure without data.
    pub fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            x_label: String::new(),
            data: Vec::new(),
            bins: None,
            range: None,
            apart: false,
            ordered: false,
            area: None,
            legend: Legend::Right,
            notes: Vec::new(),
        }
    }

    /// Label and unit of the values (unit `""`: none).
    pub fn x(mut self, label: &str, unit: &str) -> Self {
        self.x_label = text::with_unit(label, unit);
        self
    }

    /// Adds a series of values.
    pub fn data(mut self, name: impl Into<String>, values: impl IntoIterator<Item = impl Number>) -> Self {
        self.data.push((name.into(), numbers(values)));
        self
    }

    /// The count of bins.
    pub fn bins(mut self, bins: usize) -> Self {
        self.bins = Some(bins);
        self
    }

    /// Bins from `lo` to `hi`; values outside are counted in a note.
    pub fn range(mut self, lo: f64, hi: f64) -> Self {
        self.range = Some((lo, hi));
        self
    }

    /// One axis for each series, one above the other, instead of all in one.
    pub fn small_multiples(mut self) -> Self {
        self.apart = true;
        self
    }

    /// Colours by the order of the series instead of by name (layers).
    pub fn ordered(mut self) -> Self {
        self.ordered = true;
        self
    }

    /// Puts the legend below the axis instead of at its right.
    pub fn legend_below(mut self) -> Self {
        self.legend = Legend::Below;
        self
    }

    /// Size of the data area (of each, with small multiples) in pixels.
    pub fn size(mut self, width: u32, height: u32) -> Self {
        self.area = Some((f64::from(width.max(60)), f64::from(height.max(30))));
        self
    }

    /// Adds a line of small print.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Range and count of the bins, and what there is to say about the data.
    fn binned(&self) -> Result<(f64, f64, usize, Vec<String>), PlotError> {
        if self.data.is_empty() {
            return Err(PlotError::empty(&self.title, "the list of data"));
        }
        let range = checked_range(&self.title, "range", self.range, false)?;
        if let Some(bins) = self.bins.filter(|b| !(1..=1000).contains(b)) {
            return Err(PlotError::value(&self.title, "the count of bins", bins, "1 to 1000"));
        }
        let mut notes = Vec::new();
        let mut all: Vec<f64> = Vec::new();
        for (name, values) in &self.data {
            let finite: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
            if finite.is_empty() {
                return Err(PlotError::empty(&self.title, format!("data {name:?}")));
            }
            if finite.len() < values.len() {
                let n = counted(values.len() - finite.len(), "value");
                notes.push(format!("{name}: {n} not finite and left out"));
            }
            if let Some((lo, hi)) = range {
                let inside = finite.iter().filter(|v| (lo..=hi).contains(*v)).count();
                if inside < finite.len() {
                    let n = counted(finite.len() - inside, "value");
                    notes.push(format!("{name}: {n} outside the range, and part of the 100 %"));
                }
            }
            all.extend(finite);
        }
        all.sort_by(f64::total_cmp);
        let (least, most) = (all[0], all[all.len() - 1]);
        let equal = most - least <= 1e-12 * most.abs().max(least.abs());
        let (lo, hi) = match range {
            Some(range) => range,
            None if equal => {
                let scale = Scale::fit(Kind::Linear, [least].into_iter(), None);
                (scale.lo, scale.hi)
            }
            None => (least, most),
        };
        let quantile = |q: f64| all[((all.len() - 1) as f64 * q).round() as usize];
        let wide = 2.0 * (quantile(0.75) - quantile(0.25)) / (all.len() as f64).cbrt();
        let auto = if equal {
            11 // odd: the value is in the middle of a bin
        } else if wide > 0.0 {
            ((hi - lo) / wide).ceil().clamp(8.0, 60.0) as usize
        } else {
            20
        };
        Ok((lo, hi, self.bins.unwrap_or(auto), notes))
    }
}

/// The share of all `values` in each bin, in percent.
fn shares(values: &[f64], lo: f64, hi: f64, bins: usize) -> Vec<f64> {
    let mut counts = vec![0usize; bins];
    let mut total = 0usize;
    for value in values.iter().filter(|v| v.is_finite()) {
        total += 1;
        if (lo..=hi).contains(value) {
            counts[(((value - lo) / (hi - lo) * bins as f64) as usize).min(bins - 1)] += 1;
        }
    }
    counts.iter().map(|c| 100.0 * *c as f64 / total.max(1) as f64).collect()
}

impl Figure for Histogram {
    fn draw(&self) -> Result<Drawing, PlotError> {
        let (lo, hi, bins, found) = self.binned()?;
        let notes: Vec<String> = self.notes.iter().cloned().chain(found).collect();
        let heights: Vec<Vec<f64>> = self.data.iter().map(|(_, v)| shares(v, lo, hi, bins)).collect();
        let most = heights.iter().flatten().copied().fold(0.0, f64::max);
        let x = Scale { kind: Kind::Linear, lo, hi, whole: false };
        let y = Scale { kind: Kind::Linear, lo: 0.0, hi: if most > 0.0 { most * 1.06 } else { 1.0 }, whole: false };
        let styles = if self.ordered {
            palette::in_order(self.data.len())
        } else {
            palette::styles(self.data.iter().map(|(name, _)| name.as_str()))
        };
        let colour = |i: usize| match self.ordered {
            true => palette::ramp(i, self.data.len()),
            false => styles[i].colour.to_string(),
        };
        let apart = self.apart && self.data.len() > 1;
        let (w, h) = self.area.unwrap_or(if apart { (420.0, 84.0) } else { (420.0, 260.0) });
        let steps = |d: &mut Drawing, i: usize, [left, top, w, h]: [f64; 4]| {
            let base = top + h;
            let mut points = vec![(left, base)];
            for (k, share) in heights[i].iter().enumerate() {
                let py = base - y.at(*share) * h;
                points.push((left + w * k as f64 / bins as f64, py));
                points.push((left + w * (k + 1) as f64 / bins as f64, py));
            }
            points.push((left + w, base));
            d.shape(&points, &colour(i), if apart || self.data.len() == 1 { 0.5 } else { 0.16 });
            let dash = if apart || self.data.len() == 1 { "" } else { styles[i].dash };
            d.path(&points, Stroke(&colour(i), 1.6, dash));
        };
        if !apart {
            let key = |(i, (name, _)): (usize, &(String, Vec<f64>))| Key {
                name: name.clone(),
                colour: colour(i),
                dash: if self.data.len() == 1 { "" } else { styles[i].dash },
                marker: None,
                patch: false,
            };
            let alone = self.data.len() == 1 && self.data[0].0.is_empty();
            let frame = Frame {
                title: &self.title,
                area: (w, h),
                x: Side::bottom(&x, w, self.x_label.clone()),
                y: Side::left(&y, h, "share of values (%)".into()),
                keys: if alone { Vec::new() } else { self.data.iter().enumerate().map(key).collect() },
                legend: self.legend,
                notes: &notes,
            };
            let (mut d, area) = frame.open();
            for i in 0..self.data.len() {
                steps(&mut d, i, area);
            }
            return Ok(d);
        }
        let mut parts = Vec::new();
        for (i, (name, _)) in self.data.iter().enumerate() {
            let last = i + 1 == self.data.len();
            let mut bottom = Side::bottom(&x, w, if last { self.x_label.clone() } else { String::new() });
            if !last {
                bottom.ticks.iter_mut().for_each(|tick| tick.1.clear());
            }
            let frame = Frame {
                title: "",
                area: (w, h),
                x: bottom,
                y: Side::left(&y, h, "share (%)".into()),
                keys: vec![Key { name: name.clone(), colour: colour(i), dash: "", marker: None, patch: true }],
                legend: Legend::Right,
                notes: &[],
            };
            let (mut d, area) = frame.open();
            steps(&mut d, i, area);
            parts.push((d, area));
        }
        let width = parts.iter().map(|(d, _)| d.width).fold(0.0, f64::max);
        let title = text::wrap(&self.title, TITLE * 1.13, width - 24.0);
        let small = wrapped_notes(&notes, width - 24.0);
        let top = title.len() as f64 * 19.0;
        let step = h + 26.0;
        let end = top + step * (parts.len() - 1) as f64 + parts.last().map_or(0.0, |(d, _)| d.height);
        let mut d = Drawing::new(width, end + small.len() as f64 * 15.0);
        headline(&mut d, &title, parts[0].1[0] + w / 2.0);
        for (i, (part, _)) in parts.iter().enumerate() {
            d.place((0.0, top + step * i as f64), part);
        }
        draw_notes(&mut d, &small);
        Ok(d)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_to_a_hundred_and_the_last_edge_belongs_to_the_last_bin() {
        let bins = shares(&[0.0, 0.1, 0.5, 1.0], 0.0, 1.0, 4);
        assert_eq!(bins, [50.0, 0.0, 25.0, 25.0]);
    }

    #[test]
    fn values_out_of_range_are_counted_in_a_note() {
        let svg = Histogram::new("").data("gate", [0.5, 2.0, 3.0]).range(0.0, 1.0).svg().unwrap();
        assert!(svg.contains("gate: 2 values are outside the range"));
    }

    #[test]
    fn equal_values_stand_in_the_middle() {
        let (lo, hi, bins, _) = Histogram::new("").data("a", [3.0; 5]).binned().unwrap();
        assert_eq!(shares(&[3.0; 5], lo, hi, bins).iter().position(|s| *s > 0.0), Some(bins / 2));
    }

    #[test]
    fn no_data_is_an_error_that_names_the_series() {
        let error = Histogram::new("").data("empty one", [f64::NAN]).svg().unwrap_err().to_string();
        assert!(error.contains("empty one"), "{error}");
        assert!(Histogram::new("").data("a", [1.0]).bins(0).svg().is_err());
    }
}

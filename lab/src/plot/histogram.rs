use super::axis::{Axis, Scale};
use super::captions::{Captions, captioned};
use super::ink::stroke;
use super::legend::{Key, Sample, line};
use super::number::{checked_range, counted, numbers};
use super::page::{Chart, Page, Plot};
use super::palette::{self, Style};
use super::series::Series;
use super::{Drawing, Figure, Number, PlotError};
use plotters::prelude::{AreaSeries, Color, Quartiles};

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
    captions: Captions,
    data: Vec<Series>,
    bins: Option<usize>,
    range: Option<(f64, f64)>,
    apart: bool,
    ordered: bool,
}

captioned!(Histogram: x size);

impl Histogram {
    /// A figure without data.
    pub fn new(title: impl Into<String>) -> Self {
        let captions = Captions { y: "share of values (%)".into(), ..Captions::new(title) };
        Self { captions, data: Vec::new(), bins: None, range: None, apart: false, ordered: false }
    }

    /// Adds a series of values.
    pub fn data(mut self, name: impl Into<String>, values: impl IntoIterator<Item = impl Number>) -> Self {
        self.data.push(Series { name: name.into(), values: numbers(values), interval: None });
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

    /// Range and count of the bins, and what there is to say about the data.
    fn binned(&self) -> Result<(f64, f64, usize, Vec<String>), PlotError> {
        let title = &self.captions.title;
        if self.data.is_empty() {
            return Err(PlotError::empty(title, "the list of data"));
        }
        let range = checked_range(title, "range", self.range, false)?;
        if let Some(bins) = self.bins.filter(|b| !(1..=1000).contains(b)) {
            return Err(PlotError::data(title, format!("the count of bins is {bins}"), "1 to 1000"));
        }
        let mut notes: Vec<String> = self.data.iter().filter_map(Series::missing).collect();
        let mut all: Vec<f64> = Vec::new();
        for s in &self.data {
            let finite = || s.values.iter().copied().filter(|v| v.is_finite());
            if finite().next().is_none() {
                return Err(PlotError::empty(title, format!("data {:?}", s.name)));
            }
            let outside = range.map_or(0, |(lo, hi)| finite().filter(|v| *v < lo || *v > hi).count());
            if outside > 0 {
                let n = counted(outside, "value");
                notes.push(format!("{}: {n} outside the range, and part of the 100 %", s.name));
            }
            all.extend(finite());
        }
        all.sort_by(f64::total_cmp);
        let (least, most) = (all[0], all[all.len() - 1]);
        let equal = most - least <= 1e-12 * most.abs().max(least.abs());
        let (lo, hi) = match range {
            Some(range) => range,
            None if equal => Scale::Linear.fit([least], None),
            None => (least, most),
        };
        let quartiles = Quartiles::new(&all).values();
        let wide = 2.0 * f64::from(quartiles[3] - quartiles[1]) / (all.len() as f64).cbrt();
        let auto = match wide > 0.0 {
            _ if equal => 11, // odd: the value is in the middle of a bin
            true => ((hi - lo) / wide).ceil().clamp(8.0, 60.0) as usize,
            false => 20,
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

/// The outline of bins of the given heights.
fn steps(heights: &[f64], lo: f64, hi: f64) -> Vec<(f64, f64)> {
    let edge = |k: usize| lo + (hi - lo) * k as f64 / heights.len() as f64;
    let tops = heights.iter().enumerate().flat_map(|(k, share)| [(edge(k), *share), (edge(k + 1), *share)]);
    std::iter::once((lo, 0.0)).chain(tops).chain([(hi, 0.0)]).collect()
}

impl Figure for Histogram {
    fn draw(&self) -> Result<Drawing, PlotError> {
        let (lo, hi, bins, notes) = self.binned()?;
        let heights: Vec<Vec<f64>> = self.data.iter().map(|s| shares(&s.values, lo, hi, bins)).collect();
        let most = heights.iter().flatten().copied().fold(0.0, f64::max);
        let alone = self.data.len() == 1;
        let apart = self.apart && !alone;
        let mut styles = palette::styles(self.data.iter().map(|s| s.name.as_str()), self.ordered);
        if apart || alone {
            styles.iter_mut().for_each(|style| style.dash = None);
        }
        let size = self.captions.size.unwrap_or((420.0, if apart { 84.0 } else { 260.0 }));
        let x = Axis::bottom(Scale::Linear, (lo, hi), size.0, false);
        let y = Axis::side(Scale::Linear, (0.0, if most > 0.0 { most * 1.06 } else { 1.0 }), size.1, false);
        let opacity = if apart || alone { 0.5 } else { 0.16 };
        let outline = |plot: &mut Plot, heights: &[f64], style: &Style| {
            let points = steps(heights, lo, hi);
            plot.chart.draw_series(AreaSeries::new(points.clone(), 0.0, style.colour.mix(opacity)))?;
            plot.chart.draw_series([line(points, stroke(style.colour, 1.6), style.dash)])?;
            Ok(())
        };
        // Small multiples have one chart for each series, named by its title.
        let parts = if apart { 1 } else { self.data.len() };
        let series: Vec<_> = heights.iter().zip(&styles).collect();
        let charts = series.chunks(parts).enumerate().map(|(i, part)| Chart {
            title: if apart { self.data[i].name.clone() } else { String::new() },
            x: x.clone(),
            y: y.clone(),
            paint: Box::new(move |plot| part.iter().try_for_each(|(heights, style)| outline(plot, heights, style))),
        });
        let charts = charts.collect();
        let named = !(apart || alone && self.data[0].name.is_empty());
        let keys = self.data.iter().zip(&styles).filter(|_| named);
        let keys = keys.map(|(s, style)| Key::new(&s.name, *style, Sample::Line)).collect();
        Page { notes, keys, charts, ..Page::new(&self.captions, size) }.draw()
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

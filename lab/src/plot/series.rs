//! Named values with an optional interval around each: a curve with its band, bars with error bars.

use super::PlotError;
use super::number::counted;

#[derive(Clone, Debug)]
pub(super) struct Series {
    pub name: String,
    pub values: Vec<f64>,
    /// Lower and upper ends.
    pub interval: Option<(Vec<f64>, Vec<f64>)>,
}

impl Series {
    /// Fails unless there are `n` values, and as many ends of intervals, the lower ones first.
    pub fn check(&self, figure: &str, n: usize, because: &str) -> Result<(), PlotError> {
        let ends = self.interval.iter().flat_map(|(lo, hi)| [("lower ends", lo), ("upper ends", hi)]);
        for (what, values) in [("values", &self.values)].into_iter().chain(ends) {
            if values.len() != n {
                let what = format!("the list of {what} of {:?} has length {}", self.name, values.len());
                return Err(PlotError::data(figure, what, format!("{n} ({because})")));
            }
        }
        match (0..n).filter_map(|i| Some((i, self.ends(i)?))).find(|(_, (lo, hi))| lo > hi) {
            Some((i, (lo, hi))) => {
                let what = format!("interval {i} of {:?} is {lo}..{hi}", self.name);
                Err(PlotError::data(figure, what, "the lower end first"))
            }
            None => Ok(()),
        }
    }

    /// The interval of value `i`, if both ends are finite.
    pub fn ends(&self, i: usize) -> Option<(f64, f64)> {
        let (lo, hi) = self.interval.as_ref()?;
        (lo[i].is_finite() && hi[i].is_finite()).then_some((lo[i], hi[i]))
    }

    /// Everything that must fit on an axis.
    pub fn all(&self) -> impl Iterator<Item = f64> + Clone {
        let ends = self.interval.iter().flat_map(|(lo, hi)| lo.iter().chain(hi));
        self.values.iter().chain(ends).copied()
    }

    /// A note about the values that are not finite, if there are any.
    pub fn missing(&self) -> Option<String> {
        let n = self.values.iter().filter(|v| !v.is_finite()).count();
        (n > 0).then(|| format!("{}: {} not finite and left out", self.name, counted(n, "value")))
    }
}

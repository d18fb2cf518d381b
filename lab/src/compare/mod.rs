//! Several variants at equal parameters on equal data, and how sure the difference is.

mod config;
mod statistics;
mod summary;
#[cfg(test)]
mod tests;

pub use config::{CompareConfig, Variant};
pub use statistics::{Interval, t_quantile};
pub use summary::{Comparison, Curve, Summary, VariantRun};

use crate::{LabError, Trainer};
use burn::tensor::Device;

/// Trains every variant with every seed, one after the other: equal parameters (to within 1 %),
/// equal data in the same order. Ends early, with what is finished, at the stop button.
///
/// # Errors
/// Whatever is wrong with the configuration or the data; [`LabError::NotFinite`] with the run's name
/// (`VARIANT-seedN`).
pub fn compare(config: &CompareConfig, device: &Device) -> Result<Comparison, LabError> {
    let dataset = config.base.data.open()?;
    let mut runs = Vec::new();
    for seed in &config.seeds {
        for variant in config.matched()? {
            let train = config.run(&variant, *seed);
            let model = train.model.init(train.seed, device)?;
            let run = Trainer::new(train, model, dataset.clone())?.run()?;
            if run.interrupted {
                return Ok(Comparison { runs, interrupted: true });
            }
            runs.push(VariantRun::of(&variant.name, &run).with_model(run.model));
        }
    }
    Comparison::from_runs(runs)
}

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
use burn::module::Module;
use burn::tensor::Device;

/// Trains every variant with every seed, one after the other: equal parameters (to within 1 %),
/// equal data in the same order. A run that diverges is kept as such, and the others go on. Ends early,
/// with what is finished, at the stop button.
///
/// # Errors
/// Whatever is wrong with the configuration or the data.
pub fn compare(config: &CompareConfig, device: &Device) -> Result<Comparison, LabError> {
    let dataset = config.base.data.open()?;
    let mut runs = Vec::new();
    for seed in &config.seeds {
        for variant in config.matched()? {
            let train = config.run(&variant, *seed);
            let model = train.model.init(train.seed, device)?;
            let mut trainer = Trainer::new(train, model, dataset.clone())?;
            runs.push(match trainer.run() {
                Ok(run) if run.interrupted => return Ok(Comparison { runs, interrupted: true }),
                Ok(run) => VariantRun::of(&variant.name, &run),
                Err(error @ LabError::NotFinite { .. }) => VariantRun {
                    variant: variant.name,
                    seed: *seed,
                    parameters: trainer.model().num_params(),
                    history: trainer.history().clone(),
                    model: None,
                    diverged: Some(error.to_string()),
                },
                Err(error) => return Err(error),
            });
        }
    }
    Comparison::from_runs(runs)
}

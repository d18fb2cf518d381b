//! Which of several kernels that compute the same is the fastest on a device: tried once for every size, by CubeCL's tuner.

use super::kernel::Kernel;
use burn_cubecl::{CubeDevice, CubeTuneId};
use cubecl::prelude::*;
use cubecl::server::Handle;
use cubecl::tune::{LocalTuner, Tunable, TunableSet, local_tuner};
use std::sync::Arc;

/// As many kernels as a step may choose from.
const MOST: usize = 4;

/// Kernels with the memory that they run on, and how many bytes a number has there.
#[derive(Clone)]
struct Trial {
    client: Client,
    kernels: Arc<[Kernel]>,
    memory: Arc<[(Handle, usize)]>,
}

/// Launches the fastest of `kernels`; where there is one, that one.
///
/// # Panics
/// When memory is too small, or there are more than [`MOST`].
pub fn launch_fastest(client: &Client, device: &CubeDevice, kernels: &[Kernel], memory: Vec<(Handle, usize)>) {
    let trial = Trial { client: client.clone(), kernels: kernels.into(), memory: memory.into() };
    assert!(kernels.len() <= MOST, "{} kernels to choose from", kernels.len());
    if kernels.len() == 1 {
        return trial.launch(0).unwrap_or_else(|error| panic!("{error}"));
    }
    static TUNER: LocalTuner<String, CubeTuneId> = local_tuner!();
    let id = CubeTuneId::new(client, device);
    let set = TUNER.init(&id, || {
        // Every kernel writes all of its outputs, so that the memory of the call serves for trials.
        let set = TunableSet::new(|trial: &Trial| trial.key(), |_: &String, trial: &Trial| trial.clone());
        (0..MOST)
            .fold(set, |set, i| set.with(Tunable::new(&format!("candidate {i}"), move |trial: Trial| trial.launch(i))))
    });
    TUNER.execute(&id, client, set, trial);
}

impl Trial {
    /// The candidates and, to the next power of two, the first one's cubes: what was fast for one size is taken to be
    /// for the like. All of the names, because a choice is kept, and the next build may have other candidates.
    fn key(&self) -> String {
        let names: Vec<&str> = self.kernels.iter().map(|kernel| &*kernel.name).collect();
        format!("{} on {:?}", names.join(", "), self.kernels[0].cubes.map(u32::next_power_of_two))
    }

    fn launch(&self, candidate: usize) -> Result<(), String> {
        let kernel = self.kernels.get(candidate).ok_or("there are fewer candidates")?;
        let buffers = kernel.buffers.iter().zip(&*self.memory).map(|(visits, (handle, bytes))| {
            let (has, needs) = (handle.size_in_used(), (visits.count * bytes) as u64);
            assert!(has >= needs, "{}: `{}` lies in {has} bytes of {needs}", kernel.name, visits.name);
            // Views reach further than they have numbers.
            let vectors = if visits.count == 0 { 0 } else { has as usize / bytes / visits.vector };
            // SAFETY: the buffer holds that many.
            unsafe { BufferArg::from_raw_parts(handle.clone(), vectors) }
        });
        let [x, y, z] = kernel.cubes;
        (kernel.launch)(&self.client, CubeCount::Static(x, y, z), kernel.units, buffers.collect());
        Ok(())
    }
}

//! Which CUDA kernels may run: those that were seen to be right on such a GPU, or all of them where the user says so.

use crate::operator::without_tape;
use crate::trace::Because;
use burn::tensor::DType;
use burn_backend::TensorMetadata;
use burn_dispatch::DispatchTensorKind;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::Client;

/// The variable that switches the kernels on and off.
pub const VARIABLE: &str = "ATTENTION_CUDA_KERNELS";

/// What [`VARIABLE`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// Not set: an operator's kernels run where `cuda-selftest.md` records that they passed `selftest` on such a GPU.
    Recorded,
    /// `1`: they run on every GPU.
    On,
    /// `0`: on none.
    Off,
}

impl Setting {
    /// # Errors
    /// A value that is none, with the valid ones.
    pub fn parse(value: Option<&str>) -> Result<Self, String> {
        match value.map(str::trim) {
            None | Some("") => Ok(Self::Recorded),
            Some("1") => Ok(Self::On),
            Some("0") => Ok(Self::Off),
            Some(other) => Err(format!(
                "{VARIABLE}={other} is no setting; valid: 1 (CUDA kernels of our own run), 0 (they do not), or not set \
                 (those run that passed `selftest` on such a GPU)"
            )),
        }
    }

    /// # Errors
    /// As [`Setting::parse`].
    pub fn of_environment() -> Result<Self, String> {
        static SETTING: std::sync::OnceLock<Result<Setting, String>> = std::sync::OnceLock::new();
        SETTING.get_or_init(|| Self::parse(std::env::var(VARIABLE).ok().as_deref())).clone()
    }

    /// Whether kernels that `passed` or did not may run.
    ///
    /// # Errors
    /// Why not.
    pub fn permits(self, passed: bool) -> Result<(), Because> {
        match self {
            Self::On => Ok(()),
            Self::Off => Err(Because::SwitchedOff),
            Self::Recorded if passed => Ok(()),
            Self::Recorded => Err(Because::NeverTried),
        }
    }
}

/// What a GPU is to these kernels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    pub name: String,
    /// What code is compiled for: `ptx_sm90`.
    pub target: String,
    /// Whether it multiplies 16 × 8 × 16 in bf16 and copies asynchronously.
    pub tensor_cores: bool,
    /// Bytes of shared memory that a block may have.
    pub shared: usize,
}

impl Card {
    pub fn of(client: &Client) -> Self {
        let properties = client.properties();
        let bf16 = ElemType::Float(FloatKind::BF16);
        let sixteen = |m: &cubecl::ir::features::MmaConfig| (m.a_type, m.m, m.n, m.k) == (bf16, 16, 8, 16);
        Self {
            name: properties.identity.name.clone(),
            target: properties.identity.fingerprint.clone(),
            tensor_cores: properties.features.matmul.mma.iter().any(sixteen) && properties.features.copy_async,
            shared: properties.hardware.max_shared_memory_size,
        }
    }

    /// What the emulator is: any card of compute capability 8.0.
    pub fn emulated() -> Self {
        let shared = super::source::SHARED_LIMIT;
        Self { name: "emulator".into(), target: "c++".into(), tensor_cores: true, shared }
    }
}

/// One call of an operator, as its kernels see it.
pub struct Asked {
    pub card: Card,
    pub dtype: DType,
    /// Whether a gradient may be asked for.
    pub tracked: bool,
}

impl Asked {
    /// That products on tensor cores lose nothing that the inputs have, and that the card has them.
    ///
    /// # Errors
    /// What is missing.
    pub fn on_tensor_cores(&self, shared: usize) -> Result<(), Because> {
        match self.dtype {
            DType::BF16 => {}
            DType::F32 => return Err(Because::NoKernel("f32: products on tensor cores would round it to 16 bits")),
            _ => return Err(Because::NoKernel("this dtype; there is one for bf16")),
        }
        if !self.card.tensor_cores {
            return Err(Because::NoKernel("this GPU: no products of 16 × 8 × 16 in bf16 (compute capability 8.0)"));
        }
        if shared > self.card.shared {
            return Err(Because::NoKernel("heads this wide on this GPU: its blocks have too little shared memory"));
        }
        Ok(())
    }

    /// That the dtype is one that kernels without tensor cores are compiled for: they compute in f32.
    ///
    /// # Errors
    /// Another dtype.
    pub fn in_f32(&self) -> Result<(), Because> {
        match self.dtype {
            DType::F32 | DType::BF16 => Ok(()),
            _ => Err(Because::NoKernel("this dtype; there are some for f32 and bf16")),
        }
    }

    /// That the dtype is f32, where no other is worked on: by an optimiser.
    ///
    /// # Errors
    /// Another dtype.
    pub fn of_f32(&self) -> Result<(), Because> {
        match self.dtype {
            DType::F32 => Ok(()),
            _ => Err(Because::NoKernel("this dtype; there is one for f32")),
        }
    }
}

/// Whether the `kernels` that an operator may have for a call run where its inputs lie.
pub(crate) fn permitted(
    operator: &'static str,
    kind: &DispatchTensorKind,
    dtype: DType,
    tracked: bool,
    kernels: impl FnOnce(&Asked) -> Result<(), Because>,
) -> Result<(), Because> {
    let DispatchTensorKind::Cube(tensor) = without_tape(kind) else {
        return kernels(&Asked { card: Card::emulated(), dtype, tracked });
    };
    let device = tensor.device();
    if !matches!(device, burn_backend::cubecl::Device::Cuda(_)) {
        return Err(Because::NoKernel("this device"));
    }
    let card = Card::of(&device.client());
    let passed = passed(operator, &card.target);
    kernels(&Asked { card, dtype, tracked })?;
    // A value that says nothing must not be taken for one that does.
    let setting = Setting::of_environment().unwrap_or_else(|error| panic!("{error}"));
    setting.permits(passed)
}

/// A pass of `selftest` that is on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    pub operator: String,
    pub target: String,
    pub card: String,
    /// Of the kernels that passed: others have not.
    pub kernels: String,
}

/// What `cuda-selftest.md` records.
pub fn record() -> Vec<Passed> {
    rows(include_str!("../../cuda-selftest.md"))
}

pub fn passed(operator: &str, target: &str) -> bool {
    static RECORD: std::sync::LazyLock<Vec<Passed>> = std::sync::LazyLock::new(record);
    RECORD.iter().any(|row| row.operator == operator && row.target == target)
}

/// # Panics
/// When a row has other cells.
fn rows(text: &str) -> Vec<Passed> {
    let row = |line: &str| {
        let cells: Vec<String> = line.trim().trim_matches('|').split('|').map(|c| c.trim().replace('`', "")).collect();
        let [operator, target, card, kernels] = <[String; 4]>::try_from(cells)
            .unwrap_or_else(|cells| panic!("a row of cuda-selftest.md has {} cells and not 4: {line}", cells.len()));
        Passed { operator, target, card, kernels }
    };
    text.lines().filter(|line| line.starts_with("| `")).map(row).collect()
}

impl Passed {
    /// As a row of `cuda-selftest.md`.
    pub fn row(&self) -> String {
        let Self { operator, target, card, kernels } = self;
        format!("| `{operator}` | `{target}` | {card} | `{kernels}` |")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_run_where_they_passed_or_where_the_user_says_so_and_nowhere_else() {
        let setting = |value| Setting::parse(value).unwrap();
        assert_eq!(setting(None).permits(false), Err(Because::NeverTried));
        assert_eq!(setting(Some("")).permits(true), Ok(()));
        assert_eq!(setting(Some("1")).permits(false), Ok(()));
        assert_eq!(setting(Some(" 0 ")).permits(true), Err(Because::SwitchedOff));
    }

    #[test]
    fn a_setting_that_is_none_is_answered_with_the_valid_ones() {
        for value in ["yes", "2", "true"] {
            let error = Setting::parse(Some(value)).unwrap_err();
            assert!(error.contains(value) && error.contains("valid: 1 ("), "{error}");
        }
    }

    #[test]
    fn a_pass_is_written_as_it_is_read() {
        let pass = Passed {
            operator: "short_conv".into(),
            target: "ptx_sm90".into(),
            card: "NVIDIA H200".into(),
            kernels: "0123".into(),
        };
        let text = format!("# Title\n\n| operator | b |\n|---|---|\n{}\n", pass.row());
        assert_eq!(rows(&text), [pass]);
    }

    #[test]
    fn tensor_cores_are_for_bf16_and_say_why_f32_is_refused() {
        let asked = |dtype, card| Asked { card, dtype, tracked: true };
        let card = Card::emulated();
        assert_eq!(asked(DType::BF16, card.clone()).on_tensor_cores(1), Ok(()));
        let because = asked(DType::F32, card.clone()).on_tensor_cores(1).unwrap_err();
        assert!(because.to_string().contains("round"), "{because}");
        assert!(asked(DType::F64, card.clone()).on_tensor_cores(1).is_err());
        assert!(asked(DType::BF16, card.clone()).on_tensor_cores(card.shared + 1).is_err());
        let old = Card { tensor_cores: false, ..card };
        assert!(asked(DType::BF16, old.clone()).on_tensor_cores(1).is_err());
        assert_eq!(asked(DType::F32, old.clone()).in_f32(), Ok(()));
        assert!(asked(DType::F64, old).in_f32().is_err());
    }
}

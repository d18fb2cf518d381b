//! The variants by name: what each is, where it is defined, and whose it is.

/// One variant of the zoo; [`preset`](crate::preset) makes a model of it.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Its name for `preset` and on the command line.
    pub preset: &'static str,
    pub idea: &'static str,
    /// Its definition, below `zoo/src/`.
    pub file: &'static str,
    pub source: &'static str,
    /// Checkpoints of others that load into it ([`pretrained`](crate::pretrained)).
    pub checkpoints: &'static str,
}

const fn entry(
    preset: &'static str,
    idea: &'static str,
    file: &'static str,
    source: &'static str,
    checkpoints: &'static str,
) -> Entry {
    Entry { preset, idea, file, source, checkpoints }
}

/// In the order in which they are told.
#[rustfmt::skip]
pub const CATALOGUE: &[Entry] = &[
    entry("baseline", "softmax attention: MHA, GQA, MQA, QK-norm; RoPE, ALiBi or none; window, soft cap, sinks",
        "mixers/softmax.rs", "Vaswani et al. 2017", "Llama, Qwen3"),
    entry("gated", "a sigmoid gate on every channel of the heads' outputs (G1)",
        "mixers/gated.rs", "Qiu et al. 2025, arXiv 2505.06708", "gated Qwen3"),
    entry("gated-headwise", "the same with one gate a head",
        "mixers/gated.rs", "Qiu et al. 2025, arXiv 2505.06708", "gated Qwen3"),
    entry("differential", "the difference of two softmax patterns",
        "mixers/differential.rs", "Ye et al. 2024, arXiv 2410.05258", "DiffLlama"),
    entry("differential-v2", "the difference of two heads' outputs, λ by token",
        "mixers/differential.rs", "Microsoft 2026", "–"),
    entry("gated-delta", "Gated DeltaNet: a state that decays, is read and corrected",
        "mixers/gated_delta.rs", "Yang et al. 2024, arXiv 2412.06464", "–"),
    entry("hybrid", "three Gated DeltaNet to one gated attention",
        "presets.rs", "Qwen3-Next 2025", "–"),
];

/// The names of the catalogue.
pub const VARIANTS: [&str; CATALOGUE.len()] = {
    let mut names = [""; CATALOGUE.len()];
    let mut i = 0;
    while i < names.len() {
        names[i] = CATALOGUE[i].preset;
        i += 1;
    }
    names
};

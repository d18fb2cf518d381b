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
        "mixers/softmax.rs", "Vaswani et al. 2017", "Llama, Qwen3; the attention of gpt-oss"),
    entry("gated", "a sigmoid gate on every channel of the heads' outputs (G1; by config any form in the paper's tables)",
        "mixers/gated.rs", "Qiu et al. 2025, arXiv 2505.06708", "gated Qwen3"),
    entry("gated-headwise", "the same with one gate a head",
        "mixers/gated.rs", "Qiu et al. 2025, arXiv 2505.06708", "gated Qwen3"),
    entry("differential", "the difference of two softmax patterns",
        "mixers/differential.rs", "Ye et al. 2024, arXiv 2410.05258", "DiffLlama; layers of unilm"),
    entry("differential-v2", "the difference of two heads' outputs, λ by token",
        "mixers/differential.rs", "Microsoft 2026", "–"),
    entry("forgetting", "softmax attention whose scores fade by a learned gate per token",
        "mixers/forgetting.rs", "Lin et al. 2025, arXiv 2503.02130", "–"),
    entry("talking-heads", "heads mixed before and after the softmax",
        "mixers/multi_token.rs", "Shazeer et al. 2020, arXiv 2003.02436", "–"),
    entry("multi-token", "convolutions over the map of queries and keys, heads mixed",
        "mixers/multi_token.rs", "Golovneva et al. 2025, arXiv 2504.00927", "–"),
    entry("nexus", "queries and keys that are themselves attention's outputs (reconstructed: no public code)",
        "mixers/nexus.rs", "arXiv 2512.03377", "–"),
    entry("latent", "MLA: keys and values from one small latent a token",
        "mixers/latent.rs", "DeepSeek-V2 2024, arXiv 2405.04434", "–"),
    entry("moba", "each query chooses blocks of keys by their mean",
        "mixers/moba.rs", "Lu et al. 2025, arXiv 2502.13189", "–"),
    entry("nsa", "compressed, selected and window branches, gated",
        "mixers/nsa.rs", "Yuan et al. 2025, arXiv 2502.11089", "–"),
    entry("linear-attention", "a sum of outer products, normalised",
        "mixers/linear/linear_attention.rs", "Katharopoulos et al. 2020, arXiv 2006.16236", "–"),
    entry("retnet", "the sum with a fixed decay per head",
        "mixers/linear/ret_net.rs", "Sun et al. 2023, arXiv 2307.08621", "–"),
    entry("lightning", "the same, decays by head and depth",
        "mixers/linear/lightning.rs", "Qin et al. 2024, arXiv 2401.04658", "–"),
    entry("gla", "a learned decay per key channel",
        "mixers/linear/gla.rs", "Yang et al. 2023, arXiv 2312.06635", "–"),
    entry("mamba2", "SSD: a learned decay per head, keys and queries shared by the heads",
        "mixers/linear/mamba2.rs", "Dao and Gu 2024, arXiv 2405.21060", "–"),
    entry("deltanet", "the state is corrected instead of added to",
        "mixers/linear/delta_net.rs", "Yang et al. 2024, arXiv 2406.06484", "–"),
    entry("gated-delta", "Gated DeltaNet: a state that decays, is read and corrected",
        "mixers/linear/gated_delta.rs", "Yang et al. 2024, arXiv 2412.06464", "flash-linear-attention"),
    entry("kda", "Kimi delta attention: the same with a decay per key channel",
        "mixers/linear/kda.rs", "Kimi Linear 2025, arXiv 2510.26692", "flash-linear-attention"),
    entry("gated-delta-2", "erase and write gates apart, per channel",
        "mixers/linear/gated_delta2.rs", "flash-linear-attention 2026", "–"),
    entry("hybrid", "three Gated DeltaNet to one gated attention",
        "presets.rs", "Qwen3-Next 2025", "–"),
    entry("qwen3-next", "the same in full: zero-centred norms, partial RoPE, experts and a shared one, multi-token prediction",
        "experts.rs", "Qwen3-Next 2025", "Qwen3-Next"),
    entry("looped", "one block run over and over; injection of the input and adaptive halting as options",
        "looped.rs", "Dehghani et al. 2018, arXiv 1807.03819", "–"),
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

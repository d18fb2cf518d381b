//! Llama 2 and 3.

use super::{Family, LLAMAS, as_they_are, attention, attention_fields, attention_places, is_plain, model, nothing};
use crate::MixerConfig;
use crate::pretrained::layout::Place;

pub(super) const LLAMA: Family = Family {
    model_type: "llama",
    class: "Llama",
    stack: LLAMAS,
    read: |fields| {
        fields.off(&["attention_bias", "mlp_bias"]);
        let softmax = attention(fields, 1e-6, None, 1.0);
        model(fields, 1e-6, vec![MixerConfig::Softmax(softmax?)])
    },
    computes: |config| is_plain(config) && matches!(&config.pattern[0], MixerConfig::Softmax(s) if !s.qk_norm),
    write: |config| match &config.pattern[0] {
        MixerConfig::Softmax(softmax) => attention_fields(config, softmax, false),
        _ => unreachable!("`computes` has looked"),
    },
    mixer: |mixer, _| match mixer {
        MixerConfig::Softmax(softmax) => {
            let q = Place::same("self_attn.q_proj.weight", "mixer.q_proj.weight");
            [vec![q], attention_places(softmax, "mixer")].concat()
        }
        _ => unreachable!("made by `read` or seen by `computes`"),
    },
    implied: nothing,
    fold: as_they_are,
};

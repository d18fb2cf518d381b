//! One mechanism to observe and to patch what happens inside a model.
//!
//! A mixer calls `let q = tap.at("q", q);`. An observer copies the tensor out, a patcher returns
//! another one, [`Silent`] is free. Names are dotted paths that stay the same in `forward` and in
//! `step`: a decoder prefixes what its parts call, so that a mixer's `pattern` in block 3 is
//! `blocks.3.mixer.pattern`.

use burn::tensor::Tensor;
use std::collections::BTreeMap;
use std::ops::Range;

/// Every name that the built-in models offer, with the shape of what is there.
pub const NAMES: &[(&str, &str)] = &[
    ("embedding", "[batch, time, d_model]: the residual stream before the first block"),
    (
        "blocks.N.mixer.q",
        "[batch, heads, time, head_dim]: queries, after QK-norm and rotation; two heads for one where patterns are \
         subtracted, one for all in Mamba-2",
    ),
    (
        "blocks.N.mixer.k",
        "[batch, kv_heads, time, head_dim]: keys of the tokens given in this call (of all so far where a latent is cached); \
         heads as the queries have them in DIFF V1 and linear mixers",
    ),
    ("blocks.N.mixer.v", "[batch, kv_heads, time, value_dim]: values of the same tokens"),
    ("blocks.N.mixer.pattern", "[batch, heads, time, source]: the weight of every value in the output"),
    ("blocks.N.mixer.pattern_positive", "[batch, heads, time, source]: first softmax of differential attention"),
    ("blocks.N.mixer.pattern_negative", "[batch, heads, time, source]: second softmax of differential attention"),
    (
        "blocks.N.mixer.inner_pattern",
        "[batch, heads, time, source]: Nexus, the loop that feeds the last queries and keys",
    ),
    (
        "blocks.N.mixer.inner_pattern_q",
        "[batch, heads, time, source]: Nexus, the loop that feeds the last queries alone",
    ),
    ("blocks.N.mixer.inner_pattern_k", "[batch, heads or kv_heads, time, source]: Nexus, that of the last keys alone"),
    ("blocks.N.mixer.latent", "[batch, time, rank]: latent attention, what keys and values are made from"),
    (
        "blocks.N.mixer.blocks",
        "[batch, heads (MoBA) or kv_heads (NSA), time, complete blocks]: ones at chosen earlier blocks",
    ),
    ("blocks.N.mixer.branches", "[batch, time, heads, 3]: NSA's gates of the compressed, selected and window branch"),
    (
        "blocks.N.mixer.gate",
        "[batch, time, heads, head_dim or 1]: gate, after its activation; kv_heads on keys and values, one head of \
         d_model channels on the mixer's output, one head where heads share it, [1, 1, heads, head_dim] where no token \
         changes it",
    ),
    ("blocks.N.mixer.forget", "[batch, heads, time]: forgetting attention's gate, in (0, 1)"),
    ("blocks.N.mixer.lambda", "[1] (DIFF V1) or [batch, time, heads] (V2): weight of the second softmax"),
    ("blocks.N.mixer.beta", "[batch, heads, time]: write strength of the delta rule"),
    (
        "blocks.N.mixer.decay",
        "[batch, heads, time], or with key_dim: how much of the state survives the step, in (0, 1]",
    ),
    ("blocks.N.mixer.dt", "[batch, heads, time]: step size of Mamba-2"),
    ("blocks.N.mixer.erase", "[batch, heads, time, key_dim]: how much of what a key holds is erased (GDN-2)"),
    ("blocks.N.mixer.write", "[batch, heads, time, value_dim]: how much of a value is written (GDN-2)"),
    ("blocks.N.mixer.state", "[batch, heads, key_dim, value_dim]: state after the last token"),
    ("blocks.N.mixer.out", "[batch, time, d_model]: what the mixer adds to the residual stream"),
    ("blocks.N.feed_forward.router", "[batch, time, experts]: every expert's share, before the choice"),
    (
        "blocks.N.out",
        "[batch, time, d_model]: the residual stream after the block; looped blocks count as often as they run",
    ),
    ("halting", "[batch, time, loops]: weight of every loop's state, in looped models that halt"),
    ("ponder", "[batch, time]: loops run by the token, and its last weight"),
    ("mtp.X", "what a block offers as `blocks.N.X`, for the block that predicts the token after the next"),
    ("logits", "[batch, time, vocab_size]"),
    ("hops.N.pattern", "[batch, memory]: weights of a memory network's sentences, the newest first"),
    ("hops.N.out", "[batch, d_model]: the query of a memory network after the hop"),
];

/// A tensor of any rank: its values in one row, and its shape.
#[derive(Clone, Debug)]
pub struct Value {
    flat: Tensor<1>,
    shape: Vec<usize>,
}

impl Value {
    pub fn new<const D: usize>(tensor: Tensor<D>) -> Self {
        Self { shape: tensor.dims().to_vec(), flat: tensor.reshape([-1]) }
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The tensor again.
    ///
    /// # Panics
    /// When `D` is not its rank.
    pub fn tensor<const D: usize>(self) -> Tensor<D> {
        let shape: [usize; D] = self
            .shape
            .as_slice()
            .try_into()
            .unwrap_or_else(|_| panic!("asked for a tensor of rank {D}, but the value has shape {:?}", self.shape));
        self.flat.reshape(shape)
    }

    /// The values in row-major order, as f32.
    pub fn to_vec(&self) -> Vec<f32> {
        self.flat.clone().try_into_vec_as().expect("a tensor that can be read")
    }

    /// Bytes that the values take.
    pub fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.flat.dtype().size()
    }
}

/// Watches or changes the values inside a model.
pub trait Tap {
    /// Whether `name` is to be visited. What is costly to form, such as a pattern beside a fused
    /// operator, is formed only then.
    fn wants(&self, name: &str) -> bool;
    /// Sees a value and returns what the model goes on with (of the same shape).
    fn visit(&mut self, name: &str, value: Value) -> Value;
    /// Is given that [`part`](Tap::part) of a pattern which was asked for.
    fn visit_part(&mut self, name: &str, value: Value) {
        self.visit(name, value);
    }
    /// Whether what `visit` returns may differ from what it was given, gradients included. Where it
    /// does not, a fused operator goes on beside the pattern that is formed for the observer.
    fn changes(&self, name: &str) -> bool {
        self.wants(name)
    }
    /// The part of a pattern that is looked at. A pattern that the model goes on with is whole.
    fn part(&self, _name: &str) -> Part {
        Part::default()
    }
    /// Whether nothing is wanted whatever its name, so that names need not be formed.
    fn is_silent(&self) -> bool {
        false
    }
}

/// Heads and rows (queries) of a pattern; all of them where there is no range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    pub heads: Option<Range<usize>>,
    pub rows: Option<Range<usize>>,
}

impl Part {
    /// The ranges among `heads` and `rows` that there are.
    pub fn within(&self, heads: usize, rows: usize) -> (Range<usize>, Range<usize>) {
        let within = |range: &Option<Range<usize>>, all: usize| {
            range.as_ref().map_or(0..all, |range| range.start.min(all)..range.end.min(all))
        };
        (within(&self.heads, heads), within(&self.rows, rows))
    }
}

impl dyn Tap + '_ {
    /// Offers `tensor` under `name`; the model goes on with what comes back.
    pub fn at<const D: usize>(&mut self, name: &str, tensor: Tensor<D>) -> Tensor<D> {
        if !self.wants(name) {
            return tensor;
        }
        let shape = tensor.dims();
        let back = self.visit(name, Value::new(tensor));
        assert_eq!(back.shape(), shape, "the tap at `{name}` returned another shape");
        back.tensor()
    }

    /// Offers what `value` makes, if it is wanted, and gives it back where the tap may have changed it: an observer leaves
    /// the model to what it computes without one.
    pub fn patched<const D: usize>(&mut self, name: &str, value: impl FnOnce() -> Tensor<D>) -> Option<Tensor<D>> {
        if !self.wants(name) {
            return None;
        }
        let value = self.at(name, value());
        self.changes(name).then_some(value)
    }
}

/// Sees nothing and costs nothing.
pub struct Silent;

impl Tap for Silent {
    fn wants(&self, _name: &str) -> bool {
        false
    }
    fn visit(&mut self, _name: &str, value: Value) -> Value {
        value
    }
    fn is_silent(&self) -> bool {
        true
    }
}

/// Passes everything on under `prefix.name`.
pub struct Scope<'a> {
    tap: &'a mut dyn Tap,
    prefix: String,
    silent: bool,
}

impl<'a> Scope<'a> {
    pub fn new(tap: &'a mut dyn Tap, prefix: impl Into<String>) -> Self {
        Self { silent: tap.is_silent(), tap, prefix: prefix.into() }
    }
    fn path(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }
}

impl Tap for Scope<'_> {
    fn wants(&self, name: &str) -> bool {
        !self.silent && self.tap.wants(&self.path(name))
    }
    fn visit(&mut self, name: &str, value: Value) -> Value {
        let path = self.path(name);
        self.tap.visit(&path, value)
    }
    fn visit_part(&mut self, name: &str, value: Value) {
        let path = self.path(name);
        self.tap.visit_part(&path, value);
    }
    fn changes(&self, name: &str) -> bool {
        !self.silent && self.tap.changes(&self.path(name))
    }
    fn part(&self, name: &str) -> Part {
        self.tap.part(&self.path(name))
    }
    fn is_silent(&self) -> bool {
        self.silent
    }
}

/// Keeps every value whose path matches one of its globs (`blocks.*.mixer.pattern`; `*` stands for
/// any run of characters).
#[derive(Debug, Default)]
pub struct Record {
    globs: Vec<String>,
    part: Part,
    pub values: BTreeMap<String, Value>,
}

impl Record {
    pub fn new(globs: &[&str]) -> Self {
        Self { globs: globs.iter().map(|g| g.to_string()).collect(), part: Part::default(), values: BTreeMap::new() }
    }

    /// Keeps these heads and rows of patterns, which are `time²` numbers a head: those of them that there are, and of a
    /// pattern that has none of them, nothing.
    pub fn with_part(self, part: Part) -> Self {
        Self { part, ..self }
    }

    /// What was recorded under `path`.
    pub fn get<const D: usize>(&self, path: &str) -> Option<Tensor<D>> {
        self.values.get(path).map(|v| v.clone().tensor())
    }

    /// All values whose path ends in `.name`, in the order of their blocks (or hops).
    pub fn layers(&self, name: &str) -> Vec<(usize, Value)> {
        let end = format!(".{name}");
        let mut found: Vec<_> = self
            .values
            .iter()
            .filter(|(path, _)| path.ends_with(&end))
            .filter_map(|(path, value)| Some((path.split('.').nth(1)?.parse().ok()?, value.clone())))
            .collect();
        found.sort_by_key(|(layer, _)| *layer);
        found
    }
}

impl Tap for Record {
    fn wants(&self, name: &str) -> bool {
        self.globs.iter().any(|g| glob(g, name))
    }
    fn visit(&mut self, name: &str, value: Value) -> Value {
        let mut seen = value.clone();
        if let (true, &[_, heads, rows, _]) = (name.contains("pattern"), &value.shape[..]) {
            // A pattern that the model goes on with comes whole.
            let (only, these) = self.part.within(heads, rows);
            if only.is_empty() || these.is_empty() {
                return value;
            }
            if (&only, &these) != (&(0..heads), &(0..rows)) {
                let part = seen.tensor::<4>().narrow(1, only.start, only.len());
                seen = Value::new(part.narrow(2, these.start, these.len()));
            }
        }
        self.visit_part(name, seen);
        value
    }
    fn visit_part(&mut self, name: &str, value: Value) {
        self.values.insert(name.to_string(), Value { flat: value.flat.detach(), ..value });
    }
    fn changes(&self, _name: &str) -> bool {
        false
    }
    fn part(&self, _name: &str) -> Part {
        self.part.clone()
    }
}

/// Replaces every value whose path matches a glob by what the function makes of it.
pub struct Patch<F: FnMut(&str, Value) -> Value> {
    glob: String,
    patch: F,
}

impl<F: FnMut(&str, Value) -> Value> Patch<F> {
    pub fn new(glob: &str, patch: F) -> Self {
        Self { glob: glob.to_string(), patch }
    }
}

impl<F: FnMut(&str, Value) -> Value> Tap for Patch<F> {
    fn wants(&self, name: &str) -> bool {
        glob(&self.glob, name)
    }
    fn visit(&mut self, name: &str, value: Value) -> Value {
        (self.patch)(name, value)
    }
}

fn glob(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(text) = text.strip_prefix(head) else { return false };
    (0..=text.len()).filter(|&i| text.is_char_boundary(i)).any(|i| glob(rest, &text[i..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_star_stands_for_any_run_of_characters() {
        assert!(glob("blocks.*.mixer.pattern", "blocks.12.mixer.pattern"));
        assert!(!glob("blocks.*.mixer.pattern", "blocks.12.mixer.pattern_positive"));
        assert!(glob("*", "logits"));
        assert!(!glob("log", "logits"));
    }
}

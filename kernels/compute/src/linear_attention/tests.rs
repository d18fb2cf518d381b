use super::{Gates, LinearForm, LogDecay, chunked, effective_pattern, linear_attention, recurrent};
use burn::tensor::{DType, Device, Tensor, TensorData};

/// Reproducible numbers in (−1, 1), f64.
fn numbers<const D: usize>(seed: u64, shape: [usize; D]) -> Tensor<D> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let values: Vec<f64> = (0..shape.iter().product())
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        })
        .collect();
    Tensor::from_data(TensorData::new(values, shape), (&Device::flex(), DType::F64))
}

/// The two forms of the reference, the first of which is the truth, and the fast one.
#[derive(Clone, Copy, Debug)]
enum Form {
    Recurrent,
    Chunked(usize),
    Cpu,
}

const BATCH: usize = 2;
const HEADS: usize = 3;
const D_KEY: usize = 5;
const D_VALUE: usize = 7;

#[derive(Clone)]
struct Case {
    name: String,
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    decay: LogDecay,
    gates: Gates,
    state: Tensor<4>,
}

fn unit(x: Tensor<4>) -> Tensor<4> {
    let norm = x.clone().square().sum_dim(3).sqrt();
    x / norm
}

fn between<const D: usize>(low: f64, high: f64, seed: u64, shape: [usize; D]) -> Tensor<D> {
    (numbers(seed, shape) + 1.0) * (0.5 * (high - low)) + low
}

fn per_head(time: usize) -> [usize; 3] {
    [BATCH, HEADS, time]
}

fn per_channel(time: usize, d: usize) -> [usize; 4] {
    [BATCH, HEADS, time, d]
}

/// Every member of the family, β up to 2.
fn family(time: usize) -> Vec<Case> {
    let decays = [
        ("no decay", LogDecay::None),
        ("a decay per head", LogDecay::Head(between(-0.4, 0.0, 5, per_head(time)))),
        ("a decay per channel", LogDecay::Channel(between(-0.4, 0.0, 5, per_channel(time, D_KEY)))),
    ];
    let gates = [
        ("add", Gates::Add),
        ("beta", Gates::Beta(between(0.0, 2.0, 4, per_head(time)))),
        (
            "erase and write",
            Gates::EraseWrite {
                erase: between(0.0, 2.0, 7, per_channel(time, D_KEY)),
                write: between(0.0, 1.0, 8, per_channel(time, D_VALUE)),
            },
        ),
    ];
    let mut cases = Vec::new();
    for (decay_name, decay) in &decays {
        for (gate_name, gates) in &gates {
            cases.push(Case {
                name: format!("{gate_name}, {decay_name}, {time} tokens"),
                q: unit(numbers(1, per_channel(time, D_KEY))) * (D_KEY as f64).powf(-0.5),
                k: unit(numbers(2, per_channel(time, D_KEY))),
                v: numbers(3, per_channel(time, D_VALUE)),
                decay: decay.clone(),
                gates: gates.clone(),
                state: numbers(6, [BATCH, HEADS, D_KEY, D_VALUE]),
            });
        }
    }
    cases
}

impl Case {
    fn run(&self, form: Form) -> (Tensor<4>, Tensor<4>) {
        let Case { q, k, v, decay, gates, state, .. } = self.clone();
        match form {
            Form::Recurrent => recurrent::run(q, k, v, &decay, &gates, state),
            Form::Chunked(chunk) => chunked::run(q, k, v, &decay, &gates, state, chunk),
            Form::Cpu => linear_attention(q, k, v, &decay, &gates, Some(state), LinearForm::Recurrent),
        }
    }

    /// The same case with every tensor changed in kind: another precision, another device.
    fn map(self, rank3: impl Fn(Tensor<3>) -> Tensor<3>, rank4: impl Fn(Tensor<4>) -> Tensor<4>) -> Self {
        Self {
            name: self.name,
            q: rank4(self.q),
            k: rank4(self.k),
            v: rank4(self.v),
            decay: match self.decay {
                LogDecay::None => LogDecay::None,
                LogDecay::Head(g) => LogDecay::Head(rank3(g)),
                LogDecay::Channel(g) => LogDecay::Channel(rank4(g)),
            },
            gates: match self.gates {
                Gates::Add => Gates::Add,
                Gates::Beta(beta) => Gates::Beta(rank3(beta)),
                Gates::EraseWrite { erase, write } => Gates::EraseWrite { erase: rank4(erase), write: rank4(write) },
            },
            state: rank4(self.state),
        }
    }

    fn single(self) -> Self {
        self.map(|x| x.cast(DType::F32), |x| x.cast(DType::F32))
    }

    fn decays(mut self, change: impl Fn(Tensor<1>) -> Tensor<1>) -> Self {
        self.decay = match self.decay {
            LogDecay::None => LogDecay::None,
            LogDecay::Head(g) => LogDecay::Head(change(g.clone().reshape([-1])).reshape(g.dims())),
            LogDecay::Channel(g) => LogDecay::Channel(change(g.clone().reshape([-1])).reshape(g.dims())),
        };
        self
    }

    /// Every form against the recurrent one in double precision.
    fn check(&self) {
        let (out, state) = self.run(Form::Recurrent);
        for form in [Form::Chunked(1), Form::Chunked(4), Form::Chunked(16), Form::Chunked(64), Form::Cpu] {
            for (case, tolerance) in [(self.clone(), 1e-10), (self.clone().single(), 1e-5)] {
                let (found, end) = case.run(form);
                let (found, end) = (found.cast(DType::F64), end.cast(DType::F64));
                // Relative to the largest number there: without decay a state grows.
                let scale = |x: &Tensor<4>| x.clone().abs().max().into_scalar::<f64>().max(1.0);
                for (what, truth, found) in [("output", &out, found), ("state", &state, end)] {
                    let error = error(truth.clone(), found) / scale(truth);
                    assert!(error < tolerance, "{}: {what} off by {error:e}, {form:?}", case.name);
                }
            }
        }
    }
}

/// A NaN is an infinite error.
fn error<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> f64 {
    let difference = (a - b).abs();
    if difference.clone().is_finite().all().into_scalar::<bool>() {
        difference.max().into_scalar()
    } else {
        f64::INFINITY
    }
}

#[test]
fn every_form_equals_the_recurrent_one_for_every_member_length_and_chunk() {
    for time in [1, 2, 63, 75, 130] {
        family(time).iter().for_each(Case::check);
    }
}

#[test]
fn equal_keys_that_write_fully_do_not_lose_digits() {
    // The case in which the Neumann product fails: A has ones everywhere below the diagonal.
    for strength in [1.0, 2.0] {
        for mut case in family(75).into_iter().filter(|case| !matches!(case.gates, Gates::Add)) {
            case.k = case.k.clone().narrow(2, 0, 1).repeat_dim(2, 75);
            let full = |x: Tensor<4>| x.ones_like() * strength;
            case.gates = match case.gates {
                Gates::EraseWrite { erase, write } => Gates::EraseWrite { erase: full(erase), write: full(write) },
                Gates::Beta(beta) => Gates::Beta(beta.ones_like() * strength),
                Gates::Add => unreachable!("filtered"),
            };
            case.check();
            case.decays(|g| g.zeros_like()).check();
        }
    }
}

#[test]
fn extreme_decays_beside_mild_ones_keep_their_digits() {
    for case in family(75) {
        case.clone().decays(|g| g.ones_like() * -300.0).check();
        // Every third decay forgets all, the others little: sums in the thousands beside small ones.
        case.decays(|g| {
            let n = g.dims()[0];
            let harsh: Vec<f64> = (0..n).map(|i| if i % 3 == 0 { -300.0 } else { 0.0 }).collect();
            let harsh = Tensor::from_data(TensorData::new(harsh, [n]), (&g.device(), DType::F64));
            g + harsh
        })
        .check();
    }
}

#[test]
fn gradients_of_every_form_are_finite_and_those_of_the_recurrent_one() {
    let device = Device::flex().autodiff();
    for strength in [0.0, -30.0, -300.0] {
        for case in family(21) {
            let case = case.decays(|g| g * 0.5 + strength);
            let track3 = |x: Tensor<3>| Tensor::<3>::from_data(x.into_data(), (&device, DType::F64)).require_grad();
            let track4 = |x: Tensor<4>| Tensor::<4>::from_data(x.into_data(), (&device, DType::F64)).require_grad();
            let case = case.map(track3, track4);
            let gradients = |form| {
                let (out, state) = case.run(form);
                let gradients = (out.square().sum() + state.square().sum()).backward();
                let mut all = Vec::new();
                let of3 = |x: &Tensor<3>| x.grad(&gradients).expect("tracked").reshape::<1, _>([-1]);
                let of4 = |x: &Tensor<4>| x.grad(&gradients).expect("tracked").reshape::<1, _>([-1]);
                all.extend([&case.q, &case.k, &case.v, &case.state].map(of4));
                match &case.decay {
                    LogDecay::None => {}
                    LogDecay::Head(g) => all.push(of3(g)),
                    LogDecay::Channel(g) => all.push(of4(g)),
                }
                match &case.gates {
                    Gates::Add => {}
                    Gates::Beta(beta) => all.push(of3(beta)),
                    Gates::EraseWrite { erase, write } => all.extend([of4(erase), of4(write)]),
                }
                all
            };
            let truth = gradients(Form::Recurrent);
            for form in [Form::Chunked(16), Form::Cpu] {
                for (i, (truth, found)) in truth.clone().into_iter().zip(gradients(form)).enumerate() {
                    let error = error(truth, found);
                    assert!(error < 1e-9, "{}, g about {strength}: gradient {i} off by {error:e}, {form:?}", case.name);
                }
            }
        }
    }
}

#[test]
fn the_effective_pattern_times_the_values_is_the_output() {
    for mut case in family(37) {
        case.state = case.state.zeros_like();
        let (out, _) = case.run(Form::Recurrent);
        let pattern = effective_pattern(case.q.clone(), case.k.clone(), &case.decay, &case.gates);
        let error = error(out, pattern.matmul(case.gates.values(case.v.clone())));
        assert!(error < 1e-10, "{}: off by {error:e}", case.name);
    }
}

/// The output and state of two ways to say the same.
fn assert_same(a: Case, b: Case) {
    for form in [Form::Recurrent, Form::Chunked(16), Form::Cpu] {
        let ((out_a, state_a), (out_b, state_b)) = (a.run(form), b.run(form));
        assert!(error(out_a, out_b) < 1e-12 && error(state_a, state_b) < 1e-12, "{} is not {}", a.name, b.name);
    }
}

fn member(decay: &str, gates: &str) -> Case {
    let named = |case: &Case| case.name.starts_with(gates) && case.name.contains(decay);
    family(37).into_iter().find(named).expect("a member of the family")
}

#[test]
fn the_same_decay_in_every_channel_is_a_decay_per_head() {
    for gates in ["add", "beta", "erase"] {
        let head = member("a decay per head", gates);
        let mut channel = head.clone();
        let LogDecay::Head(g) = head.decay.clone() else { panic!("per head") };
        channel.decay = LogDecay::Channel(g.unsqueeze_dim::<4>(3).repeat_dim(3, D_KEY));
        assert_same(channel, head);
    }
}

#[test]
fn erasing_and_writing_with_one_strength_is_the_delta_rule() {
    for decay in ["no decay", "per head", "per channel"] {
        let delta = member(decay, "beta");
        let mut split = delta.clone();
        let Gates::Beta(beta) = delta.gates.clone() else { panic!("beta") };
        let wide = |d| beta.clone().unsqueeze_dim::<4>(3).repeat_dim(3, d);
        split.gates = Gates::EraseWrite { erase: wide(D_KEY), write: wide(D_VALUE) };
        assert_same(split, delta);
    }
}

#[test]
fn a_decay_of_one_is_no_decay() {
    for gates in ["add", "beta", "erase"] {
        let none = member("no decay", gates);
        for decayed in [member("per head", gates), member("per channel", gates)] {
            assert_same(decayed.decays(|g| g.zeros_like()), none.clone());
        }
    }
}

#[test]
fn a_gate_that_erases_nothing_leaves_a_decayed_sum() {
    for decay in ["no decay", "per head", "per channel"] {
        let sum = member(decay, "add");
        let mut split = sum.clone();
        let (erase, write) = (split.k.zeros_like(), split.v.ones_like());
        split.gates = Gates::EraseWrite { erase, write };
        assert_same(split, sum);
    }
}

#[test]
fn a_delta_rule_that_writes_nothing_only_fades() {
    let mut case = member("per head", "beta");
    case.gates = Gates::Beta(Tensor::zeros(per_head(37), (&case.q.device(), DType::F64)));
    let LogDecay::Head(g) = case.decay.clone() else { panic!("per head") };
    let left = g.sum_dim(2).exp().unsqueeze_dim::<4>(3);
    for form in [Form::Recurrent, Form::Chunked(16), Form::Cpu] {
        let (_, state) = case.run(form);
        assert!(error(state, case.state.clone() * left.clone()) < 1e-12);
    }
    case.state = case.state.zeros_like();
    assert_eq!(error(case.run(Form::Chunked(16)).0, case.v.zeros_like()), 0.0);
}

#[test]
fn the_fast_form_gives_the_reference_s_outputs_and_gradients() {
    crate::selftest::agree(super::cases(), 1e-9);
}

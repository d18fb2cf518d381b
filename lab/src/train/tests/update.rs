use super::*;
use burn::module::{Module, Param};
use burn::optim::{AdamWConfig, GradientsParams, Optimizer};
use burn::tensor::{Tensor, TensorData};

#[derive(Module, Debug)]
struct Two {
    matrix: Param<Tensor<2>>,
    vector: Param<Tensor<1>>,
}

fn two() -> Two {
    let device = device().autodiff();
    Two {
        matrix: Param::from_tensor(Tensor::from_data([[1.0, -2.0]], &device)),
        vector: Param::from_tensor(Tensor::from_data([0.5, 3.0], &device)),
    }
}

/// Gradients 0.3, −0.6 for the matrix and 0, 4 for the vector, whatever the values.
fn gradients(module: &Two) -> GradientsParams {
    let device = device().autodiff();
    let matrix = (module.matrix.val() * Tensor::from_data([[0.3, -0.6]], &device)).sum();
    let vector = (module.vector.val() * Tensor::from_data([0.0, 4.0], &device)).sum();
    GradientsParams::from_grads((matrix + vector).backward(), module)
}

#[test]
fn adamw_makes_the_updates_of_the_formula_and_vectors_do_not_decay() {
    let (b1, b2, decay, rate, scale) = (0.9, 0.95, 0.1, 0.01, 0.5);
    let mut optimizer = AdamW::new([b1, b2], decay);
    let mut module = two();
    for _ in 0..3 {
        let mut gradients = gradients(&module);
        module = optimizer.step(module, &mut gradients, rate, scale);
    }
    let expected = |start: f64, gradient: f64, decay: f64| {
        let (mut w, mut m, mut v, g) = (start, 0.0, 0.0, gradient * scale);
        for t in 1..=3 {
            m = b1 * m + (1.0 - b1) * g;
            v = b2 * v + (1.0 - b2) * g * g;
            let (m_hat, v_hat) = (m / (1.0 - b1.powi(t)), v / (1.0 - b2.powi(t)));
            w = w - rate * decay * w - rate * m_hat / (v_hat.sqrt() + 1e-8);
        }
        w
    };
    let got: Vec<f64> =
        [module.matrix.val().into_data(), module.vector.val().into_data()].iter().flat_map(TensorData::iter).collect();
    let expected =
        [expected(1.0, 0.3, decay), expected(-2.0, -0.6, decay), expected(0.5, 0.0, 0.0), expected(3.0, 4.0, 0.0)];
    for (got, expected) in got.iter().zip(expected) {
        assert!((got - expected).abs() < 1e-6, "{got} is not {expected}");
    }
    assert_eq!(got[2], 0.5, "a vector without gradient and without decay stays");
}

#[test]
fn a_matrix_moves_as_burns_own_adamw_moves_it() {
    let config = AdamWConfig::new().with_beta_1(0.9).with_beta_2(0.95).with_epsilon(1e-8).with_weight_decay(0.1);
    let burns = config.build();
    let mut ours = AdamW::new([0.9, 0.95], 0.1);
    let mut module = two();
    let (mut weight, mut state) = (module.matrix.val().inner(), None);
    for _ in 0..5 {
        let gradient = Tensor::from_data([[0.3, -0.6]], &device());
        (weight, state) = burns.step(0.01, weight, gradient, state);
        let mut gradients = gradients(&module);
        module = ours.step(module, &mut gradients, 0.01, 1.0);
    }
    let [ours, burns] = [module.matrix.val().inner(), weight].map(|x| x.into_data().iter::<f32>().collect::<Vec<_>>());
    ours.iter().zip(&burns).for_each(|(a, b)| assert!((a - b).abs() < 1e-6, "{ours:?} is not {burns:?}"));
    assert!((ours[0] - 1.0).abs() > 0.04, "{ours:?} has not moved");
}

#[test]
fn moments_are_named_like_the_weights() {
    let config = small("names", 4);
    let mut trainer = trainer(&config);
    trainer.step().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let files = super::super::files::RunFiles::open(dir.path(), &config).unwrap();
    files.save(&config, trainer.model(), &trainer.optimizer, &trainer.history, "").unwrap();
    let (moments, _) = zoo::checkpoint::read(&files.dir.join("step-000001/optimizer.safetensors")).unwrap();
    let of = |kind: &str| moments.keys().filter_map(|key| key.strip_prefix(kind).map(String::from)).collect::<Vec<_>>();
    let weights: Vec<String> = zoo::checkpoint::tensors(trainer.model()).into_keys().collect();
    assert_eq!(of("m."), weights);
    assert_eq!(of("v."), weights);
}

#[test]
fn the_gradient_norm_is_over_all_parameters_and_clipping_brings_it_to_the_limit() {
    let mut config = small("clip", 4);
    config.clip = 1e-3;
    let mut trainer = trainer(&config);
    let norm = trainer.step().unwrap().gradient_norm;
    assert!(norm > 1e-2, "{norm}");
    // After one update the first moment is (1 − β₁) times the clipped gradient.
    let first = trainer.optimizer.tensors().into_iter().filter(|(name, _)| name.starts_with("m."));
    let square: f64 = first.flat_map(|(_, data)| data.iter::<f64>().collect::<Vec<_>>()).map(|x| x * x).sum();
    let clipped = square.sqrt() / (1.0 - config.betas[0]);
    assert!((clipped - 1e-3).abs() < 1e-6, "{clipped}");
}

#[test]
fn the_rate_rises_to_its_maximum_and_ends_at_its_minimum() {
    let config = TrainConfig { steps: 100, warmup: 10, ..small("rate", 100) };
    let rates: Vec<f64> = (0..100).map(|step| config.rate(step)).collect();
    assert!((rates[0] - config.learning_rate / 10.0).abs() < 1e-12);
    assert!((rates[9] - config.learning_rate).abs() < 1e-12);
    assert!((rates[99] - config.min_learning_rate).abs() < 1e-12);
    assert!(rates[..10].is_sorted() && rates[10..].is_sorted_by(|a, b| a >= b));
    let short = TrainConfig { steps: 5, ..config };
    assert!((0..5).all(|step| short.rate(step).is_finite()));
}

#[test]
fn a_nan_stops_before_the_weights_change_and_names_where_it_is() {
    let config = small("nan", 4);
    let mut trainer = trainer(&config);
    let good = trainer.step().unwrap().train_loss;
    let mut tensors = zoo::checkpoint::tensors(trainer.model());
    let name = "blocks.1.feed_forward.up_proj.weight";
    let mut values: Vec<f32> = tensors[name].iter().collect();
    values[3] = f32::NAN;
    let shape = tensors[name].shape().clone();
    tensors.insert(name.into(), TensorData::new(values, shape));
    let model = trainer.model.take().unwrap();
    trainer.model = Some(zoo::checkpoint::apply(model, &tensors, "test".as_ref()).unwrap());

    let before = zoo::checkpoint::tensors(trainer.model());
    let error = trainer.step().unwrap_err();
    let LabError::NotFinite { step, last_loss, weights, gradients, .. } = &error else { panic!("{error}") };
    assert_eq!((*step, *last_loss), (2, Some(good)));
    assert_eq!(*weights, [name]);
    assert!(gradients.iter().any(|parameter| parameter == name), "{error}");
    assert!(error.to_string().contains(name), "{error}");
    let after = zoo::checkpoint::tensors(trainer.model());
    let same = |(name, data): (&String, &TensorData)| data.as_bytes() == after[name].as_bytes();
    assert!(before.iter().all(same));
    assert_eq!(trainer.history().step(), 1);
}

#[test]
fn bad_configurations_say_what_would_be_valid() {
    let json = small("ok", 4).to_json();
    assert_eq!(TrainConfig::from_json(&json).unwrap(), small("ok", 4));
    let changed = |from: &str, to: &str| {
        assert!(json.contains(from), "{json}");
        message(TrainConfig::from_json(&json.replace(from, to)))
    };
    let unknown = changed("\"warmup\"", "\"warm_up\"");
    assert!(unknown.contains("warm_up") && unknown.contains("`warmup`"), "{unknown}");
    assert!(changed("\"name\": \"ok\"", "\"name\": \"../up\"").contains("letters"));
    assert!(changed("\"steps\": 4", "\"steps\": 0").contains("at least 1"));
    assert!(changed("\"clip\": 1.0", "\"clip\": -1.0").contains("positive"));
    assert!(changed("\"heads\": 2", "\"heads\": 3").contains("3"));
    let mut config = small("vocabulary", 4);
    config.model.vocab_size = 20;
    let vocabulary = message(Trainer::from_config(&config, &device()).map(|_| ()));
    assert!(vocabulary.contains("20") && vocabulary.contains("32"), "{vocabulary}");
}

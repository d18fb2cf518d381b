use super::*;
use burn::tensor::{Device, DType, TensorData, Distribution};
use std::time::Instant;

fn best(n: usize, mut f: impl FnMut()) -> (f64, f64) {
    // CPU time of all threads: others use this machine too.
    let cpu = || -> f64 { std::fs::read_dir("/proc/self/task").unwrap().map(|t| std::fs::read_to_string(t.unwrap().path().join("schedstat")).unwrap().split(' ').next().unwrap().parse::<f64>().unwrap()).sum() };
    let _ = Instant::now();
    let mut all: Vec<f64> = (0..n).map(|_| { let s = cpu(); f(); (cpu() - s) * 1e-6 }).collect();
    all.sort_by(f64::total_cmp);
    (all[0], all[n / 2])
}

#[test]
#[ignore]
fn speed() {
    let n: usize = std::env::var("N").map_or(20, |n| n.parse().unwrap());
    let reference = std::env::var("REF").is_ok();
    let long = std::env::var("LONG").is_ok(); for [b, h, t, d] in [[8, 4, 256, 64], [1, 4, 4096, 64]].into_iter().take(1 + long as usize) {
        for kind in std::env::var("KIND").unwrap_or("head channel split gla".into()).split(' ').map(|x| &*x.to_string().leak()) {
            let plain = Device::flex();
            let dev = plain.clone().autodiff();
            let r4 = |shape: [usize; 4], device: &Device| Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), (device, DType::F32));
            let run = |device: &Device, grad: bool| {
                let key = || r4([b, t, h, d], device).swap_dims(1, 2);
                let g = |x: Tensor<4>| if grad { x.require_grad() } else { x };
                let q = g(key() * 0.125 * 0.125);
                let k = g(key() * 0.125);
                let v = g(key());
                let decay = g(key().abs() * -0.1);
                let head = g(r4([b, h, t, 1], device).abs() * -0.1);
                let beta = g(sigmoid(r4([b, h, t, 1], device)));
                let (e, w) = (g(sigmoid(key())), g(sigmoid(key())));
                let weights = key();
                move || {
                    let decay = match kind { "head" => LogDecay::Head(head.clone().reshape([b, h, t])), _ => LogDecay::Channel(decay.clone()) };
                    let gates = match kind { "split" => Gates::EraseWrite { erase: e.clone(), write: w.clone() }, "gla" => Gates::Add, _ => Gates::Beta(beta.clone().reshape([b, h, t])) };
                    let (o, _) = linear_attention(q.clone(), k.clone(), v.clone(), &decay, &gates, None);
                    if grad { let _ = (o * weights.clone()).sum().backward(); }
                }
            };
            let base = {
                let (a, w) = (r4([b, t, h, d], &dev).swap_dims(1, 2).require_grad(), r4([b, t, h, d], &dev).swap_dims(1, 2));
                best(n, || { let _ = (a.clone() * w.clone()).sum().backward(); }).1
            };
            let f = run(&plain, false);
            let (fb, fm) = best(n, &f);
            let g = run(&dev, true);
            let (gb, gm) = best(n, &g);
            println!("{:?} {kind}: forward {fb:.2} (median {fm:.2}) ms, with backward {gb:.2} ({gm:.2}) ms (of which the loss {base:.2})", [b, h, t, d]);
            if reference {
                let (fb, fm) = best(3, || crate::by_reference(&f));
                let (gb, gm) = best(3, || crate::by_reference(&g));
                println!("      reference: forward {fb:.2} ({fm:.2}) ms, with backward {gb:.2} ({gm:.2}) ms");
            }
        }
    }
    let dev = Device::flex();
    let r4 = |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Normal(0.0, 0.1), (&dev, DType::F32));
    let (q, k, v) = (r4([1, 4, 1, 64]), r4([1, 4, 1, 64]), r4([1, 4, 1, 64]));
    let g = LogDecay::Head(r4([1, 1, 4, 1]).abs().neg().reshape([1, 4, 1]));
    let beta = Gates::Beta(sigmoid(r4([1, 1, 4, 1])).reshape([1, 4, 1]));
    let mut state = Some(r4([1, 4, 64, 64]));
    let step = |state: Option<Tensor<4>>| linear_attention(q.clone(), k.clone(), v.clone(), &g, &beta, state).1;
    for reference in [false, true] {
        let (_, median) = best(20, || {
            for _ in 0..100 {
                let s = state.take();
                state = Some(if reference { crate::by_reference(|| step(s)) } else { step(s) });
            }
        });
        println!("one token: {:.2} µs{}", median * 10.0, if reference { ", reference" } else { "" });
    }
}

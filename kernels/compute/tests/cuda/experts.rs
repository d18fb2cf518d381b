//! The kernels of experts, run on the CPU, against the reference in f64.

use crate::emulator::emulator;
use crate::numbers::*;
use burn::tensor::DType;
use kernels::experts::cuda::{Call, TILE, products::Product, route};
use kernels::swiglu::cuda::kernels::Call as SwiGlu;
use kernels::{Expert, Routing, by_reference, experts};

/// What [`Call::sort`] and [`Call::list`] make of the chosen experts: order, first rows, rows of places, and runs of rows.
fn routed(call: &Call, chosen: &[usize]) -> [Vec<usize>; 4] {
    let mut order: Vec<usize> = (0..call.places()).collect();
    order.sort_by_key(|&place| chosen[place]);
    let first: Vec<usize> = (0..=call.experts).map(|e| chosen.iter().filter(|&&chosen| chosen < e).count()).collect();
    let mut back = vec![0; call.places()];
    order.iter().enumerate().for_each(|(row, &place)| back[place] = row);
    let runs = |e: usize| (first[e]..first[e + 1]).step_by(TILE as usize).flat_map(move |row| [e, row]);
    let tiles = (0..call.experts).flat_map(runs).collect();
    [order, first, back, tiles]
}

#[test]
fn tokens_are_sorted_by_the_experts_that_they_choose() {
    let emulator = emulator();
    for (tokens, per_token, experts) in [(1, 1, 1), (75, 2, 8), (70, 4, 100)] {
        let call = Call { tokens, per_token, experts, d: 8, width: 8 };
        // Few values, so that there are ties; a token whose shares are no numbers.
        let mut shares: Vec<f64> = numbers(1, tokens * experts).iter().map(|x| (x * 8.0).round()).collect();
        if tokens > 1 {
            shares[..experts].fill(f64::NAN);
        }
        let best = |row: &[f64]| {
            let size = |e: usize| if row[e].is_nan() { f64::MIN } else { row[e] };
            let mut order: Vec<usize> = (0..experts).collect();
            order.sort_by(|&a, &b| size(b).partial_cmp(&size(a)).unwrap());
            order.truncate(per_token);
            order
        };
        let chosen: Vec<usize> = shares.chunks(experts).flat_map(best).collect();
        let places = call.places();
        let mut buffers = vec![halves(&shares), unwritten(places, 4)];
        emulator(&[call.choose(DType::BF16)], &mut buffers);
        assert_eq!(from_words(&buffers[1]), chosen, "{call:?}");

        let mut buffers = vec![buffers.pop().unwrap(), unwritten(places, 4), unwritten(experts + 1, 4)];
        emulator(&[call.sort()], &mut buffers);
        let (first, order) = (buffers.pop().unwrap(), buffers.pop().unwrap());
        let mut buffers = vec![order, first, unwritten(places, 4), unwritten(2 * call.tiles(), 4)];
        emulator(&[call.list()], &mut buffers);
        let [order, first, back, tiles] = routed(&call, &chosen);
        assert_eq!([&buffers[0], &buffers[1], &buffers[2]].map(|x| from_words(x)), [order, first, back], "{call:?}");
        let listed = from_words(&buffers[3]);
        assert_eq!(listed[..tiles.len()], tiles, "{call:?}");
        assert!(listed[tiles.len()..].chunks(2).all(|tile| tile[0] == experts), "{call:?}: {listed:?}");
    }
}

#[test]
fn the_larger_share_comes_first_and_of_equal_ones_the_first_expert() {
    assert!(route::comes_before(2.0, 5, 1.0, 3) && !route::comes_before(1.0, 3, 2.0, 5));
    assert!(route::comes_before(1.0, 3, 1.0, 5) && !route::comes_before(1.0, 5, 1.0, 3));
    assert!(!route::comes_before(1.0, 3, 1.0, 3));
}

#[test]
fn rows_go_to_their_experts_and_their_gradients_come_back() {
    let emulator = emulator();
    let (tokens, per_token, count, d, width) = (75, 2, 5, 72, 24);
    let call = Call { tokens, per_token, experts: count, d, width };
    let places = call.places();
    // Nobody chooses expert 3; expert 1 has more than one tile of rows.
    let chosen: Vec<usize> = (0..tokens).flat_map(|t| [1, [0, 2, 4][t % 3]]).collect();
    let (x, weights, out_grad) = (numbers(1, tokens * d), numbers(2, places), numbers(3, tokens * d));
    let matrices = [4, 5, 6].map(|seed| rounded(numbers(seed, count * d * width).into_iter().map(|x| x / 4.0)));
    let tx = leaf(&x, [tokens, d], DType::F64);
    let tw = leaf(&weights, [tokens, per_token], DType::F64);
    let of = |m: usize, e: usize, shape| leaf(&matrices[m][e * d * width..][..d * width], shape, DType::F64);
    let all: Vec<Expert> = (0..count)
        .map(|e| Expert { gate: of(0, e, [width, d]), up: of(1, e, [width, d]), down: of(2, e, [d, width]) })
        .collect();
    let out = by_reference(|| experts(tx.clone(), tw.clone(), &Routing::new(&chosen, per_token, count), &all));
    let gradients = (out.clone() * constant(&out_grad, [tokens, d], DType::F64)).sum().backward();

    let [order, first, back, mut tiles] = routed(&call, &chosen);
    tiles.resize(2 * call.tiles(), count);
    let [order, first, back, tiles] = [order, first, back, tiles].map(words);
    let run = |kernel, inputs: &[&[u8]], outputs: Vec<Vec<u8>>| {
        let mut buffers: Vec<Vec<u8>> = inputs.iter().map(|x| x.to_vec()).chain(outputs).collect();
        emulator(&[kernel], &mut buffers);
        buffers.split_off(inputs.len())
    };
    let one = |kernel, inputs: &[&[u8]], output: Vec<u8>| run(kernel, inputs, vec![output]).pop().unwrap();
    let multiply = |product: Product, rows: &[u8], matrix: &[u8], there: Option<&[u8]>| {
        let out = there.map_or_else(|| unwritten(places * product.outer, 2), <[u8]>::to_vec);
        one(product.kernel(&call), &[rows, matrix, &order, &first, &tiles], out)
    };
    let [bx, bw, bo] = [&x, &weights, &out_grad].map(|x| halves(x));
    let [w_gate, w_up, w_down] = matrices.each_ref().map(|m| halves(m));
    let [of_rows, of_places] = [width, d].map(|width| unwritten(places * width, 2));
    let inside = SwiGlu { rows: places, width, stride: width, dtype: DType::BF16 };

    let [to_width, to_d] = Product::forward(&call);
    let gate = multiply(to_width, &bx, &w_gate, None);
    let up = multiply(to_width, &bx, &w_up, None);
    let hidden = one(inside.forward(), &[&gate, &up], of_rows.clone());
    let worked = multiply(to_d, &hidden, &w_down, None);
    let mixed = one(call.combine(true), &[&worked, &bw, &back], unwritten(tokens * d, 2));
    assert_close("the output", &from_halves(&mixed), &values(out), 0.02);

    let d_worked = one(call.spread(), &[&bo, &bw, &order], of_places);
    let d_weights = one(call.share_grads(), &[&bo, &worked, &back], unwritten(places, 2));
    assert_close("the weights' gradient", &from_halves(&d_weights), &values(tw.grad(&gradients).unwrap()), 0.02);
    let [to_hidden, to_rows, and_to_rows] = Product::backward(&call);
    let d_hidden = multiply(to_hidden, &d_worked, &w_down, None);
    let through = run(inside.backward(), &[&gate, &up, &d_hidden], vec![of_rows.clone(), of_rows]);
    let rows = multiply(to_rows, &through[0], &w_gate, None);
    let rows = multiply(and_to_rows, &through[1], &w_up, Some(&rows));
    let d_x = one(call.combine(false), &[&rows, &bw, &back], unwritten(tokens * d, 2));
    assert_close("the input's gradient", &from_halves(&d_x), &values(tx.grad(&gradients).unwrap()), 0.02);

    let [of_width, of_d] = Product::weight_grads(&call);
    let of_matrix = |product: Product, left: &[u8], right: &[u8]| {
        let out = unwritten(count * d * width, 2);
        from_halves(&one(product.weight_grad(&call), &[left, right, &order, &first], out))
    };
    let found = [
        of_matrix(of_width, &through[0], &bx),
        of_matrix(of_width, &through[1], &bx),
        of_matrix(of_d, &d_worked, &hidden),
    ];
    for (e, Expert { gate, up, down }) in all.iter().enumerate() {
        for (name, found, matrix) in [("gate", &found[0], gate), ("up", &found[1], up), ("down", &found[2], down)] {
            // The reference has no gradient for an expert that saw no token.
            let expected = matrix.grad(&gradients).map_or_else(|| vec![0.0; d * width], values);
            let found = &found[e * d * width..][..d * width];
            assert_close(&format!("the gradient of {name} of expert {e}"), found, &expected, 0.02);
        }
    }
}

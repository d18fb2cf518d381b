//! What holds for every figure.

use super::*;

const HOSTILE: &str = "</text><script>alert('&\u{1}\n\u{202e}\u{ffff}\")</script>]]>";

/// One of each figure, with a hostile text wherever text goes.
fn figures() -> Vec<Box<dyn Figure>> {
    let t = HOSTILE;
    let pattern = [[1.0, 0.0], [-0.25, f32::NAN]];
    vec![
        Box::new(Lines::new(t).x(t, t).y(t, t).note(t).level(t, 2.0).line(t, [1, 2], [1.0, 3.0]).line_with_band(
            "b",
            [1, 2],
            [1.0, f64::NAN],
            [0.5, 1.0],
            [2.0, f64::INFINITY],
        )),
        Box::new(HeatMap::new(t, pattern).x(t, t).y(t, t).value(t, t).note(t).tokens([t, t]).annotate()),
        Box::new(HeatMap::new(t, (0..200).map(|i| (0..200).map(move |j| i * j)))),
        Box::new(AttentionGrid::new(t).panel(t, pattern).x(t, t).y(t, t).value(t, t).tokens([t, t]).note(t)),
        Box::new(Bars::new(t).x(t, t).y(t, t).bar(t, 1).bar_with_interval("b", 2.0, 1.0, 3.0).note(t)),
        Box::new(Bars::new(t).groups([t, "b"]).series(t, [1.0, f64::NAN])),
        Box::new(Histogram::new(t).x(t, t).data(t, [1.0, 2.0, f64::NAN]).note(t)),
        Box::new(Histogram::new(t).data(t, [1.0]).data("b", [1.0]).small_multiples()),
        Box::new(Panel::new(t).figure(Bars::new(t).bar(t, 1))),
        Box::new(Sketch::new(100, 50, |area| {
            use plotters::prelude::*;
            let text = Text::new(HOSTILE, (5, 5), ("sans-serif", 12));
            Ok(area.draw(&text)?)
        })),
    ]
}

#[test]
fn every_figure_is_well_formed_whatever_the_text() {
    for (i, figure) in figures().iter().enumerate() {
        let svg = figure.svg().unwrap();
        let document = roxmltree::Document::parse(&svg).unwrap_or_else(|error| panic!("figure {i}: {error}: {svg}"));
        assert!(document.descendants().all(|node| !node.has_tag_name("script") && node.attribute("id").is_none()));
    }
}

#[test]
fn extreme_values_neither_panic_nor_leak_into_coordinates() {
    let extreme = [f64::MAX, f64::MIN, f64::MIN_POSITIVE, 5e-324, 1e300, -1e300, 1e-299, 1e18, 1e18 + 256.0, 1.0];
    for a in extreme {
        for b in extreme {
            let (x, y) = ([1.0, a, 3.0, b], [b, 1.0, a, 2.0]);
            let figures: [Box<dyn Figure>; 7] = [
                Box::new(Lines::new("").line("n", x, y).level("l", a)),
                Box::new(Lines::new("").line("n", x, y).log_x().log_y()),
                Box::new(Lines::new("").line("n", x, y).log2_x().y_range(a, b)),
                Box::new(HeatMap::new("", [x, y]).annotate()),
                Box::new(HeatMap::new("", [x, y]).range(a, b)),
                Box::new(Bars::new("").bar("a", a).bar_with_interval("b", b, b, b)),
                Box::new(Histogram::new("").data("n", x)),
            ];
            for (i, figure) in figures.iter().enumerate() {
                if let Ok(svg) = figure.svg() {
                    let svg = svg.replace("not finite", "");
                    assert!(!svg.contains("NaN") && !svg.contains("inf"), "figure {i} of {a} and {b}: {svg}");
                }
            }
        }
    }
}

#[test]
fn four_patterns_of_44_tokens_stay_under_150_kb() {
    let pattern = |seed: usize| (0..44usize).map(move |i| (0..44usize).map(move |j| (i * 31 + j * 17 + seed) % 251));
    let map = |seed| HeatMap::new("a", pattern(seed)).tokens(vec!["t"; 44]).causal().size(420);
    let panel = (0..4).fold(Panel::new("patterns"), |panel, seed| panel.figure(map(seed)));
    assert!(panel.svg().unwrap().len() < 150_000);
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    for (a, b) in figures().iter().zip(figures()) {
        assert_eq!(a.svg().unwrap(), b.svg().unwrap());
    }
}

#[test]
fn saving_makes_the_folder_and_a_broken_figure_leaves_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("figures/a.svg");
    let good = Bars::new("good").bar("gated", 1.0);
    good.save(&path).unwrap();
    assert!(Bars::new("bad").save(&path).is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), good.svg().unwrap());
    let blocked = path.join("below a file.svg");
    let error = good.save(&blocked).unwrap_err().to_string();
    assert!(error.contains("below a file.svg"), "{error}");
}

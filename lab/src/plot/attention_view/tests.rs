use super::quantise::Grid;
use super::*;

/// A causal softmax-like pattern: some weight on the first token, some nearby, some anywhere.
fn made(time: usize, seed: usize) -> Pattern {
    let mut matrix = vec![0.0; time * time];
    for t in 0..time {
        let row = &mut matrix[t * time..][..t + 1];
        for (s, weight) in row.iter_mut().enumerate() {
            let noise = ((t * 7919 + s * 104_729 + seed * 31) % 1009) as f32 / 1009.0;
            *weight = 0.02 * noise.powi(3) + (-(((t - s) as f32) - seed as f32).abs() / 2.0).exp();
        }
        row[0] += 0.5;
        let sum: f32 = row.iter().sum();
        row.iter_mut().for_each(|weight| *weight /= sum);
    }
    Pattern { layer: 0, head: 0, name: "pattern".into(), time, matrix }
}

fn models(names: &[&str], layers: usize, heads: usize, time: usize) -> AttentionView {
    names.iter().enumerate().fold(AttentionView::new("view").causal(), |view, (m, name)| {
        let all = (0..layers * heads).map(|i| {
            let (layer, head) = (i / heads, i % heads);
            Pattern { layer, head, ..made(time, m + i) }
        });
        view.model(*name, all.collect())
    })
}

#[test]
fn the_file_and_the_view_open_with_the_same_heads_of_the_first_two_models() {
    let view = models(&["one", "two", "three"], 3, 2, 8);
    let (svg, html) = (view.svg().unwrap(), view.html().unwrap());
    assert!(svg.contains("layer 2, head 0") && svg.contains(">one</text>") && svg.contains(">two</text>"), "{svg}");
    assert!(!svg.contains(">three</text>"));
    assert!(html.contains("\"layer\":2") && html.contains("\"head\":0"));
    assert!(view.at(1, 1).svg().unwrap().contains("layer 1, head 1"));
}

#[test]
fn the_file_opens_with_the_models_that_have_the_head_however_late_they_come() {
    let deep = || vec![Pattern { layer: 2, ..made(4, 0) }];
    let view = models(&["one", "two"], 1, 1, 4).model("three", deep());
    let opened = |view: &AttentionView| {
        let svg = view.svg().unwrap();
        let shown = |name: &&str| svg.contains(&format!(">{name}</text>"));
        ["one", "two", "three", "four", "five"].into_iter().filter(shown).collect::<Vec<_>>()
    };
    assert_eq!(opened(&view), ["three"]);
    assert_eq!(opened(&view.clone().at(2, 0)), ["three"]);
    assert_eq!(opened(&view.model("four", deep()).model("five", deep())), ["three", "four"]);
}

#[test]
fn two_models_at_a_usual_size_take_less_than_200_kb_and_need_nothing_else() {
    let view = models(&["one", "two"], 4, 4, 64).tokens((0..64).map(|i| format!("t{i}")));
    let html = view.html().unwrap();
    assert!(html.len() < 200_000, "{}", html.len());
    assert!(["src=", "href=", "import ", "fetch(", "XMLHttpRequest", "url("].iter().all(|way| !html.contains(way)));
}

#[test]
fn tokens_and_names_cannot_leave_the_data() {
    let evil = "</script><img src=x onerror=alert(1)>";
    let view = models(&[evil], 1, 1, 2).tokens([evil, "'\"`\u{2028}"]).note(evil);
    let view = AttentionView { captions: Captions { title: evil.into(), ..view.captions.clone() }, ..view };
    let html = view.html().unwrap();
    assert_eq!(html.matches("</script>").count(), 1, "its own end and no other");
    assert!(!html.contains("<img"), "{html}");
    assert!(!view.svg().unwrap().contains("<img"));
}

#[test]
fn a_weight_keeps_two_digits_down_to_a_thousandth_of_the_greatest() {
    let pattern = made(64, 3);
    let (levels, most) = Grid::new(64, true, 1).levels(&pattern, false);
    let mut cells = levels.iter();
    for t in 0..64 {
        for (s, weight) in pattern.row(t)[..=t].iter().enumerate() {
            let share = (f32::from(*cells.next().unwrap()) - 1.0) / 254.0;
            let error = (most * share * share - weight).abs();
            assert!(error <= 0.0041 * (weight * most).sqrt() + 4e-6 * most, "{t} {s}: {weight}, {error}");
        }
    }
    let signed = Pattern { time: 2, matrix: vec![-0.5, 9.0, 0.25, f32::NAN], ..pattern };
    assert_eq!(Grid::new(2, false, 1).levels(&signed, true), (vec![98, 255, 149, 0], 9.0));
    assert_eq!(Grid::new(2, true, 1).levels(&signed, true), (vec![1, 218, 0], 0.5));
}

#[test]
fn a_pattern_too_large_for_a_page_keeps_the_greatest_of_each_block() {
    let grid = Grid::new(4096, true, 1);
    assert_eq!((grid.block, grid.side()), (2, 2048));
    assert_eq!(Grid::new(4096, false, 4).block, 8);
    let pattern = Pattern { time: 4, matrix: (0..16).map(|i| i as f32).collect(), ..made(4, 0) };
    let half = |causal| Grid { time: 4, block: 2, causal };
    let weights = |causal| {
        let (levels, most) = half(causal).levels(&pattern, false);
        levels.iter().map(|l| (most * ((f32::from(*l) - 1.0) / 254.0).powi(2)).round()).collect::<Vec<_>>()
    };
    assert_eq!(weights(false), [5.0, 7.0, 13.0, 15.0]);
    assert_eq!(weights(true), [5.0, 13.0, 15.0], "the future of a block on the diagonal does not count");
}

#[test]
fn what_does_not_fit_together_is_named() {
    let error = |view: AttentionView| view.html().unwrap_err().to_string();
    assert!(error(AttentionView::new("v")).contains("list of patterns"));
    let two = models(&["one"], 1, 1, 4).model("two", vec![made(5, 0)]);
    assert!(error(two).contains("\"two\" has 25 weights for 5 tokens"));
    assert!(error(models(&["one"], 1, 1, 4).pattern("one", 0, 1, [[1.0, 2.0]])).contains("2 weights for 1 tokens"));
    assert!(error(models(&["one"], 1, 2, 4).at(3, 0)).contains("[(0, 0), (0, 1)]"));
    assert!(error(models(&["one"], 1, 1, 4).tokens(["a"])).contains("length 1, expected 4"));
}

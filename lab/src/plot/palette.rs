//! Colours that a colour-blind reader can tell apart, and the same variant in the same colour in
//! every figure. Colour is never alone: each style also has its dash pattern and marker.

use plotters::style::RGBColor;
use plotters::style::colors::colormaps::{ColorMap, DerivedColorMap, ViridisRGB};

/// The colours of Okabe and Ito, with grey in place of their yellow, which vanishes on white.
pub const PALETTE: [&str; 8] = ["#000000", "#D55E00", "#0072B2", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#777777"];

/// The variants of this project, each with its place in [`PALETTE`].
const KNOWN: [(&str, usize); 5] = [("baseline", 0), ("softmax", 0), ("gated", 1), ("differential", 2), ("hybrid", 3)];

/// Lengths of a dash and of the gap after it in pixels; none: a solid line.
pub(super) type Dash = Option<(f64, f64)>;

const DASHES: [Dash; 8] = [
    None,
    Some((7.0, 3.0)),
    Some((2.0, 2.5)),
    Some((12.0, 5.0)),
    Some((4.0, 2.0)),
    Some((9.0, 2.0)),
    Some((4.0, 4.0)),
    Some((18.0, 3.0)),
];
const MARKERS: usize = 6;

/// How one series looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Style {
    pub colour: RGBColor,
    pub dash: Dash,
    /// Index of the marker shape.
    pub marker: usize,
}

impl Style {
    fn new(place: usize) -> Self {
        let next = place + 3 * (place / 8);
        Self { colour: parse(PALETTE[place % 8]), dash: DASHES[next % 8], marker: next % MARKERS }
    }
}

/// A colour written `#rrggbb`.
fn parse(hex: &str) -> RGBColor {
    let part = |i: usize| hex.get(i..i + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok()).unwrap_or(0);
    RGBColor(part(1), part(3), part(5))
}

/// The colour of a variant, as `#rrggbb`: the same in every figure. Names outside `baseline`,
/// `gated`, `differential`, `hybrid` get one of the other four by a hash of the name.
pub fn color_of(name: &str) -> &'static str {
    PALETTE[place_of(name)]
}

fn place_of(name: &str) -> usize {
    let name = name.trim().to_lowercase();
    if let Some((_, place)) = KNOWN.iter().find(|(known, _)| *known == name) {
        return *place;
    }
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3) // FNV-1a
    });
    4 + (hash >> 32) as usize % 4
}

/// Styles for the series of one figure: known variants keep theirs, the others move on to the
/// next free place, so that no two of them look alike. If `ordered` (layers, sizes), the colours are
/// those of viridis without its brightest end, which is hard to see on white.
pub(super) fn styles<'a>(names: impl IntoIterator<Item = &'a str>, ordered: bool) -> Vec<Style> {
    let names: Vec<&str> = names.into_iter().collect();
    if ordered {
        let share = |i: usize| 0.85 * i as f64 / (names.len() - 1).max(1) as f64;
        let style = |i: usize| Style { colour: ViridisRGB.get_color(share(i)), ..Style::new(i) };
        return (0..names.len()).map(style).collect();
    }
    let mut places = vec![None; names.len()];
    let mut taken = Vec::new();
    // Known names first, whatever the order, so that no stranger takes their place.
    for known in [true, false] {
        for (i, name) in names.iter().enumerate() {
            let wish = place_of(name);
            if (wish < 4) != known {
                continue;
            }
            let others = (0..4).map(|k| 4 + (wish + k) % 4).chain(0..4);
            let place = std::iter::once(wish).chain(others).chain(8..).find(|p| !taken.contains(p)).unwrap_or(wish);
            taken.push(place);
            places[i] = Some(place);
        }
    }
    places.into_iter().map(|p| Style::new(p.unwrap_or(0))).collect()
}

/// What is not finite.
pub(super) const MISSING: RGBColor = RGBColor(0xb4, 0xb4, 0xb4);

/// Blue below, white at the middle, red above.
const BLUE_RED: [&str; 11] = [
    "#053061", "#2166ac", "#4393c3", "#92c5de", "#d1e5f0", "#f7f7f7", "#fddbc7", "#f4a582", "#d6604d", "#b2182b",
    "#67001f",
];

/// The steps of a colour map, `0..=last`: viridis (dark is little, bright is much, in print and
/// for every kind of colour vision), or one that diverges.
pub(super) fn colours(diverging: bool, last: usize) -> Vec<RGBColor> {
    let blue_red = DerivedColorMap::new(&BLUE_RED.map(parse));
    let share = |k: usize| k as f64 / last as f64;
    (0..=last).map(|k| if diverging { blue_red.get_color(share(k)) } else { ViridisRGB.get_color(share(k)) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_keeps_its_colour_whatever_is_drawn_beside_it() {
        let alone = styles(["gated"], false)[0];
        let beside = styles(["mine", "yours", "theirs", "ours", "another", "gated"], false)[5];
        assert_eq!(alone, beside);
        assert_eq!(alone.colour, parse(color_of("Gated")));
    }

    #[test]
    fn no_two_of_twenty_series_look_alike() {
        let names: Vec<String> = (0..20).map(|i| format!("layer {i}")).collect();
        let styles = styles(names.iter().map(String::as_str), false);
        for (i, a) in styles.iter().enumerate() {
            assert!(styles[i + 1..].iter().all(|b| a != b), "{i}: {a:?}");
        }
    }

    #[test]
    fn the_diverging_map_is_neutral_in_the_middle() {
        let map = colours(true, 10);
        assert_eq!(map[5], RGBColor(0xf7, 0xf7, 0xf7));
        assert!(map[1].2 > map[1].0 && map[9].0 > map[9].2);
    }
}

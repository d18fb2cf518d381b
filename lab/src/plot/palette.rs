//! Colours that a colour-blind reader can tell apart, and the same variant in the same colour in
//! every figure. Colour is never alone: each style also has its dash pattern and marker.

/// The colours of Okabe and Ito, with grey in place of their yellow, which vanishes on white.
pub const PALETTE: [&str; 8] = ["#000000", "#D55E00", "#0072B2", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#777777"];

/// The variants of this project, each with its place in [`PALETTE`].
const KNOWN: [(&str, usize); 5] = [("baseline", 0), ("softmax", 0), ("gated", 1), ("differential", 2), ("hybrid", 3)];

const DASHES: [&str; 8] = ["", "7 3", "2 2.5", "8 3 2 3", "12 3", "4 2", "10 3 2 3 2 3", "6 2 2 2"];

/// How one series looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Style {
    pub colour: &'static str,
    pub dash: &'static str,
    /// Index of the marker shape.
    pub marker: usize,
}

impl Style {
    fn new(place: usize) -> Self {
        let turn = place / 8;
        Self { colour: PALETTE[place % 8], dash: DASHES[(place + 3 * turn) % 8], marker: (place + 3 * turn) % 8 }
    }
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
/// next free place, so that no two of them look alike.
pub(super) fn styles<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<Style> {
    let names: Vec<&str> = names.into_iter().collect();
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

/// Styles by place in the list, for series coloured by [`ramp`].
pub(super) fn in_order(n: usize) -> Vec<Style> {
    (0..n).map(Style::new).collect()
}

/// A colour map from a share in `0..=1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ColourMap {
    /// Viridis: dark is little, bright is much, in print and for every kind of colour vision.
    Sequential,
    /// Blue below, white at the middle, red above.
    Diverging,
}

/// What is not finite.
pub(super) const MISSING: [u8; 3] = [0xb4, 0xb4, 0xb4];

const VIRIDIS: [u32; 10] =
    [0x440154, 0x482878, 0x3e4a89, 0x31688e, 0x26828e, 0x1f9e89, 0x35b779, 0x6dcd59, 0xb4de2c, 0xfde725];
const BLUE_RED: [u32; 11] =
    [0x053061, 0x2166ac, 0x4393c3, 0x92c5de, 0xd1e5f0, 0xf7f7f7, 0xfddbc7, 0xf4a582, 0xd6604d, 0xb2182b, 0x67001f];

impl ColourMap {
    pub fn at(self, share: f64) -> [u8; 3] {
        let stops: &[u32] = match self {
            Self::Sequential => &VIRIDIS,
            Self::Diverging => &BLUE_RED,
        };
        let position = share.clamp(0.0, 1.0) * (stops.len() - 1) as f64;
        let left = (position as usize).min(stops.len() - 2);
        let mix = position - left as f64;
        [16, 8, 0].map(|shift| {
            let [a, b] = [stops[left], stops[left + 1]].map(|c| f64::from(c >> shift & 0xff));
            (a + (b - a) * mix).round() as u8
        })
    }
}

pub(super) fn hex([r, g, b]: [u8; 3]) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// A colour for step `i` of `n` of an ordered series (layers, sizes): viridis without its
/// brightest end, which is hard to see on white.
pub(super) fn ramp(i: usize, n: usize) -> String {
    hex(ColourMap::Sequential.at(0.85 * i as f64 / n.saturating_sub(1).max(1) as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_keeps_its_colour_whatever_is_drawn_beside_it() {
        let alone = styles(["gated"])[0];
        let beside = styles(["mine", "yours", "theirs", "ours", "another", "gated"])[5];
        assert_eq!(alone, beside);
        assert_eq!(alone.colour, color_of("Gated"));
    }

    #[test]
    fn no_two_of_twenty_series_look_alike() {
        let names: Vec<String> = (0..20).map(|i| format!("layer {i}")).collect();
        let styles = styles(names.iter().map(String::as_str));
        for (i, a) in styles.iter().enumerate() {
            assert!(styles[i + 1..].iter().all(|b| a != b), "{i}: {a:?}");
        }
    }

    #[test]
    fn the_diverging_map_is_neutral_in_the_middle() {
        assert_eq!(ColourMap::Diverging.at(0.5), [0xf7; 3]);
        let [r, _, b] = ColourMap::Diverging.at(0.1);
        assert!(b > r);
        let [r, _, b] = ColourMap::Diverging.at(0.9);
        assert!(r > b);
    }
}

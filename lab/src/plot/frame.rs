//! Title, axes, grid, legend and notes around a data area. The data area has the size asked for;
//! the margins grow with the labels, so nothing is cut and nothing overlaps.

use super::canvas::{Anchor, Drawing, GRID, INK, Set, Stroke};
use super::scale::{Scale, Tick};
use super::text;

pub(super) const TITLE: f64 = 14.0;
pub(super) const LABEL: f64 = 12.0;
pub(super) const SMALL: f64 = 11.0;
const KEY: f64 = 30.0; // length of a line sample in the legend
const ROW: f64 = 18.0; // height of a legend row

/// One axis, ready to be drawn.
#[derive(Default)]
pub(super) struct Side {
    pub label: String,
    pub ticks: Vec<Tick>,
    pub minor: Vec<f64>,
    /// Labels turned because they are too long to stand side by side.
    pub turned: bool,
    pub grid: bool,
}

impl Side {
    /// An axis along the bottom, `length` pixels long: as many ticks as stand there side by side.
    pub fn bottom(scale: &Scale, length: f64, label: String) -> Self {
        let most = (length / 60.0).floor().clamp(2.0, 9.0) as usize;
        let fits = |(ticks, _): &(Vec<Tick>, Vec<f64>)| {
            ticks.windows(2).all(|pair| {
                let room = (pair[1].0 - pair[0].0).abs() * length;
                let half = |tick: &Tick| text::width(&tick.1, SMALL) / 2.0;
                half(&pair[0]) + half(&pair[1]) + 8.0 <= room
            })
        };
        let tries = (2..=most).rev().map(|n| scale.ticks(n));
        let (ticks, minor) = tries.clone().find(fits).or(tries.clone().next_back()).unwrap_or_default();
        Self { label, ticks, minor, turned: false, grid: true }
    }

    /// An axis along the left, `length` pixels long.
    pub fn left(scale: &Scale, length: f64, label: String) -> Self {
        let (ticks, minor) = scale.ticks((length / 45.0).floor().clamp(2.0, 8.0) as usize);
        Self { label, ticks, minor, turned: false, grid: true }
    }
}

/// One row of the legend.
pub(super) struct Key {
    pub name: String,
    pub colour: String,
    pub dash: &'static str,
    pub marker: Option<usize>,
    /// A filled patch in place of a line.
    pub patch: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Legend {
    #[default]
    Right,
    Below,
}

pub(super) struct Frame<'a> {
    pub title: &'a str,
    pub area: (f64, f64),
    pub x: Side,
    pub y: Side,
    pub keys: Vec<Key>,
    pub legend: Legend,
    pub notes: &'a [String],
}

impl Frame<'_> {
    /// Draws everything but the data; returns the box for the data as `[x, y, width, height]`.
    pub fn open(self) -> (Drawing, [f64; 4]) {
        let (w, h) = self.area;
        let widest = |ticks: &[Tick]| ticks.iter().map(|t| text::width(&t.1, SMALL)).fold(0.0, f64::max);
        let y_label = text::wrap(&self.y.label, LABEL, h.max(160.0));
        let mut left = 12.0 + y_label.len() as f64 * 16.0 + widest(&self.y.ticks) + 8.0;
        let mut overhang = 0f64;
        for (at, label) in &self.x.ticks {
            let width = text::width(label, SMALL);
            if self.x.turned {
                left = left.max(width * TURN.cos() - at * w + 12.0);
            } else {
                overhang = overhang.max(at * w + width / 2.0 - w);
            }
        }
        let keys_width = self.keys.iter().map(key_width).fold(0.0, f64::max);
        let right_legend = self.legend == Legend::Right && !self.keys.is_empty();
        let right = if right_legend { keys_width + 26.0 } else { overhang.max(4.0) + 12.0 };
        let width = left + w + right;

        let title = text::wrap(self.title, TITLE * 1.13, width - 24.0);
        let top = 14.0 + title.len() as f64 * 19.0;
        let tick_depth = match (self.x.ticks.is_empty(), self.x.turned) {
            (true, _) => 4.0,
            (_, false) => 22.0,
            (_, true) => widest(&self.x.ticks) * TURN.sin() + 22.0,
        };
        let x_label = text::wrap(&self.x.label, LABEL, w.max(160.0));
        let below_ticks = top + h + tick_depth;
        let below_label = below_ticks + x_label.len() as f64 * 16.0;
        let rows = match self.legend {
            Legend::Below => rows(&self.keys, width - 24.0),
            Legend::Right => Vec::new(),
        };
        let below_keys = below_label + if rows.is_empty() { 0.0 } else { rows.len() as f64 * ROW + 8.0 };
        let notes = wrapped_notes(self.notes, width - 24.0);
        let right_keys = if right_legend { top + self.keys.len() as f64 * ROW } else { 0.0 };
        let bottom = below_keys.max(right_keys) + notes.len() as f64 * 15.0 + 10.0;

        let mut d = Drawing::new(width, bottom);
        headline(&mut d, &title, left + w / 2.0);
        self.axes(&mut d, [left, top, w, h]);
        for (i, line) in y_label.iter().enumerate() {
            let at = (16.0 + i as f64 * 16.0, top + h / 2.0);
            d.text(at, line, Set::new(LABEL, Anchor::Middle).rotate(-90.0));
        }
        for (i, line) in x_label.iter().enumerate() {
            let at = (left + w / 2.0, below_ticks + 8.0 + i as f64 * 16.0);
            d.text(at, line, Set::new(LABEL, Anchor::Middle));
        }
        if right_legend {
            for (i, key) in self.keys.iter().enumerate() {
                draw_key(&mut d, key, left + w + 16.0, top + 9.0 + i as f64 * ROW);
            }
        }
        for (i, row) in rows.iter().enumerate() {
            let total: f64 = row.iter().map(|k| key_width(k) + 18.0).sum::<f64>() - 18.0;
            let mut x = (left + w / 2.0 - total / 2.0).min(width - 12.0 - total).max(12.0);
            for key in row {
                draw_key(&mut d, key, x, below_label + 15.0 + i as f64 * ROW);
                x += key_width(key) + 18.0;
            }
        }
        draw_notes(&mut d, &notes);
        (d, [left, top, w, h])
    }

    fn axes(&self, d: &mut Drawing, [left, top, w, h]: [f64; 4]) {
        let base = top + h;
        let inside = |at: &f64| (-1e-9..=1.0 + 1e-9).contains(at);
        let thin = Stroke(GRID, 1.0, "");
        let ink = Stroke(INK, 1.0, "");
        for (at, label) in self.x.ticks.iter().filter(|t| inside(&t.0)) {
            let x = left + at * w;
            if self.x.grid {
                d.line((x, top), (x, base), thin);
                d.line((x, base), (x, base + 5.0), ink);
            }
            if self.x.turned {
                let set = Set::new(SMALL, Anchor::End).rotate(-TURN.to_degrees());
                d.text((x + 4.0, base + 10.0), label, set);
            } else {
                d.text((x, base + 13.0), label, Set::new(SMALL, Anchor::Middle));
            }
        }
        for (at, label) in self.y.ticks.iter().filter(|t| inside(&t.0)) {
            let y = base - at * h;
            if self.y.grid {
                d.line((left, y), (left + w, y), thin);
            }
            d.line((left - 5.0, y), (left, y), ink);
            d.text((left - 8.0, y), label, Set::new(SMALL, Anchor::End));
        }
        for at in self.x.minor.iter().filter(|at| inside(at)) {
            d.line((left + at * w, base), (left + at * w, base + 3.0), ink);
        }
        for at in self.y.minor.iter().filter(|at| inside(at)) {
            d.line((left - 3.0, base - at * h), (left, base - at * h), ink);
        }
        d.path(&[(left, top), (left, base), (left + w, base)], ink);
    }
}

/// The slope of turned labels, in radians.
const TURN: f64 = std::f64::consts::PI * 0.19;

/// The title's lines, centred at `middle` where there is room, and inside the figure anyway.
pub(super) fn headline(d: &mut Drawing, lines: &[String], middle: f64) {
    for (i, line) in lines.iter().enumerate() {
        let half = text::width(line, TITLE * 1.13) / 2.0;
        let middle = middle.min(d.width - 8.0 - half).max(8.0 + half);
        let at = (middle, 17.0 + i as f64 * 19.0);
        d.text(at, line, Set::new(TITLE, Anchor::Middle).bold());
    }
}

pub(super) fn wrapped_notes(notes: &[String], room: f64) -> Vec<String> {
    notes.iter().flat_map(|note| text::wrap(note, SMALL, room)).collect()
}

/// Small print along the lower edge.
pub(super) fn draw_notes(d: &mut Drawing, lines: &[String]) {
    for (i, line) in lines.iter().rev().enumerate() {
        let at = (12.0, d.height - 12.0 - i as f64 * 15.0);
        d.text(at, line, Set::new(SMALL, Anchor::Start).faint());
    }
}

fn key_width(key: &Key) -> f64 {
    let sample = if key.patch { 20.0 } else { KEY + 6.0 };
    sample + text::width(&key_name(key), LABEL)
}

fn key_name(key: &Key) -> String {
    text::shorten(&text::plain(&key.name), 48)
}

fn draw_key(d: &mut Drawing, key: &Key, x: f64, y: f64) {
    let after = if key.patch {
        d.rect([x, y - 6.0, 14.0, 12.0], &key.colour);
        20.0
    } else {
        d.line((x, y), (x + KEY, y), Stroke(&key.colour, 2.0, key.dash));
        if let Some(shape) = key.marker {
            marker(d, (x + KEY / 2.0, y), shape, &key.colour);
        }
        KEY + 6.0
    };
    d.text((x + after, y), &key_name(key), Set::new(LABEL, Anchor::Start));
}

fn rows(keys: &[Key], room: f64) -> Vec<Vec<&Key>> {
    let mut rows: Vec<Vec<&Key>> = Vec::new();
    let mut used = f64::INFINITY;
    for key in keys {
        let width = key_width(key);
        match rows.last_mut() {
            Some(row) if used + 18.0 + width <= room => {
                used += 18.0 + width;
                row.push(key);
            }
            _ => {
                used = width;
                rows.push(vec![key]);
            }
        }
    }
    rows
}

/// One of eight marker shapes around a point.
pub(super) fn marker(d: &mut Drawing, (x, y): (f64, f64), shape: usize, colour: &str) {
    let corners: &[(f64, f64)] = match shape % 8 {
        1 => &[(-3.4, -3.4), (3.4, -3.4), (3.4, 3.4), (-3.4, 3.4)],
        2 => &[(0.0, -4.6), (4.4, 3.4), (-4.4, 3.4)],
        3 => &[(0.0, -5.0), (4.4, 0.0), (0.0, 5.0), (-4.4, 0.0)],
        4 => &[(0.0, 4.6), (4.4, -3.4), (-4.4, -3.4)],
        5 => &[
            (-1.5, -4.5),
            (1.5, -4.5),
            (1.5, -1.5),
            (4.5, -1.5),
            (4.5, 1.5),
            (1.5, 1.5),
            (1.5, 4.5),
            (-1.5, 4.5),
            (-1.5, 1.5),
            (-4.5, 1.5),
            (-4.5, -1.5),
            (-1.5, -1.5),
        ],
        6 => &[(-4.4, 0.0), (3.4, -4.4), (3.4, 4.4)],
        7 => &[(4.4, 0.0), (-3.4, -4.4), (-3.4, 4.4)],
        _ => return d.circle((x, y), 4.2, colour),
    };
    let corners: Vec<_> = corners.iter().map(|(dx, dy)| (x + dx, y + dy)).collect();
    d.shape(&corners, colour, 1.0);
}

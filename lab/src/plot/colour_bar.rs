//! The key to the colours of a heat map.

use super::canvas::{Anchor, Drawing, INK, Set, Stroke};
use super::frame::{LABEL, SMALL};
use super::matrix::Tint;
use super::palette::{MISSING, hex};
use super::scale::{Kind, Scale};
use super::text;

/// The colour bar: its width, and how to draw it.
pub(super) struct ColourBar {
    tint: Tint,
    label: Vec<String>,
    height: f64,
    missing: bool,
}

impl ColourBar {
    pub fn new(tint: Tint, label: &str, height: f64, missing: bool) -> Self {
        let label = text::wrap(label, LABEL, height.max(110.0));
        Self { tint, label, height, missing }
    }

    fn scale(&self) -> Scale {
        Scale { kind: Kind::Linear, lo: self.tint.lo, hi: self.tint.hi, whole: false }
    }

    fn ticks(&self) -> Vec<(f64, String)> {
        self.scale().ticks((self.height / 36.0).clamp(2.0, 6.0) as usize).0
    }

    pub fn width(&self) -> f64 {
        let widest = self.ticks().iter().map(|t| text::width(&t.1, SMALL)).fold(0.0, f64::max);
        let bar = 14.0 + 8.0 + widest + 4.0 + self.label.len() as f64 * 16.0;
        if self.missing { bar.max(20.0 + text::width(MISSING_NAME, SMALL)) } else { bar }
    }

    /// Height with the key for what is not finite.
    pub fn total_height(&self) -> f64 {
        self.height + if self.missing { 26.0 } else { 0.0 }
    }

    pub fn draw(&self, d: &mut Drawing, x: f64, y: f64) {
        const STEPS: usize = 64;
        for k in 0..STEPS {
            // Each step reaches down to the end, so that no seam shows between two of them.
            let top = self.height * k as f64 / STEPS as f64;
            let colour = hex(self.tint.map.at(1.0 - (k as f64 + 0.5) / STEPS as f64));
            d.rect([x, y + top, 14.0, self.height - top], &colour);
        }
        d.outline([x, y, 14.0, self.height], "#888888");
        let ticks = self.ticks();
        let mut widest = 0f64;
        for (at, label) in &ticks {
            let ty = y + self.height * (1.0 - at);
            d.line((x + 14.0, ty), (x + 18.0, ty), Stroke(INK, 1.0, ""));
            d.text((x + 21.0, ty), label, Set::new(SMALL, Anchor::Start));
            widest = widest.max(text::width(label, SMALL));
        }
        for (i, line) in self.label.iter().enumerate() {
            let at = (x + 21.0 + widest + 13.0 + i as f64 * 16.0, y + self.height / 2.0);
            d.text(at, line, Set::new(LABEL, Anchor::Middle).rotate(-90.0));
        }
        if self.missing {
            let ky = y + self.height + 12.0;
            d.rect([x, ky, 14.0, 12.0], &hex(MISSING));
            d.text((x + 20.0, ky + 6.0), MISSING_NAME, Set::new(SMALL, Anchor::Start));
        }
    }
}

const MISSING_NAME: &str = "not finite";

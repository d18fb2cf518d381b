//! The key to the colours of a heat map.

use super::axis::{Axis, Scale};
use super::backend::Svg;
use super::ink::{BORDER, INK, LABEL, SMALL, at, font, stroke, units, write_lines};
use super::palette::MISSING;
use super::tint::Tint;
use super::{PlotError, text};
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

const WIDE: f64 = 14.0;
const MISSING_NAME: &str = "not finite";

/// The colour bar of a tint, `height` pixels high.
pub(super) struct ColourBar<'a> {
    tint: &'a Tint,
    axis: Axis,
    label: Vec<String>,
    height: f64,
    /// Whether a key for what is not finite stands below.
    missing: bool,
}

impl<'a> ColourBar<'a> {
    pub fn new(tint: &'a Tint, label: &str, height: f64, missing: bool) -> Self {
        let label = text::wrap(label, LABEL, height.max(110.0));
        Self { tint, axis: Axis::side(Scale::Linear, (tint.lo, tint.hi), height, false), label, height, missing }
    }

    pub fn width(&self) -> f64 {
        let bar = WIDE + 8.0 + self.axis.widest() + 4.0 + self.label.len() as f64 * 16.0;
        if self.missing { bar.max(WIDE + 6.0 + text::width(MISSING_NAME, SMALL)) } else { bar }
    }

    /// Height with the key for what is not finite.
    pub fn total_height(&self) -> f64 {
        self.height + if self.missing { 26.0 } else { 0.0 }
    }

    /// Draws the bar with its upper left corner at `(x, y)`.
    pub fn draw(&self, svg: &Svg, (x, y): (f64, f64)) -> Result<(), PlotError> {
        let root = svg.area();
        let labels = 10.0 + self.axis.widest();
        let area = root.clone().shrink(at(x, y), at(WIDE + labels, self.height));
        let mut bar = ChartBuilder::on(&area)
            .right_y_label_area_size(units(labels))
            .build_cartesian_2d(0.0..1.0, self.axis.clone())?;
        // The greatest value is at the top.
        let steps: Vec<u8> = self.tint.colours.iter().rev().flat_map(|RGBColor(r, g, b)| [*r, *g, *b]).collect();
        let ((left, top), (width, height)) = (at(x, y), at(WIDE, self.height));
        svg.image([left, top, width, height], (1, self.tint.colours.len() as u32), &steps)?;
        bar.configure_mesh()
            .disable_mesh()
            .axis_style(stroke(BORDER, 1.0))
            .set_tick_mark_size(LabelAreaPosition::Right, units(4.0))
            .y_label_style(font(SMALL, INK, HPos::Left))
            .draw()?;
        root.draw(&Rectangle::new([at(x, y), at(x + WIDE, y + self.height)], stroke(BORDER, 1.0)))?;
        let style = font(LABEL, INK, HPos::Center).transform(FontTransform::Rotate270);
        let place = (x + WIDE + labels + 10.0, y + self.height / 2.0);
        write_lines(&root, &self.label, &style, place, (16.0, 0.0))?;
        if self.missing {
            let y = y + self.height + 12.0;
            root.draw(&Rectangle::new([at(x, y), at(x + WIDE, y + 12.0)], MISSING.filled()))?;
            let style = font(SMALL, INK, HPos::Left);
            root.draw_text(MISSING_NAME, &style, at(x + WIDE + 6.0, y + 6.0))?;
        }
        Ok(())
    }
}

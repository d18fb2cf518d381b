//! Pixels, fonts and strokes in the units of the backend.

use super::PlotError;
use super::backend::{EM, FINE, Svg};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Size of the font of a title in pixels.
pub(super) const TITLE: f64 = 14.0;
/// Size of the font of axis labels and of the legend.
pub(super) const LABEL: f64 = 12.0;
/// Size of the font of tick labels and of small print.
pub(super) const SMALL: f64 = 11.0;
pub(super) const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
pub(super) const FAINT: RGBColor = RGBColor(0x66, 0x66, 0x66);
pub(super) const BORDER: RGBColor = RGBColor(0x88, 0x88, 0x88);

pub(super) type Area = DrawingArea<Svg, Shift>;

/// Pixels in the units of the backend.
pub(super) fn units(pixels: f64) -> i32 {
    (pixels * FINE).round() as i32
}

pub(super) fn at(x: f64, y: f64) -> (i32, i32) {
    (units(x), units(y))
}

/// A line of `width` pixels.
pub(super) fn stroke(colour: impl Color, width: f64) -> ShapeStyle {
    ShapeStyle { color: colour.to_rgba(), filled: false, stroke_width: units(width) as u32 }
}

/// A font of `size` pixels, its vertical middle at the given place.
pub(super) fn font(size: f64, colour: RGBColor, across: HPos) -> TextStyle<'static> {
    ("sans-serif", size * EM * FINE).into_font().color(&colour).pos(Pos::new(across, VPos::Center))
}

/// Writes the lines of a text, from one to the next by a step of `(x, y)` pixels.
pub(super) fn write_lines(
    area: &Area,
    lines: &[String],
    style: &TextStyle,
    (x, y): (f64, f64),
    step: (f64, f64),
) -> Result<(), PlotError> {
    for (i, line) in lines.iter().enumerate() {
        area.draw_text(line, style, at(x + i as f64 * step.0, y + i as f64 * step.1))?;
    }
    Ok(())
}

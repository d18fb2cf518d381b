//! The legend: what each colour, dash and marker stands for.

use super::PlotError;
use super::backend::Svg;
use super::ink::{Area, INK, LABEL, at, font, stroke, units};
use super::palette::{Dash, Style};
use super::text;
use plotters::element::{DashedPathElement, DynElement, IntoDynElement};
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

const SAMPLE: f64 = 40.0; // length of a line sample
/// Height of a row in pixels.
pub(super) const ROW: f64 = 18.0;

/// How a series is shown in the legend.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Sample {
    Line,
    MarkedLine,
    Patch,
}

/// One entry of the legend.
pub(super) struct Key {
    name: String,
    style: Style,
    sample: Sample,
}

impl Key {
    pub fn new(name: &str, style: Style, sample: Sample) -> Self {
        Self { name: text::shorten(&text::plain(name), 48), style, sample }
    }

    fn sample_width(&self) -> f64 {
        if self.sample == Sample::Patch { 20.0 } else { SAMPLE + 6.0 }
    }

    pub fn width(&self) -> f64 {
        self.sample_width() + text::width(&self.name, LABEL)
    }

    /// Draws the key with the middle of its left end at `(x, y)`.
    pub fn draw(&self, root: &Area, (x, y): (f64, f64)) -> Result<(), PlotError> {
        let Style { colour, dash, marker: shape } = self.style;
        if self.sample == Sample::Patch {
            root.draw(&Rectangle::new([at(x, y - 6.0), at(x + 14.0, y + 6.0)], colour.filled()))?;
        } else {
            root.draw(&line(vec![at(x, y), at(x + SAMPLE, y)], stroke(colour, 2.0), dash))?;
        }
        if self.sample == Sample::MarkedLine {
            root.draw(&marker(at(x + SAMPLE / 2.0, y), shape, colour))?;
        }
        let place = at(x + self.sample_width(), y);
        root.draw_text(&self.name, &font(LABEL, INK, HPos::Left), place)?;
        Ok(())
    }
}

/// A line, dashed or not.
pub(super) fn line<C: Clone + 'static>(points: Vec<C>, style: ShapeStyle, dash: Dash) -> DynElement<'static, Svg, C> {
    match dash {
        None => PathElement::new(points, style).into_dyn(),
        Some((ink, gap)) => DashedPathElement::new(points, units(ink), units(gap), style).into_dyn(),
    }
}

/// One of six marker shapes around a point.
pub(super) fn marker<C: Clone + 'static>(point: C, shape: usize, colour: RGBColor) -> DynElement<'static, Svg, C> {
    let corners: &[(f64, f64)] = match shape {
        1 => &[(-3.4, -3.4), (3.4, -3.4), (3.4, 3.4), (-3.4, 3.4)],
        2 => &[(0.0, -4.6), (4.4, 3.4), (-4.4, 3.4)],
        3 => &[(0.0, -5.0), (4.4, 0.0), (0.0, 5.0), (-4.4, 0.0)],
        4 => &[(0.0, 4.6), (4.4, -3.4), (-4.4, -3.4)],
        5 => &[(-4.6, 0.0), (3.4, -4.4), (3.4, 4.4)],
        _ => {
            let circle = Circle::new((0, 0), units(3.8), colour.filled());
            return (EmptyElement::at(point) + circle).into_dyn();
        }
    };
    let corners: Vec<_> = corners.iter().map(|(x, y)| at(*x, *y)).collect();
    (EmptyElement::at(point) + Polygon::new(corners, colour.filled())).into_dyn()
}

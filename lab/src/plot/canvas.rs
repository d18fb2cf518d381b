//! The one place that writes SVG. Coordinates are pixels, y grows downwards.
//!
//! Own code instead of the SVG backend of `plotters`, which has integer coordinates (curves get
//! steps), no dashes, no clipping, no embedded images and only quarter-turn text. No element here
//! has an `id`: several figures may share one HTML page.

use super::text;
use std::fmt::Write;

pub(super) const FONT: &str = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif";
pub(super) const INK: &str = "#222222";
pub(super) const FAINT: &str = "#666666";
pub(super) const GRID: &str = "#e4e4e4";

/// A finished picture: its size in pixels and its SVG elements.
#[derive(Clone, Debug)]
pub struct Drawing {
    pub(super) width: f64,
    pub(super) height: f64,
    body: String,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// How a text is set. `rotate` is in degrees, clockwise, around the anchor point.
#[derive(Clone, Copy)]
pub(super) struct Set {
    pub size: f64,
    pub anchor: Anchor,
    pub rotate: f64,
    pub bold: bool,
    pub fill: &'static str,
}

impl Set {
    pub const fn new(size: f64, anchor: Anchor) -> Self {
        Self { size, anchor, rotate: 0.0, bold: false, fill: INK }
    }

    pub const fn rotate(self, rotate: f64) -> Self {
        Self { rotate, ..self }
    }

    pub const fn bold(self) -> Self {
        Self { bold: true, ..self }
    }

    pub const fn faint(self) -> Self {
        Self { fill: FAINT, ..self }
    }
}

/// A stroke: colour, width, and dash pattern (empty: solid).
#[derive(Clone, Copy)]
pub(super) struct Stroke<'a>(pub &'a str, pub f64, pub &'a str);

impl Drawing {
    pub(super) fn new(width: f64, height: f64) -> Self {
        Self { width: width.ceil(), height: height.ceil(), body: String::new() }
    }

    /// The whole SVG document, on white.
    pub(super) fn document(&self) -> String {
        let (w, h) = (num(self.width), num(self.height));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" \
             viewBox=\"0 0 {w} {h}\" font-family=\"{FONT}\">\n\
             <rect width=\"{w}\" height=\"{h}\" fill=\"#ffffff\"/>\n{}</svg>\n",
            self.body
        )
    }

    pub(super) fn rect(&mut self, [x, y, w, h]: [f64; 4], fill: &str) {
        let [x, y, w, h] = [x, y, w, h].map(num);
        let _ = writeln!(self.body, "<rect x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" fill=\"{fill}\"/>");
    }

    pub(super) fn outline(&mut self, [x, y, w, h]: [f64; 4], colour: &str) {
        let [x, y, w, h] = [x, y, w, h].map(num);
        let _ = writeln!(
            self.body,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" fill=\"none\" stroke=\"{colour}\"/>"
        );
    }

    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), stroke: Stroke) {
        self.path(&[from, to], stroke);
    }

    /// An open line through `points`; nothing for fewer than two.
    pub(super) fn path(&mut self, points: &[(f64, f64)], Stroke(colour, width, dash): Stroke) {
        if points.len() < 2 {
            return;
        }
        let dash = match dash {
            "" => String::new(),
            dash => format!(" stroke-dasharray=\"{dash}\""),
        };
        let _ = writeln!(
            self.body,
            "<path d=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{}\" \
             stroke-linejoin=\"round\"{dash}/>",
            through(points),
            num(width)
        );
    }

    /// A closed, filled shape.
    pub(super) fn shape(&mut self, points: &[(f64, f64)], fill: &str, opacity: f64) {
        if points.len() < 2 {
            return;
        }
        let opacity = match opacity {
            1.0 => String::new(),
            opacity => format!(" fill-opacity=\"{}\"", num(opacity)),
        };
        let d = through(points);
        let _ = writeln!(self.body, "<path d=\"{d}Z\" fill=\"{fill}\"{opacity}/>");
    }

    pub(super) fn circle(&mut self, (x, y): (f64, f64), radius: f64, fill: &str) {
        let [x, y, r] = [x, y, radius].map(num);
        let _ = writeln!(
            self.body,
            "<circle cx=\"{x}\" cy=\"{y}\" r=\"{r}\" fill=\"{fill}\" stroke=\"#ffffff\" stroke-width=\"0.8\"/>"
        );
    }

    /// A text whose vertical middle is at `y`.
    pub(super) fn text(&mut self, (x, y): (f64, f64), content: &str, set: Set) {
        if content.is_empty() {
            return;
        }
        let anchor = match set.anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let [x, y, size, drop] = [x, y, set.size, set.size * 0.35].map(num);
        let turn = match set.rotate {
            0.0 => String::new(),
            angle => format!(" transform=\"rotate({} {x} {y})\"", num(angle)),
        };
        let weight = if set.bold { " font-weight=\"bold\"" } else { "" };
        let _ = writeln!(
            self.body,
            "<text x=\"{x}\" y=\"{y}\" dy=\"{drop}\" font-size=\"{size}\" fill=\"{}\" \
             text-anchor=\"{anchor}\"{weight}{turn}>{}</text>",
            set.fill,
            text::escape(content)
        );
    }

    /// A PNG stretched over the box; `crisp` keeps its pixels square when enlarged.
    pub(super) fn image(&mut self, [x, y, w, h]: [f64; 4], png: &[u8], crisp: bool) {
        let [x, y, w, h] = [x, y, w, h].map(num);
        let rendering =
            if crisp { " image-rendering=\"optimizeSpeed\" style=\"image-rendering:pixelated\"" } else { "" };
        let _ = writeln!(
            self.body,
            "<image x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" \
             preserveAspectRatio=\"none\"{rendering} href=\"data:image/png;base64,{}\"/>",
            super::png::base64(png)
        );
    }

    /// What `draw` draws, with the origin moved to the box and cut off at its border.
    pub(super) fn clipped(&mut self, [x, y, w, h]: [f64; 4], draw: impl FnOnce(&mut Self)) {
        let mut inner = Self::new(w, h);
        draw(&mut inner);
        let [x, y, w, h] = [x, y, w, h].map(num);
        let _ = writeln!(
            self.body,
            "<svg x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" overflow=\"hidden\">\n{}</svg>",
            inner.body
        );
    }

    /// Boxes of one size and colour, given by their upper left corners, without soft edges:
    /// neighbours show no seam.
    pub(super) fn cells(&mut self, corners: &[(f64, f64)], (w, h): (f64, f64), fill: &str) {
        let (w, h) = (num(w), num(h));
        let mut d = String::with_capacity(corners.len() * 20);
        for &(x, y) in corners {
            let _ = write!(d, "M{} {}h{w}v{h}h-{w}z", num(x), num(y));
        }
        let _ = writeln!(self.body, "<path d=\"{d}\" fill=\"{fill}\" shape-rendering=\"crispEdges\"/>");
    }

    /// Another drawing placed at `(x, y)`.
    pub(super) fn place(&mut self, (x, y): (f64, f64), other: &Drawing) {
        let _ = writeln!(self.body, "<g transform=\"translate({} {})\">\n{}</g>", num(x), num(y), other.body);
    }

    /// SVG elements made elsewhere, taken as they are.
    pub(super) fn raw(&mut self, svg: &str) {
        self.body.push_str(svg);
        self.body.push('\n');
    }
}

fn through(points: &[(f64, f64)]) -> String {
    let mut d = String::with_capacity(points.len() * 12);
    for (i, &(x, y)) in points.iter().enumerate() {
        let _ = write!(d, "{}{} {}", if i == 0 { 'M' } else { 'L' }, num(x), num(y));
    }
    d
}

/// A coordinate with at most two decimals and no trailing zeros.
pub(super) fn num(value: f64) -> String {
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinates_are_short() {
        assert_eq!(num(0.250_000_01), "0.25");
        assert_eq!(num(-0.001), "0");
        assert_eq!(num(100.0), "100");
    }
}

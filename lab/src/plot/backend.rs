//! Where plotters draws to: an SVG document.
//!
//! The SVG backend of plotters has whole pixels for coordinates, so that curves get steps; it cuts
//! nothing at the border of the data and embeds no pictures. In this one a coordinate counts
//! fractions of a pixel. No element has an `id`: several figures may share one HTML page.

use super::{PlotError, text};
use base64::prelude::{BASE64_STANDARD, Engine};
use plotters::coord::Shift;
use plotters::coord::ranged1d::Ranged;
use plotters::drawing::DrawingAreaErrorKind;
use plotters::element::{Drawable, DynElement, PointCollection};
use plotters::prelude::{Cartesian2d, DrawingArea, DrawingBackend, FontTransform, IntoDrawingArea};
use plotters::style::text_anchor::{HPos, VPos};
use plotters::style::{FontFamily, FontStyle};
use plotters_backend::{BackendColor, BackendCoord, BackendStyle, BackendTextStyle, DrawingErrorKind};
use std::cell::RefCell;
use std::fmt::Write;
use std::rc::Rc;

const FONT: &str = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif";

/// What plotters calls a size of font is larger than the font's em by this.
pub(super) const EM: f64 = 1.24;

/// Units of a pixel in the figures of this module.
pub(super) const FINE: f64 = 10.0;

/// A finished picture: its size in pixels and its SVG elements.
#[derive(Clone, Debug)]
pub struct Drawing {
    pub(super) width: u32,
    pub(super) height: u32,
    body: String,
}

impl Drawing {
    /// The whole SVG document, on white.
    pub(super) fn document(&self) -> String {
        let Self { width: w, height: h, body } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" \
             viewBox=\"0 0 {w} {h}\" font-family=\"{FONT}\">\n\
             <rect width=\"{w}\" height=\"{h}\" fill=\"#FFFFFF\"/>\n{body}</svg>\n"
        )
    }
}

/// The backend that figures and [`Sketch`](super::Sketch) draw on. Clones write to one document.
#[derive(Clone)]
pub struct Svg {
    pixels: (u32, u32),
    fine: f64,
    out: Rc<RefCell<Out>>,
}

/// The document so far, and a path that may still grow: `(attributes, shape)`. Dashes, grid lines
/// and the cells of a heat map come one by one, and those that look alike make one element.
#[derive(Default)]
struct Out {
    body: String,
    path: Option<(String, String)>,
}

impl Out {
    fn flush(&mut self) {
        if let Some((attributes, shape)) = self.path.take() {
            let _ = writeln!(self.body, "<path d=\"{shape}\"{attributes}/>");
        }
    }
}

impl Svg {
    /// An empty document whose coordinates count `1 / fine` pixels.
    pub(super) fn new(width: u32, height: u32, fine: f64) -> Self {
        Self { pixels: (width, height), fine, out: Rc::default() }
    }

    pub(super) fn area(&self) -> DrawingArea<Self, Shift> {
        self.clone().into_drawing_area()
    }

    pub(super) fn finish(&self) -> Drawing {
        let mut out = self.out.borrow_mut();
        out.flush();
        Drawing { width: self.pixels.0, height: self.pixels.1, body: out.body.clone() }
    }

    /// Draws elements with their points where they are, and cuts them at the border of the area.
    /// (`DrawingArea::draw` would move each point outside to the border and so bend the curve.)
    pub(super) fn clipped<X: Ranged<ValueType = f64>, Y: Ranged<ValueType = f64>>(
        &self,
        area: &DrawingArea<Self, Cartesian2d<X, Y>>,
        elements: impl IntoIterator<Item = DynElement<'static, Self, (f64, f64)>>,
    ) -> Result<(), PlotError> {
        let (x, y) = area.get_pixel_range();
        let [left, top, width, height] = [x.start, y.start, x.end - x.start, y.end - y.start].map(|v| self.px(v));
        self.element(&format!(
            "<svg x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"{left} {top} {width} {height}\" overflow=\"hidden\">"
        ));
        for element in elements {
            let points: Vec<_> = element.point_iter().iter().map(|point| area.map_coordinate(point)).collect();
            let drawn = element.draw(points.into_iter(), &mut self.clone(), self.get_size());
            drawn.map_err(DrawingAreaErrorKind::BackendError)?;
        }
        self.element("</svg>");
        Ok(())
    }

    /// An RGB picture stretched over a box; its pixels stay square where there are few.
    pub(super) fn image(
        &self,
        [x, y, w, h]: [i32; 4],
        (columns, rows): (u32, u32),
        rgb: &[u8],
    ) -> Result<(), PlotError> {
        let picture = png((columns, rows), rgb)?;
        let [x, y, w, h] = [x, y, w, h].map(|v| self.px(v));
        let rendering = match w >= f64::from(columns) {
            true => " image-rendering=\"optimizeSpeed\" style=\"image-rendering:pixelated\"",
            false => "",
        };
        self.element(&format!(
            "<image x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" \
             preserveAspectRatio=\"none\"{rendering} href=\"{picture}\"/>",
        ));
        Ok(())
    }

    /// Another drawing, its upper left corner at `(x, y)`.
    pub(super) fn place(&self, (x, y): BackendCoord, other: &Drawing) {
        self.element(&format!("<g transform=\"translate({} {})\">\n{}</g>", self.px(x), self.px(y), other.body));
    }

    fn px(&self, units: i32) -> f64 {
        self.span(0, units)
    }

    fn span(&self, from: i32, to: i32) -> f64 {
        (f64::from(to) - f64::from(from)) / self.fine
    }

    fn element(&self, svg: &str) {
        let mut out = self.out.borrow_mut();
        out.flush();
        out.body.push_str(svg);
        out.body.push('\n');
    }

    /// Adds `shape` to the last path if it looks the same. See-through ones stay apart, since they
    /// show where they overlap.
    fn path(&self, colour: BackendColor, attributes: String, shape: String) {
        let mut out = self.out.borrow_mut();
        match &mut out.path {
            Some((same, shapes)) if *same == attributes && colour.alpha == 1.0 => shapes.push_str(&shape),
            _ => {
                out.flush();
                out.path = Some((attributes, shape));
            }
        }
    }

    fn through(&self, points: impl IntoIterator<Item = BackendCoord>) -> String {
        let mut shape = String::new();
        let mut last = (0, 0);
        for (i, point) in points.into_iter().enumerate() {
            let (dx, dy) = (self.span(last.0, point.0), self.span(last.1, point.1));
            match i {
                0 => _ = write!(shape, "M{dx} {dy}"),
                _ if point == last => continue,
                _ => _ = write!(shape, "l{dx} {dy}"),
            }
            last = point;
        }
        shape
    }

    fn stroke<S: BackendStyle>(&self, style: &S) -> String {
        let (colour, width) = (style.color(), f64::from(style.stroke_width()) / self.fine);
        let (hex, opacity) = paint(colour, "stroke");
        format!(" fill=\"none\" stroke=\"{hex}\"{opacity} stroke-width=\"{width}\" stroke-linejoin=\"round\"")
    }

    fn fill(&self, colour: BackendColor) -> String {
        let (hex, opacity) = paint(colour, "fill");
        format!(" fill=\"{hex}\"{opacity}")
    }
}

/// A colour, and an attribute for its opacity if it is see-through.
fn paint(BackendColor { alpha, rgb: (r, g, b) }: BackendColor, what: &str) -> (String, String) {
    let opacity = if alpha < 1.0 { format!(" {what}-opacity=\"{alpha:.2}\"") } else { String::new() };
    (format!("#{r:02X}{g:02X}{b:02X}"), opacity)
}

/// What drawing returns.
type Drawn = Result<(), DrawingErrorKind<std::io::Error>>;

impl DrawingBackend for Svg {
    type ErrorType = std::io::Error;

    fn get_size(&self) -> (u32, u32) {
        let units = |pixels: u32| (f64::from(pixels) * self.fine) as u32;
        (units(self.pixels.0), units(self.pixels.1))
    }

    fn ensure_prepared(&mut self) -> Drawn {
        Ok(())
    }

    fn present(&mut self) -> Drawn {
        Ok(())
    }

    fn draw_pixel(&mut self, (x, y): BackendCoord, color: BackendColor) -> Drawn {
        self.draw_rect((x, y), (x + 1, y + 1), &color, true)
    }

    fn draw_line<S: BackendStyle>(&mut self, from: BackendCoord, to: BackendCoord, style: &S) -> Drawn {
        self.draw_path([from, to], style)
    }

    fn draw_path<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(&mut self, path: I, style: &S) -> Drawn {
        self.path(style.color(), self.stroke(style), self.through(path));
        Ok(())
    }

    fn draw_rect<S: BackendStyle>(&mut self, a: BackendCoord, b: BackendCoord, style: &S, fill: bool) -> Drawn {
        let (x, y) = (self.px(a.0.min(b.0)), self.px(a.1.min(b.1)));
        let (w, h) = (self.span(a.0, b.0).abs(), self.span(a.1, b.1).abs());
        // Without soft edges, neighbours show no seam.
        let attributes = match fill {
            true => self.fill(style.color()) + " shape-rendering=\"crispEdges\"",
            false => self.stroke(style),
        };
        self.path(style.color(), attributes, format!("M{x} {y}h{w}v{h}h-{w}z"));
        Ok(())
    }

    fn draw_circle<S: BackendStyle>(&mut self, center: BackendCoord, radius: u32, style: &S, fill: bool) -> Drawn {
        let (x, y, r) = (self.px(center.0), self.px(center.1), f64::from(radius) / self.fine);
        let attributes = if fill { self.fill(style.color()) } else { self.stroke(style) };
        self.element(&format!("<circle cx=\"{x}\" cy=\"{y}\" r=\"{r}\"{attributes}/>"));
        Ok(())
    }

    fn fill_polygon<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(&mut self, corners: I, style: &S) -> Drawn {
        // Never merged: shapes that run around the other way would leave holes where they overlap.
        self.element(&format!("<path d=\"{}z\"{}/>", self.through(corners), self.fill(style.color())));
        Ok(())
    }

    fn draw_text<S: BackendTextStyle>(&mut self, content: &str, style: &S, (x, y): BackendCoord) -> Drawn {
        if content.is_empty() {
            return Ok(());
        }
        let (x, y, size) = (self.px(x), self.px(y), style.size() / self.fine / EM);
        let anchor = match style.anchor().h_pos {
            HPos::Left => "start",
            HPos::Center => "middle",
            HPos::Right => "end",
        };
        let drop = match style.anchor().v_pos {
            VPos::Top => 0.76,
            VPos::Center => 0.35,
            VPos::Bottom => -0.24,
        } * size;
        let mut attributes = String::new();
        match style.family() {
            FontFamily::SansSerif => {}
            family => _ = write!(attributes, " font-family=\"{}\"", text::escape(family.as_str())),
        }
        match style.style() {
            FontStyle::Normal => {}
            FontStyle::Bold => attributes.push_str(" font-weight=\"bold\""),
            slanted => _ = write!(attributes, " font-style=\"{}\"", slanted.as_str()),
        }
        let turn = match style.transform() {
            FontTransform::None => 0,
            FontTransform::Rotate90 => 90,
            FontTransform::Rotate180 => 180,
            FontTransform::Rotate270 => -90,
        };
        if turn != 0 {
            let _ = write!(attributes, " transform=\"rotate({turn} {x} {y})\"");
        }
        let (size, drop) = ((size * 100.0).round() / 100.0, (drop * 100.0).round() / 100.0);
        self.element(&format!(
            "<text x=\"{x}\" y=\"{y}\" dy=\"{drop}\" font-size=\"{size}\"{} text-anchor=\"{anchor}\"{attributes}>{}</text>",
            self.fill(style.color()),
            text::escape(content)
        ));
        Ok(())
    }

    fn estimate_text_size<S: BackendTextStyle>(
        &self,
        content: &str,
        style: &S,
    ) -> Result<(u32, u32), DrawingErrorKind<Self::ErrorType>> {
        let em = style.size() / EM;
        Ok((text::width(content, em).ceil() as u32, em.ceil() as u32))
    }

    fn blit_bitmap(&mut self, (x, y): BackendCoord, (w, h): (u32, u32), rgb: &[u8]) -> Drawn {
        let drawn = self.image([x, y, w as i32, h as i32], (w, h), rgb);
        drawn.map_err(|error| DrawingErrorKind::DrawingError(std::io::Error::other(error)))
    }
}

/// RGB pixels as the address of a PNG that holds them.
pub(super) fn png((columns, rows): (u32, u32), rgb: &[u8]) -> Result<String, PlotError> {
    let mut png = Vec::new();
    let mut encoder = png::Encoder::new(&mut png, columns, rows);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::Balanced);
    let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(rgb));
    written.map_err(|error| PlotError::Draw(error.to_string()))?;
    Ok(format!("data:image/png;base64,{}", BASE64_STANDARD.encode(png)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use plotters::prelude::*;

    #[test]
    fn coordinates_are_fractions_of_a_pixel_and_like_paths_make_one_element() {
        let svg = Svg::new(10, 10, FINE);
        for shift in [0, 7] {
            svg.area().draw(&PathElement::new([(5, shift), (25, 30)], BLACK.filled().stroke_width(18))).unwrap();
        }
        let body = svg.finish().body;
        assert!(body.contains("d=\"M0.5 0l2 3M0.5 0.7l2 2.3\""), "{body}");
        assert_eq!(body.matches("stroke-width=\"1.8\"").count(), 1);
    }
}

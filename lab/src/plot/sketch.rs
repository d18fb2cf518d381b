use super::{Drawing, Figure, PlotError};
use plotters::coord::Shift;
use plotters::prelude::{DrawingArea, IntoDrawingArea, SVGBackend};

/// Anything the other figures do not do, drawn with `plotters` and shown or saved like them.
///
/// ```
/// use lab::plot::*;
/// let figure = Sketch::new(300, 200, |area| {
///     use plotters::prelude::*; // in here, since it has a `Histogram` of its own
///     area.draw(&Circle::new((150, 100), 40, BLUE.filled()))?;
///     Ok(())
/// });
/// assert!(figure.svg().unwrap().contains("<circle"));
/// ```
pub struct Sketch {
    size: (u32, u32),
    drawn: Result<String, String>,
}

impl Sketch {
    /// Calls `draw` with an empty area of `width × height` pixels.
    pub fn new(
        width: u32,
        height: u32,
        draw: impl FnOnce(&DrawingArea<SVGBackend<'_>, Shift>) -> Result<(), Box<dyn std::error::Error>>,
    ) -> Self {
        let mut svg = String::new();
        let result = {
            let area = SVGBackend::with_string(&mut svg, (width, height)).into_drawing_area();
            draw(&area).and_then(|()| Ok(area.present()?))
        };
        // plotters escapes markup but passes on control characters, which XML forbids.
        svg.retain(|c| c == '\n' || !(c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}')));
        Self { size: (width, height), drawn: result.map(|()| svg).map_err(|error| error.to_string()) }
    }
}

impl Figure for Sketch {
    fn draw(&self) -> Result<Drawing, PlotError> {
        let (width, height) = self.size;
        if width == 0 || height == 0 {
            return Err(PlotError::value("sketch", "the size", format!("{width} × {height}"), "at least 1 × 1"));
        }
        match &self.drawn {
            Ok(svg) => {
                let mut d = Drawing::new(f64::from(width), f64::from(height));
                d.raw(svg);
                Ok(d)
            }
            Err(error) => Err(PlotError::value("sketch", "the drawing", error, "no error from plotters")),
        }
    }
}

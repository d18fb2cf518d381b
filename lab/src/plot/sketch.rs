use super::backend::Svg;
use super::{Drawing, Figure, PlotError};
use plotters::coord::Shift;
use plotters::prelude::DrawingArea;

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
#[derive(Debug)]
pub struct Sketch {
    size: (u32, u32),
    drawn: Result<Drawing, String>,
}

impl Sketch {
    /// Calls `draw` with an empty area of `width × height` pixels; its coordinates are whole pixels.
    pub fn new(
        width: u32,
        height: u32,
        draw: impl FnOnce(&DrawingArea<Svg, Shift>) -> Result<(), Box<dyn std::error::Error>>,
    ) -> Self {
        let svg = Svg::new(width, height, 1.0);
        let result = draw(&svg.area());
        Self { size: (width, height), drawn: result.map(|()| svg.finish()).map_err(|error| error.to_string()) }
    }
}

impl Figure for Sketch {
    fn draw(&self) -> Result<Drawing, PlotError> {
        let (width, height) = self.size;
        if width == 0 || height == 0 {
            return Err(PlotError::data("sketch", format!("the size is {width} × {height}"), "at least 1 × 1"));
        }
        self.drawn.clone().map_err(PlotError::Draw)
    }
}

//! Figures for print and for notebook cells, as SVG, with a PNG for what shows no SVG.
//!
//! - [`Lines`]: series with bands and optional log axes (loss curves, time against length)
//! - [`HeatMap`]: one matrix with token labels and a colour bar (an attention pattern)
//! - [`AttentionGrid`]: many small heat maps with one colour bar (layers × heads, variants)
//! - [`AttentionView`]: the patterns of whole models, to be looked through in a notebook
//! - [`Bars`]: bars with intervals, in groups or not
//! - [`Histogram`]: distributions, overlaid or one above the other
//! - [`Panel`]: figures side by side
//! - [`Sketch`]: anything else, drawn with `plotters`
//!
//! plotters draws all of them, on a backend of our own ([`Svg`]) that writes fractions of a pixel.
//! Builders take what they are given and never fail; what is wrong is said by [`Figure::svg`] and
//! [`Figure::save`] as a [`PlotError`], and [`Figure::show`] fails the cell with it. The same input
//! gives the same bytes. A variant has the same colour in every figure ([`color_of`]).

mod attention_view;
mod axis;
mod backend;
mod bars;
mod captions;
mod colour_bar;
mod error;
mod grid;
mod heat_map;
mod histogram;
mod ink;
mod legend;
mod lines;
mod matrix;
mod number;
mod page;
mod palette;
mod panel;
mod raster;
mod series;
mod sketch;
#[cfg(test)]
mod tests;
mod text;
mod tint;

pub use attention_view::AttentionView;
pub use backend::{Drawing, Svg};
pub use bars::Bars;
pub use error::PlotError;
pub use grid::AttentionGrid;
pub use heat_map::HeatMap;
pub use histogram::Histogram;
pub use lines::Lines;
pub use number::Number;
pub(crate) use number::number;
pub use palette::{PALETTE, color_of};
pub use panel::Panel;
/// The library behind every figure, for cells that draw with it ([`Sketch`]).
pub use plotters;
pub use sketch::Sketch;
pub use text::byte_tokens;
pub(crate) use tint::picture;

use base64::prelude::{BASE64_STANDARD, Engine};
use std::path::Path;

/// Something that can be drawn, saved and shown.
pub trait Figure: std::fmt::Debug {
    /// Draws the figure, or says what is wrong with its data.
    fn draw(&self) -> Result<Drawing, PlotError>;

    /// The figure as a whole SVG document.
    fn svg(&self) -> Result<String, PlotError> {
        Ok(self.draw()?.document())
    }

    /// The figure as a PNG of two pixels for each of the SVG's, its text in DejaVu Sans.
    fn png(&self) -> Result<Vec<u8>, PlotError> {
        raster::png(&self.svg()?)
    }

    /// Writes the figure to `path`, making its folder: a PNG where the name ends in `.png`, the SVG
    /// otherwise. A file already there is replaced at once or stays as it was.
    fn save(&self, path: impl AsRef<Path>) -> Result<(), PlotError>
    where
        Self: Sized,
    {
        let path = path.as_ref();
        let content = match path.extension().is_some_and(|kind| kind.eq_ignore_ascii_case("png")) {
            true => self.png()?,
            false => self.svg()?.into_bytes(),
        };
        write(path, &content).map_err(|source| PlotError::Save { path: path.to_path_buf(), source })
    }

    /// Shows the figure below the notebook cell: the SVG, and a PNG for front ends that show none.
    ///
    /// # Panics
    /// When it cannot be drawn, so that the cell fails instead of going on without its picture.
    fn show(&self) {
        let shown = self.svg().and_then(|svg| {
            let png = BASE64_STANDARD.encode(raster::png(&svg)?);
            cell_runtime::display_bundle(&[("image/svg+xml", &svg), ("image/png", &png)]);
            Ok(())
        });
        if let Err(error) = shown {
            panic!("this figure cannot be drawn: {error}");
        }
    }

    /// [`Figure::show`], under the name by which a notebook displays a cell's last expression.
    fn evcxr_display(&self) {
        self.show();
    }
}

fn write(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder)?;
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o644));
    }
    let mut file = builder.prefix(".figure-").tempfile_in(folder)?;
    std::io::Write::write_all(&mut file, content)?;
    file.persist(path)?;
    Ok(())
}

/// The methods of [`Figure`] on the types themselves: a cell need not import the trait.
macro_rules! without_import {
    ($($figure:ty),*) => {$(
        impl $figure {
            /// See [`Figure::svg`].
            pub fn svg(&self) -> Result<String, PlotError> {
                Figure::svg(self)
            }
            /// See [`Figure::png`].
            pub fn png(&self) -> Result<Vec<u8>, PlotError> {
                Figure::png(self)
            }
            /// See [`Figure::save`].
            pub fn save(&self, path: impl AsRef<Path>) -> Result<(), PlotError> {
                Figure::save(self, path)
            }
            /// See [`Figure::show`].
            pub fn show(&self) {
                Figure::show(self);
            }
            /// See [`Figure::evcxr_display`].
            pub fn evcxr_display(&self) {
                Figure::show(self);
            }
        }
    )*};
}
without_import!(AttentionGrid, AttentionView, Bars, HeatMap, Histogram, Lines, Panel, Sketch);

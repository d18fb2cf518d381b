//! A figure's SVG as pixels, for readers that show no SVG: viewers of untrusted notebooks, PDF, slides.

use super::PlotError;
use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb::Database};
use std::sync::{Arc, LazyLock};

/// Pixels of the picture for one of the figure: sharp on a screen of twice the usual density.
const SCALE: f32 = 2.0;

/// DejaVu Sans, by whose widths the figures are laid out: the same picture on every machine, whichever
/// fonts it has.
static FONTS: LazyLock<Arc<Database>> = LazyLock::new(|| {
    let mut fonts = Database::new();
    fonts.load_font_data(dejavu::sans::regular().to_vec());
    fonts.load_font_data(dejavu::sans::bold().to_vec());
    fonts.set_sans_serif_family("DejaVu Sans");
    Arc::new(fonts)
});

/// `svg` as a PNG of twice its width and height.
pub(super) fn png(svg: &str) -> Result<Vec<u8>, PlotError> {
    let failed = |what: String| PlotError::Raster(what);
    let options = Options { fontdb: FONTS.clone(), font_family: "DejaVu Sans".into(), ..Options::default() };
    let tree = Tree::from_str(svg, &options).map_err(|error| failed(error.to_string()))?;
    let size = tree.size().to_int_size();
    let size = size.scale_by(SCALE).ok_or_else(|| failed(format!("{} × {}", size.width(), size.height())))?;
    let mut pixels = Pixmap::new(size.width(), size.height())
        .ok_or_else(|| failed(format!("{} × {} pixels are too many", size.width(), size.height())))?;
    resvg::render(&tree, Transform::from_scale(SCALE, SCALE), &mut pixels.as_mut());
    pixels.encode_png().map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::HeatMap;

    #[test]
    fn a_figure_is_drawn_as_it_is_in_twice_the_pixels_with_its_text() {
        let svg = |text: &str| {
            format!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"40\" height=\"30\" font-family=\"Helvetica, sans-serif\">\
                 <rect width=\"20\" height=\"30\" fill=\"#336699\"/>\
                 <text x=\"22\" y=\"20\" font-size=\"16\">{text}</text></svg>"
            )
        };
        let decoded = |text: &str| Pixmap::decode_png(&png(&svg(text)).unwrap()).unwrap();
        let picture = decoded("");
        assert_eq!((picture.width(), picture.height()), (80, 60));
        let colour = |x, y| picture.pixel(x, y).map(|p| (p.red(), p.green(), p.blue(), p.alpha()));
        assert_eq!(colour(10, 30), Some((0x33, 0x66, 0x99, 255)));
        assert_eq!(colour(70, 30), Some((0, 0, 0, 0)), "nothing is drawn there");
        assert_ne!(decoded("λ").data(), picture.data(), "a letter of any font is drawn in ours");
    }

    #[test]
    fn embedded_pictures_are_in_it() {
        let bright = HeatMap::new("", [[0.0, 1.0], [1.0, 0.0]]).svg().unwrap();
        let pixels = Pixmap::decode_png(&png(&bright).unwrap()).unwrap();
        let without = bright.replace("<image", "<nothing");
        assert_ne!(pixels.data(), Pixmap::decode_png(&png(&without).unwrap()).unwrap().data());
    }

    #[test]
    fn what_is_no_svg_is_refused() {
        assert!(png("<svg").unwrap_err().to_string().contains("PNG"));
    }
}

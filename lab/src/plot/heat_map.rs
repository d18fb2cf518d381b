use super::captions::{Captions, captioned};
use super::ink::SMALL;
use super::matrix::{Look, Matrix, mapped};
use super::number::number;
use super::{Drawing, Figure, Number, PlotError, text};

/// One matrix in colours: an attention pattern, a value per layer and head.
///
/// Rows run downwards, columns to the right. Values that are never negative get a sequential map
/// from zero (or from the least value where that is more than half of the greatest); with negative
/// values the map diverges and is centred at zero. What is not finite is grey.
///
/// ```
/// use lab::plot::HeatMap;
/// let figure = HeatMap::new("Layer 0, head 0", [[1.0, 0.0], [0.25, 0.75]])
///     .x("key", "token")
///     .y("query", "token")
///     .value("attention weight", "")
///     .tokens(["the", " fox"])
///     .causal();
/// assert!(figure.svg().is_ok());
/// ```
#[derive(Clone, Debug)]
pub struct HeatMap {
    captions: Captions,
    look: Look,
    matrix: Matrix,
    size: f64,
}

captioned!(HeatMap: x y);
mapped!(HeatMap);

impl HeatMap {
    /// A heat map of `rows`.
    pub fn new<R>(title: impl Into<String>, rows: impl IntoIterator<Item = R>) -> Self
    where
        R: IntoIterator,
        R::Item: Number,
    {
        Self { captions: Captions::new(title), look: Look::default(), matrix: Matrix::new(rows), size: 400.0 }
    }

    /// Writes the numbers into the cells (small matrices).
    pub fn annotate(mut self) -> Self {
        self.look.annotate = true;
        self
    }

    /// Length of the longer side of the matrix in pixels.
    pub fn size(mut self, pixels: u32) -> Self {
        self.size = f64::from(pixels.max(40));
        self
    }

    /// Width and height of one cell in pixels.
    fn cell(&self, rows: usize, columns: usize) -> (f64, f64) {
        let longer = rows.max(columns) as f64;
        let mut cell = (self.size / longer).min((160.0 / longer).max(44.0));
        if cell > 3.0 {
            cell = cell.floor();
        }
        let least = |n: usize| (48.0 / n as f64).max(cell);
        if !self.look.annotate {
            return (least(columns), least(rows));
        }
        let numbers = self.matrix.cells(self.look.causal).filter(|cell| cell.2.is_finite());
        let widest = numbers.map(|cell| text::width(&number(cell.2), SMALL)).fold(0.0, f64::max);
        (least(columns).max(widest + 8.0), least(rows).max(18.0))
    }
}

impl Figure for HeatMap {
    fn draw(&self) -> Result<Drawing, PlotError> {
        let title = &self.captions.title;
        let (rows, columns) = self.matrix.shape(title, "the matrix")?;
        self.look.check(title, "", (rows, columns))?;
        if self.look.annotate && rows * columns > 1024 {
            let expected = "at most 1024 for numbers in the cells";
            return Err(PlotError::data(title, format!("the count of cells is {}", rows * columns), expected));
        }
        let (w, h) = self.cell(rows, columns);
        let size = (w * columns as f64, h * rows as f64);
        self.look.draw(&self.captions, &[(String::new(), &self.matrix)], 1, size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_escaped_and_made_visible() {
        let svg = HeatMap::new("", [[1.0, 0.0], [0.5, 0.5]]).tokens(["</svg>", "\n"]).svg().unwrap();
        assert!(svg.contains("&lt;/svg&gt;") && svg.contains(">⏎<"));
        assert_eq!(svg.matches("</svg>").count(), 1);
    }

    #[test]
    fn a_wrong_count_of_labels_is_an_error_that_names_both() {
        let error = HeatMap::new("pattern", [[1.0, 0.0, 0.0]]).x_tokens(["a", "b"]).svg().unwrap_err();
        let error = error.to_string();
        assert!(error.contains("length 2, expected 3") && error.contains("pattern"), "{error}");
    }

    #[test]
    fn a_ragged_or_empty_matrix_is_an_error() {
        let error = HeatMap::new("", [vec![1.0, 2.0], vec![1.0]]).svg().unwrap_err().to_string();
        assert!(error.contains("row 1") && error.contains("length 1, expected 2"), "{error}");
        assert!(HeatMap::new("", Vec::<Vec<f32>>::new()).svg().is_err());
        assert!(HeatMap::new("", [[f32::NAN]]).svg().is_err());
    }

    #[test]
    fn what_is_not_finite_is_grey_and_said_so() {
        let svg = HeatMap::new("", [[1.0, f32::NAN]]).svg().unwrap();
        // Once in the matrix, once in the key.
        assert_eq!(svg.matches("#B4B4B4").count(), 2);
        assert!(svg.contains("not finite"));
        assert!(!HeatMap::new("", [[1.0, 0.5]]).svg().unwrap().contains("not finite"));
    }

    #[test]
    fn a_map_of_signed_values_is_centred_at_zero() {
        let svg = HeatMap::new("", [[-0.1, 0.0, 0.9]]).svg().unwrap();
        assert!(svg.contains("#F7F7F7") && svg.contains(">−0.5<"), "{svg}");
    }

    #[test]
    fn a_large_map_stays_under_600_kb() {
        let rows = (0..512).map(|i| (0..512).map(move |j| (i * j % 97) as f32));
        let svg = HeatMap::new("", rows).svg().unwrap();
        assert_eq!(svg.matches("data:image/png;base64,").count(), 2); // the map and its colour bar
        assert!(svg.len() < 600_000, "{}", svg.len());
        let huge = HeatMap::new("", (0..1500).map(|i| (0..1500).map(move |j| i + j))).svg().unwrap();
        assert!(huge.len() < 600_000 && huge.contains("mean of 3 × 3"), "{}", huge.len());
    }

    #[test]
    fn the_future_does_not_change_a_causal_map_whose_cells_are_averaged() {
        let map = |future: f64| {
            let cell = move |i: usize, j: usize| if j > i { future } else { (i % 7) as f64 };
            HeatMap::new("", (0..600).map(|i| (0..600).map(move |j| cell(i, j)))).causal().svg().unwrap()
        };
        let without = map(0.0);
        assert!(without.contains("mean of 2 × 2") && without == map(3.0));
    }

    #[test]
    fn the_future_stays_blank_in_a_causal_map() {
        let rows = [[1.0, 0.5, 1.0], [0.5, 1.0, 0.5], [1.0, 0.5, 1.0]];
        let cells = |svg: String| svg.matches('z').count(); // each cell is a closed path
        let (all, seen) = (HeatMap::new("", rows), HeatMap::new("", rows).causal());
        assert_eq!(cells(all.svg().unwrap()) - cells(seen.svg().unwrap()), 3);
    }
}

//! The patterns of whole models, to be looked through.

mod page;
mod quantise;

use super::captions::{Captions, captioned};
use super::matrix::{Look, Matrix, mapped};
use super::{AttentionGrid, Drawing, Figure, Number, PlotError};
use crate::probe::Pattern;

/// Every pattern of one or several models: in a notebook a view to hover, zoom and choose in; as a file
/// a picture of the heads it opens with, in the colours that suit these alone.
///
/// In a notebook a layer and a head are chosen, two models (or two heads) stand side by side, and the
/// token under the pointer is found again in the text, in the row and in the column. The view is HTML that needs nothing
/// else: the weights in it have 8 bits on a square-root scale, so that small ones keep two digits, and
/// where a pattern is too large for a page each point is the greatest of a block, which the view says.
///
/// ```
/// use lab::plot::AttentionView;
/// let figure = AttentionView::new("Where two models look")
///     .tokens(["the", " fox"])
///     .pattern("baseline", 0, 0, [[1.0, 0.0], [0.25, 0.75]])
///     .pattern("gated", 0, 0, [[1.0, 0.0], [0.5, 0.5]])
///     .causal();
/// assert!(figure.svg().is_ok() && figure.html().is_ok());
/// ```
#[derive(Clone, Debug)]
pub struct AttentionView {
    captions: Captions,
    look: Look,
    models: Vec<Model>,
    first: Option<(usize, usize)>,
    size: u32,
}

/// A model's patterns in the order in which they came.
#[derive(Clone, Debug)]
struct Model {
    name: String,
    patterns: Vec<Pattern>,
}

captioned!(AttentionView: );
mapped!(AttentionView);

impl AttentionView {
    /// A view of no model yet.
    pub fn new(title: impl Into<String>) -> Self {
        let captions = Captions { x: "key".into(), y: "query".into(), ..Captions::new(title) };
        let look = Look { value: "attention".into(), ..Look::default() };
        Self { captions, look, models: Vec::new(), first: None, size: 360 }
    }

    /// Adds the patterns of a model, as [`patterns`](crate::probe::patterns) finds them. The two halves
    /// of differential attention follow their difference as heads of their own.
    pub fn model(mut self, name: impl Into<String>, patterns: Vec<Pattern>) -> Self {
        self.of(name.into()).extend(patterns);
        self
    }

    /// Adds one pattern, of a head made by hand.
    pub fn pattern<R>(
        mut self,
        model: impl Into<String>,
        layer: usize,
        head: usize,
        rows: impl IntoIterator<Item = R>,
    ) -> Self
    where
        R: IntoIterator,
        R::Item: Number,
    {
        let Matrix(rows) = Matrix::new(rows);
        let time = rows.len();
        let matrix = rows.into_iter().flatten().map(|weight| weight as f32).collect();
        self.of(model.into()).push(Pattern { layer, head, name: "pattern".into(), time, matrix });
        self
    }

    /// The layer and the head to begin with [default: the last layer's first head].
    pub fn at(mut self, layer: usize, head: usize) -> Self {
        self.first = Some((layer, head));
        self
    }

    /// Side of one pattern in pixels.
    pub fn size(mut self, pixels: u32) -> Self {
        self.size = pixels.max(120);
        self
    }

    fn of(&mut self, name: String) -> &mut Vec<Pattern> {
        let place = self.models.iter().position(|model| model.name == name).unwrap_or(self.models.len());
        if place == self.models.len() {
            self.models.push(Model { name, patterns: Vec::new() });
        }
        &mut self.models[place].patterns
    }

    /// The tokens of every pattern; or what is wrong with the patterns.
    fn checked(&self) -> Result<usize, PlotError> {
        let title = &self.captions.title;
        let mut all = self.models.iter().flat_map(|m| m.patterns.iter().map(move |p| (m.name.as_str(), p)));
        let Some((first, Pattern { time, .. })) = all.clone().next() else {
            return Err(PlotError::empty(title, "the list of patterns"));
        };
        let wrong = all.find(|(_, p)| p.time != *time || p.matrix.len() != time * time || *time == 0);
        if let Some((name, p)) = wrong {
            let of = format!("{} of layer {}, head {} of {name:?}", p.name, p.layer, p.head);
            let what = format!("the {of} has {} weights for {} tokens", p.matrix.len(), p.time);
            return Err(PlotError::data(title, what, format!("{0} × {0} as the first of {first:?} has tokens", time)));
        }
        self.look.check(title, "", (*time, *time))?;
        if let Some((layer, head)) = self.first
            && self.shown().is_empty()
        {
            let what = format!("no model has a head {head} in layer {layer}");
            return Err(PlotError::data(title, what, format!("one of (layer, head) {:?}", self.places())));
        }
        Ok(*time)
    }

    /// The heads there are, without double ones.
    fn places(&self) -> Vec<(usize, usize)> {
        let mut places: Vec<_> =
            self.models.iter().flat_map(|m| m.patterns.iter().map(|p| (p.layer, p.head))).collect();
        places.sort_unstable();
        places.dedup();
        places
    }

    /// The layer and the head the view opens with.
    fn start(&self) -> (usize, usize) {
        let places = self.places();
        let last = places.last().map_or(0, |place| place.0);
        self.first.unwrap_or_else(|| places.into_iter().find(|place| place.0 == last).unwrap_or((0, 0)))
    }

    /// What the view opens with: that head of the first two models that have it.
    fn shown(&self) -> Vec<(&str, &Pattern)> {
        let start = self.start();
        let found = |model: &'_ Model| model.patterns.iter().position(|p| (p.layer, p.head) == start);
        self.models.iter().filter_map(|m| Some((m.name.as_str(), &m.patterns[found(m)?]))).take(2).collect()
    }

    /// The view as a piece of HTML, to be put into a page: no other file is needed.
    ///
    /// # Errors
    /// As [`Figure::svg`].
    pub fn html(&self) -> Result<String, PlotError> {
        page::html(self, self.checked()?)
    }
}

impl Figure for AttentionView {
    fn draw(&self) -> Result<Drawing, PlotError> {
        self.checked()?;
        let (layer, head) = self.start();
        let mut captions = self.captions.clone();
        captions.title = format!("{} · layer {layer}, head {head}", captions.title);
        let shown = self.shown();
        let panels = shown.into_iter().map(|(name, pattern)| (name.to_string(), Matrix(pattern.rows()))).collect();
        AttentionGrid::of(captions, self.look.clone(), panels, 2, self.size).draw()
    }

    fn show(&self) {
        match (self.html(), self.svg()) {
            (Ok(html), Ok(svg)) => {
                cell_runtime::display_bundle(&[("text/html", &html), ("image/svg+xml", &svg)]);
            }
            (Err(error), _) | (_, Err(error)) => panic!("this figure cannot be drawn: {error}"),
        }
    }
}

#[cfg(test)]
mod tests;

//! The words that figures have in common, and the setters for them.

/// Words that every figure may have, and the size of its data area in pixels.
#[derive(Clone, Debug, Default)]
pub(super) struct Captions {
    pub title: String,
    pub x: String,
    pub y: String,
    pub notes: Vec<String>,
    pub size: Option<(f64, f64)>,
}

impl Captions {
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), ..Self::default() }
    }
}

/// The setters that figures share, for a builder with a field `captions`.
macro_rules! captioned {
    ($figure:ty: $($setter:ident)*) => {
        impl $figure {
            $(captioned!(@ $setter);)*
            /// Adds a line of small print: what a band is, how many seeds.
            pub fn note(mut self, note: impl Into<String>) -> Self {
                self.captions.notes.push(note.into());
                self
            }
        }
    };
    (@ x) => {
        /// Label and unit of the horizontal axis (unit `""`: none).
        pub fn x(mut self, label: &str, unit: &str) -> Self {
            self.captions.x = crate::plot::text::with_unit(label, unit);
            self
        }
    };
    (@ y) => {
        /// Label and unit of the vertical axis (unit `""`: none).
        pub fn y(mut self, label: &str, unit: &str) -> Self {
            self.captions.y = crate::plot::text::with_unit(label, unit);
            self
        }
    };
    (@ size) => {
        /// Size of the data area in pixels (the figure is larger by its labels).
        pub fn size(mut self, width: u32, height: u32) -> Self {
            self.captions.size = Some((f64::from(width.max(60)), f64::from(height.max(30))));
            self
        }
    };
}
pub(super) use captioned;

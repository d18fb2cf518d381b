//! What stands around the data: title, axes, legend or colour bar, small print. The data has the
//! size asked for; the margins grow with the labels, so nothing is cut and nothing overlaps.

use super::axis::{Axis, SMALL};
use super::backend::{Drawing, EM, FINE, Svg};
use super::colour_bar::ColourBar;
use super::legend::{self, Key};
use super::{PlotError, text};
use plotters::chart::ChartContext;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

pub(super) const LABEL: f64 = 12.0;
const TITLE: f64 = 14.0;
pub(super) const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
pub(super) const FAINT: RGBColor = RGBColor(0x66, 0x66, 0x66);
pub(super) const BORDER: RGBColor = RGBColor(0x88, 0x88, 0x88);
const GRID: RGBColor = RGBColor(0xe4, 0xe4, 0xe4);
const FINE_GRID: RGBColor = RGBColor(0xf3, 0xf3, 0xf3);

pub(super) type Area = DrawingArea<Svg, Shift>;

/// Pixels in the units of the backend.
pub(super) fn units(pixels: f64) -> i32 {
    (pixels * FINE).round() as i32
}

pub(super) fn at(x: f64, y: f64) -> (i32, i32) {
    (units(x), units(y))
}

/// A line of `width` pixels.
pub(super) fn stroke(colour: impl Color, width: f64) -> ShapeStyle {
    ShapeStyle { color: colour.to_rgba(), filled: false, stroke_width: units(width) as u32 }
}

/// A font of `size` pixels.
pub(super) fn font(size: f64, colour: RGBColor, across: HPos, down: VPos) -> TextStyle<'static> {
    ("sans-serif", size * EM * FINE).into_font().color(&colour).pos(Pos::new(across, down))
}

/// Words that every figure may have, and the size of its data area in pixels.
#[derive(Clone, Debug, Default)]
pub(super) struct Captions {
    pub title: String,
    pub x: String,
    pub y: String,
    pub notes: Vec<String>,
    pub size: Option<(f64, f64)>,
    pub legend_below: bool,
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
    (@ legend_below) => {
        /// Puts the legend below the axis instead of at its right.
        pub fn legend_below(mut self) -> Self {
            self.captions.legend_below = true;
            self
        }
    };
}
pub(super) use captioned;

/// A data area with its coordinates, ready to be drawn on.
pub(super) struct Plot<'p> {
    pub svg: &'p Svg,
    pub chart: ChartContext<'p, Svg, Cartesian2d<Axis, Axis>>,
}

pub(super) type Paint<'a> = dyn Fn(&mut Plot) -> Result<(), PlotError> + 'a;

/// One pair of axes, and what draws the data between them.
pub(super) struct Chart<'a> {
    pub title: String,
    pub x: Axis,
    pub y: Axis,
    pub paint: Box<Paint<'a>>,
}

/// A figure: charts of one size in a grid, row by row, with axis labels at the outer edges.
pub(super) struct Page<'a> {
    pub captions: &'a Captions,
    /// Small print besides that of the captions.
    pub notes: Vec<String>,
    /// Size of one data area in pixels.
    pub size: (f64, f64),
    pub columns: usize,
    pub charts: Vec<Chart<'a>>,
    /// Grid lines behind the data; a frame around it otherwise.
    pub mesh: bool,
    pub keys: Vec<Key>,
    pub colours: Option<ColourBar<'a>>,
}

const GAP: f64 = 16.0;

impl Page<'_> {
    pub fn draw(&self) -> Result<Drawing, PlotError> {
        let ((w, h), captions) = (self.size, self.captions);
        let columns = self.columns.min(self.charts.len());
        let titles: Vec<Vec<String>> =
            self.charts.iter().map(|c| text::wrap(&text::plain(&c.title), LABEL, w)).collect();
        let heads: Vec<f64> = titles
            .chunks(columns)
            .map(|row| row.iter().map(Vec::len).max().unwrap_or(0))
            .map(|lines| if lines > 0 { lines as f64 * 15.0 + 5.0 } else { 0.0 })
            .collect();
        let names: Vec<Names> = self.charts.iter().map(|chart| Names::new(&chart.x, w)).collect();
        let breadth = self.charts.iter().step_by(columns).map(|c| c.y.widest()).fold(0.0, f64::max) + 8.0;
        let depth = names.iter().map(Names::depth).fold(0.0, f64::max);
        let overhang = self.charts.iter().map(|c| overhang(&c.x, w)).fold(4.0, f64::max);
        let inner = (columns as f64 * (w + GAP) - GAP, heads.iter().map(|head| head + h + 8.0).sum::<f64>() - 8.0);

        let y_label = text::wrap(&captions.y, LABEL, inner.1.max(160.0));
        let x_label = text::wrap(&captions.x, LABEL, inner.0.max(160.0));
        let beyond = x_label.iter().map(|l| (text::width(l, LABEL) - inner.0) / 2.0 + 8.0).fold(0.0, f64::max);
        let left = (12.0 + y_label.len() as f64 * 16.0 + breadth).max(beyond).ceil();
        let keys_right = !self.keys.is_empty() && !captions.legend_below;
        let right = match &self.colours {
            Some(bar) => 20.0 + bar.width() + 12.0,
            None if keys_right => self.keys.iter().map(Key::width).fold(0.0, f64::max) + 26.0,
            None => overhang.max(beyond) + 12.0,
        };
        let width = left + inner.0 + right;
        let title = text::wrap(&captions.title, TITLE * 1.13, width - 24.0);
        let top = 14.0 + title.len() as f64 * 19.0;
        let below_axis = top + inner.1 + depth;
        let below_label = below_axis + x_label.len() as f64 * 16.0;
        let rows = if keys_right { Vec::new() } else { legend::rows(&self.keys, width - 24.0) };
        let below_keys = below_label + if rows.is_empty() { 0.0 } else { rows.len() as f64 * legend::ROW + 8.0 };
        let aside = match &self.colours {
            Some(bar) => top + heads[0] + bar.total_height() + 8.0,
            None if keys_right => top + self.keys.len() as f64 * legend::ROW,
            None => 0.0,
        };
        let notes = captions.notes.iter().chain(&self.notes).flat_map(|note| text::wrap(note, SMALL, width - 24.0));
        let notes: Vec<String> = notes.collect();
        let height = below_keys.max(aside) + notes.len() as f64 * 15.0 + 10.0;

        let svg = Svg::new(width.ceil() as u32, height.ceil() as u32, FINE);
        let root = svg.area();
        headline(&root, &title, left + inner.0 / 2.0)?;
        let mut y = top;
        for (row, head) in heads.iter().enumerate() {
            y += head;
            for column in 0..columns.min(self.charts.len() - row * columns) {
                let i = row * columns + column;
                let (chart, x) = (&self.charts[i], left + column as f64 * (w + GAP));
                for (k, line) in titles[i].iter().rev().enumerate() {
                    let style = font(LABEL, INK, HPos::Center, VPos::Center);
                    root.draw_text(line, &style, at(x + w / 2.0, y - 11.0 - k as f64 * 15.0))?;
                }
                // The lowest of its column, also where the last row is not full.
                let lowest = i + columns >= self.charts.len();
                let margins = (if column == 0 { breadth + 4.0 } else { 0.0 }, if lowest { depth } else { 0.0 });
                self.axes(&svg, &root, chart, (x, y), margins)?;
                if lowest && chart.x.named {
                    names[i].draw(&root, &chart.x, (x, y + h), w)?;
                }
                if column == 0 && chart.y.named {
                    for (value, name) in &chart.y.ticks {
                        let middle = y + (1.0 - chart.y.share(*value)) * h;
                        root.draw_text(name, &font(SMALL, INK, HPos::Right, VPos::Center), at(x - 6.0, middle))?;
                    }
                }
            }
            y += h + 8.0;
        }
        let label = font(LABEL, INK, HPos::Center, VPos::Center);
        for (i, line) in y_label.iter().enumerate() {
            let style = label.transform(FontTransform::Rotate270);
            root.draw_text(line, &style, at(16.0 + i as f64 * 16.0, top + inner.1 / 2.0))?;
        }
        for (i, line) in x_label.iter().enumerate() {
            root.draw_text(line, &label, at(left + inner.0 / 2.0, below_axis + 8.0 + i as f64 * 16.0))?;
        }
        let aside = (left + inner.0, top + heads[0]);
        if let Some(bar) = &self.colours {
            bar.draw(&root, (aside.0 + 20.0, aside.1))?;
        } else if keys_right {
            for (i, key) in self.keys.iter().enumerate() {
                key.draw(&root, (aside.0 + 16.0, aside.1 + 9.0 + i as f64 * legend::ROW))?;
            }
        }
        legend::draw_rows(&root, &rows, (left + inner.0 / 2.0, below_label + 15.0), width)?;
        for (i, line) in notes.iter().rev().enumerate() {
            let place = at(12.0, height.ceil() - 12.0 - i as f64 * 15.0);
            root.draw_text(line, &font(SMALL, FAINT, HPos::Left, VPos::Center), place)?;
        }
        Ok(svg.finish())
    }

    /// One chart with its data area's corner at `(x, y)`; margins of 0 have no labels.
    fn axes(
        &self,
        svg: &Svg,
        root: &Area,
        chart: &Chart,
        (x, y): (f64, f64),
        (left, bottom): (f64, f64),
    ) -> Result<(), PlotError> {
        let (w, h) = self.size;
        // plotters keeps the last unit of a chart's area free.
        let (width, height) = at(w + left, h + bottom);
        let area = root.clone().shrink(at(x - left, y), (width + 1, height + 1));
        let mut context = ChartBuilder::on(&area)
            .y_label_area_size(units(left))
            .x_label_area_size(units(bottom))
            .build_cartesian_2d(chart.x.clone(), chart.y.clone())?;
        let unless_named = |axis: &Axis, pixels: f64| if axis.named { 0 } else { units(pixels) };
        let blank = |_: &f64| String::new();
        let mut mesh = context.configure_mesh();
        mesh.set_tick_mark_size(LabelAreaPosition::Bottom, unless_named(&chart.x, 4.0))
            .set_tick_mark_size(LabelAreaPosition::Left, unless_named(&chart.y, 4.0))
            .axis_style(stroke(if self.mesh { INK } else { BORDER }, 1.0))
            .bold_line_style(stroke(GRID, 1.0))
            .light_line_style(stroke(FINE_GRID, 1.0))
            .label_style(font(SMALL, INK, HPos::Center, VPos::Center));
        if chart.x.named {
            mesh.x_label_formatter(&blank);
        }
        if chart.y.named {
            mesh.y_label_formatter(&blank);
        }
        if !self.mesh || chart.x.named {
            mesh.disable_x_mesh();
        }
        if !self.mesh || chart.y.named {
            mesh.disable_y_mesh();
        }
        mesh.draw()?;
        (chart.paint)(&mut Plot { svg, chart: context })?;
        if !self.mesh {
            root.draw(&Rectangle::new([at(x, y), at(x + w, y + h)], stroke(BORDER, 1.0)))?;
        }
        Ok(())
    }
}

/// Pixels by which the last label reaches out beyond the right end of an axis.
fn overhang(axis: &Axis, length: f64) -> f64 {
    let reach = |(value, label): &(f64, String)| axis.share(*value) * length + text::width(label, SMALL) / 2.0 - length;
    if axis.named { 0.0 } else { axis.ticks.iter().map(reach).fold(0.0, f64::max) }
}

/// The labels below an axis: side by side, in several lines, or turned.
struct Names {
    lines: Vec<Vec<String>>,
    turned: bool,
    tall: f64,
}

impl Names {
    fn new(axis: &Axis, length: f64) -> Self {
        let room = length / axis.ticks.len().max(1) as f64 - 6.0;
        let names = || axis.ticks.iter().map(|tick| tick.1.as_str());
        let turned = axis.named
            && axis.crowded(length)
            && names().any(|n| !n.split(' ').all(|word| text::width(word, SMALL) <= room));
        let lines = match axis.named && axis.crowded(length) && !turned {
            true => names().map(|name| text::wrap(name, SMALL, room)).collect(),
            false => names().map(|name| vec![name.to_string()]).collect::<Vec<_>>(),
        };
        let most = lines.iter().map(Vec::len).max().unwrap_or(0) as f64;
        let tall = match turned {
            true => axis.widest() + 14.0,
            false if axis.ticks.is_empty() => 4.0,
            false => most * 13.0 + 9.0,
        };
        Self { lines, turned, tall }
    }

    /// Pixels needed below the axis.
    fn depth(&self) -> f64 {
        self.tall
    }

    fn draw(&self, root: &Area, axis: &Axis, (x, y): (f64, f64), length: f64) -> Result<(), PlotError> {
        for ((value, _), lines) in axis.ticks.iter().zip(&self.lines) {
            let x = x + axis.share(*value) * length;
            for (i, line) in lines.iter().enumerate() {
                match self.turned {
                    true => {
                        let style = font(SMALL, INK, HPos::Right, VPos::Center);
                        root.draw_text(line, &style.transform(FontTransform::Rotate270), at(x, y + 6.0))?;
                    }
                    false => {
                        let style = font(SMALL, INK, HPos::Center, VPos::Center);
                        root.draw_text(line, &style, at(x, y + 13.0 + i as f64 * 13.0))?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The title's lines, centred at `middle` where there is room, and inside the figure anyway.
pub(super) fn headline(root: &Area, lines: &[String], middle: f64) -> Result<(), PlotError> {
    let width = f64::from(root.dim_in_pixel().0) / FINE;
    let bold = ("sans-serif", TITLE * EM * FINE, FontStyle::Bold).into_font().color(&INK);
    let bold = bold.pos(Pos::new(HPos::Center, VPos::Center));
    for (i, line) in lines.iter().enumerate() {
        let half = text::width(line, TITLE * 1.13) / 2.0;
        let middle = middle.min(width - 8.0 - half).max(8.0 + half);
        root.draw_text(line, &bold, at(middle, 17.0 + i as f64 * 19.0))?;
    }
    Ok(())
}

/// The lines of a title in a figure `width` pixels wide, and the height they take.
pub(super) fn title_lines(title: &str, width: f64) -> (Vec<String>, f64) {
    let lines = text::wrap(title, TITLE * 1.13, width - 24.0);
    let height = if lines.is_empty() { 0.0 } else { lines.len() as f64 * 19.0 + 10.0 };
    (lines, height)
}

//! What stands around the data: title, axes, legend or colour bar, small print. The data has the
//! size asked for; the margins grow with the labels, so nothing is cut and nothing overlaps.

use super::axis::Axis;
use super::backend::{Drawing, EM, FINE, Svg};
use super::captions::Captions;
use super::colour_bar::ColourBar;
use super::ink::{Area, BORDER, FAINT, INK, LABEL, SMALL, TITLE, at, font, stroke, units, write_lines};
use super::legend::{self, Key};
use super::{PlotError, text};
use plotters::chart::ChartContext;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

const GRID: RGBColor = RGBColor(0xe4, 0xe4, 0xe4);
const FINE_GRID: RGBColor = RGBColor(0xf3, 0xf3, 0xf3);
/// Pixels between the charts of a row.
const GAP: f64 = 16.0;

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

impl<'a> Page<'a> {
    pub fn new(captions: &'a Captions, size: (f64, f64)) -> Self {
        let (notes, charts, keys) = (Vec::new(), Vec::new(), Vec::new());
        Self { captions, notes, size, columns: 1, charts, mesh: true, keys, colours: None }
    }

    pub fn draw(&self) -> Result<Drawing, PlotError> {
        let ((w, h), captions) = (self.size, self.captions);
        let columns = self.columns.min(self.charts.len());
        let titles: Vec<Vec<String>> =
            self.charts.iter().map(|c| text::wrap(&text::plain(&c.title), LABEL, w)).collect();
        let head = |row: &[Vec<String>]| match row.iter().map(Vec::len).max() {
            None | Some(0) => 0.0,
            Some(lines) => lines as f64 * 15.0 + 5.0,
        };
        let heads: Vec<f64> = titles.chunks(columns).map(head).collect();
        let inner = (columns as f64 * (w + GAP) - GAP, heads.iter().map(|head| head + h + 8.0).sum::<f64>() - 8.0);
        let breadth = self.charts.iter().step_by(columns).map(|c| c.y.widest()).fold(0.0, f64::max) + 12.0;
        let depth = self.charts.iter().map(|c| Names::new(&c.x, w).depth).fold(0.0, f64::max);
        let overhang = self.charts.iter().map(|c| c.x.overhang(w)).fold(4.0, f64::max);

        let y_label = text::wrap(&captions.y, LABEL, inner.1.max(160.0));
        let x_label = text::wrap(&captions.x, LABEL, inner.0.max(160.0));
        let beyond = x_label.iter().map(|l| (text::width(l, LABEL) - inner.0) / 2.0 + 8.0).fold(0.0, f64::max);
        let left = (12.0 + y_label.len() as f64 * 16.0 + breadth).max(beyond).ceil();
        let legend = self.keys.iter().map(Key::width).fold(0.0, f64::max);
        // What stands at the right of the data: its width and height.
        let (right, aside) = match &self.colours {
            Some(bar) => (bar.width() + 32.0, heads[0] + bar.total_height() + 8.0),
            None if legend > 0.0 => (legend + 26.0, self.keys.len() as f64 * legend::ROW),
            None => (overhang.max(beyond) + 12.0, 0.0),
        };
        let width = left + inner.0 + right;
        let (title, top) = title_lines(&captions.title, width);
        let top = top + 14.0;
        let notes = captions.notes.iter().chain(&self.notes).flat_map(|note| text::wrap(note, SMALL, width - 24.0));
        let notes: Vec<String> = notes.collect();
        let below = (top + inner.1 + depth + x_label.len() as f64 * 16.0).max(top + aside) + 10.0;
        let height = below + notes.len() as f64 * 15.0;

        let svg = Svg::new(width.ceil() as u32, height.ceil() as u32, FINE);
        let root = svg.area();
        headline(&root, &title, left + inner.0 / 2.0)?;
        let label = font(LABEL, INK, HPos::Center);
        let mut y = top;
        for (row, charts) in self.charts.chunks(columns).enumerate() {
            y += heads[row];
            for (column, chart) in charts.iter().enumerate() {
                let (i, x) = (row * columns + column, left + column as f64 * (w + GAP));
                let above = y + 4.0 - titles[i].len() as f64 * 15.0;
                write_lines(&root, &titles[i], &label, (x + w / 2.0, above), (0.0, 15.0))?;
                // The lowest of its column, also where the last row is not full.
                let lowest = i + columns >= self.charts.len();
                let margins = (if column == 0 { breadth } else { 0.0 }, if lowest { depth } else { 0.0 });
                self.draw_chart(&svg, chart, (x, y), margins)?;
            }
            y += h + 8.0;
        }
        let upright = label.transform(FontTransform::Rotate270);
        write_lines(&root, &y_label, &upright, (16.0, top + inner.1 / 2.0), (16.0, 0.0))?;
        let place = (left + inner.0 / 2.0, top + inner.1 + depth + 8.0);
        write_lines(&root, &x_label, &label, place, (0.0, 16.0))?;
        if let Some(bar) = &self.colours {
            bar.draw(&svg, (left + inner.0 + 20.0, top + heads[0]))?;
        }
        for (i, key) in self.keys.iter().enumerate() {
            key.draw(&root, (left + inner.0 + 16.0, top + 9.0 + i as f64 * legend::ROW))?;
        }
        write_lines(&root, &notes, &font(SMALL, FAINT, HPos::Left), (12.0, below + 3.0), (0.0, 15.0))?;
        Ok(svg.finish())
    }

    /// One chart with its data area's corner at `(x, y)`; margins of 0 have no labels.
    fn draw_chart(
        &self,
        svg: &Svg,
        chart: &Chart,
        (x, y): (f64, f64),
        (left, bottom): (f64, f64),
    ) -> Result<(), PlotError> {
        let ((w, h), root) = (self.size, svg.area());
        // plotters keeps the last unit of a chart's area free.
        let (width, height) = at(w + left, h + bottom);
        let area = root.clone().shrink(at(x - left, y), (width + 1, height + 1));
        let mut context = ChartBuilder::on(&area)
            .y_label_area_size(units(left))
            .x_label_area_size(units(bottom))
            .build_cartesian_2d(chart.x.clone(), chart.y.clone())?;
        let mut mesh = context.configure_mesh();
        // Names stand without tick marks, which is more than plotters' labels do.
        let tick = |axis: &Axis| if axis.named { 0 } else { units(3.5) };
        mesh.set_tick_mark_size(LabelAreaPosition::Bottom, tick(&chart.x))
            .set_tick_mark_size(LabelAreaPosition::Left, tick(&chart.y))
            .axis_style(stroke(if self.mesh { INK } else { BORDER }, 1.0))
            .bold_line_style(stroke(GRID, 1.0))
            .light_line_style(stroke(FINE_GRID, 1.0))
            .label_style(font(SMALL, INK, HPos::Center));
        if chart.x.named {
            mesh.disable_x_mesh().x_label_formatter(&|_| String::new());
        }
        if chart.y.named {
            mesh.disable_y_mesh().y_label_formatter(&|_| String::new());
        }
        if !self.mesh {
            mesh.disable_mesh();
        }
        mesh.draw()?;
        if chart.x.named && bottom > 0.0 {
            Names::new(&chart.x, w).draw(&root, &chart.x, (x, y + h), w)?;
        }
        for (value, name) in chart.y.ticks.iter().filter(|_| chart.y.named && left > 0.0) {
            let place = at(x - 6.0, y + (1.0 - chart.y.share(*value)) * h);
            root.draw_text(name, &font(SMALL, INK, HPos::Right), place)?;
        }
        (chart.paint)(&mut Plot { svg, chart: context })?;
        if !self.mesh {
            root.draw(&Rectangle::new([at(x, y), at(x + w, y + h)], stroke(BORDER, 1.0)))?;
        }
        Ok(())
    }
}

/// The names below an axis: side by side, or, where they would touch, in several lines or upright.
struct Names {
    lines: Vec<Vec<String>>,
    upright: bool,
    /// Pixels needed below the axis.
    depth: f64,
}

impl Names {
    fn new(axis: &Axis, length: f64) -> Self {
        let room = length / axis.ticks.len().max(1) as f64 - 6.0;
        let crowded = axis.named && axis.crowded(length);
        let fits = |name: &str| name.split(' ').all(|word| text::width(word, SMALL) <= room);
        let upright = crowded && !axis.ticks.iter().all(|tick| fits(&tick.1));
        let room = if crowded && !upright { room } else { f64::INFINITY };
        let lines: Vec<_> = axis.ticks.iter().map(|tick| text::wrap(&tick.1, SMALL, room)).collect();
        let depth = match lines.iter().map(Vec::len).max() {
            _ if upright => axis.widest() + 14.0,
            lines => lines.unwrap_or(0) as f64 * 13.0 + 9.0,
        };
        Self { lines, upright, depth }
    }

    fn draw(&self, root: &Area, axis: &Axis, (x, y): (f64, f64), length: f64) -> Result<(), PlotError> {
        let (style, drop) = match self.upright {
            true => (font(SMALL, INK, HPos::Right).transform(FontTransform::Rotate270), 7.0),
            false => (font(SMALL, INK, HPos::Center), 13.0),
        };
        let mut labels = axis.ticks.iter().zip(&self.lines);
        labels.try_for_each(|((value, _), lines)| {
            write_lines(root, lines, &style, (x + axis.share(*value) * length, y + drop), (0.0, 13.0))
        })
    }
}

/// The title's lines, centred at `middle` where there is room, and inside the figure anyway.
pub(super) fn headline(root: &Area, lines: &[String], middle: f64) -> Result<(), PlotError> {
    let width = f64::from(root.dim_in_pixel().0) / FINE;
    let half = lines.iter().map(|line| text::width(line, TITLE * 1.13) / 2.0).fold(0.0, f64::max);
    let middle = middle.min(width - 8.0 - half).max(8.0 + half);
    let bold = ("sans-serif", TITLE * EM * FINE, FontStyle::Bold).into_font().color(&INK);
    write_lines(root, lines, &bold.pos(Pos::new(HPos::Center, VPos::Center)), (middle, 17.0), (0.0, 19.0))
}

/// The lines of a title in a figure `width` pixels wide, and the height they take.
pub(super) fn title_lines(title: &str, width: f64) -> (Vec<String>, f64) {
    let lines = text::wrap(title, TITLE * 1.13, width - 24.0);
    let height = lines.len() as f64 * 19.0;
    (lines, height)
}

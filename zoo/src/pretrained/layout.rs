//! Where the numbers of a tensor of theirs are in tensors of ours. One table serves both ways.

use crate::checkpoint::Tensors;
use burn::tensor::TensorData;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// A tensor of theirs: one of ours, or rows of several in the order in which they are stacked.
#[derive(Clone, Debug)]
pub(super) struct Place {
    theirs: String,
    parts: Vec<Part>,
    /// Their shape and that of our rows together, where they differ in more than rows.
    shapes: Option<[Vec<usize>; 2]>,
}

#[derive(Clone, Debug)]
struct Part {
    ours: String,
    /// All when absent.
    rows: Option<Range<usize>>,
}

impl Place {
    /// The same tensor under another name.
    pub fn same(theirs: impl Into<String>, ours: impl Into<String>) -> Self {
        Self { theirs: theirs.into(), parts: vec![Part { ours: ours.into(), rows: None }], shapes: None }
    }

    /// `rows` of tensors of ours, one range after the other.
    pub fn stacked<'a>(theirs: impl Into<String>, rows: impl IntoIterator<Item = (&'a str, Range<usize>)>) -> Self {
        let part = |(ours, rows): (&str, Range<usize>)| Part { ours: ours.into(), rows: Some(rows) };
        Self { theirs: theirs.into(), parts: rows.into_iter().map(part).collect(), shapes: None }
    }

    /// The same numbers in other shapes.
    pub fn shaped(self, theirs: &[usize], ours: &[usize]) -> Self {
        Self { shapes: Some([theirs.to_vec(), ours.to_vec()]), ..self }
    }

    /// Their shape.
    fn shape(&self, model: &Shapes) -> Vec<usize> {
        if let Some([theirs, _]) = &self.shapes {
            return theirs.clone();
        }
        let mut shape = model[&self.parts[0].ours].clone();
        let rows = |part: &Part| part.rows.as_ref().map_or(model[&part.ours][0], Range::len);
        shape[0] = self.parts.iter().map(rows).sum();
        shape
    }

    /// The place below two prefixes.
    pub fn below(mut self, theirs: &str, ours: &str) -> Self {
        self.theirs = format!("{theirs}.{}", self.theirs);
        self.parts.iter_mut().for_each(|part| part.ours = format!("{ours}.{}", part.ours));
        self
    }
}

/// Shapes of tensors by name.
pub(super) type Shapes = BTreeMap<String, Vec<usize>>;

/// Everything in which the tensors of a checkpoint differ from those that `model` needs: missing,
/// unknown, of another shape.
pub(super) fn problems(places: &[Place], theirs: &Shapes, model: &Shapes) -> Vec<String> {
    let mut problems = Vec::new();
    for place in places {
        let name = &place.theirs;
        let expected = place.shape(model);
        match theirs.get(name) {
            None => problems.push(format!("missing {name}")),
            Some(found) if *found != expected => {
                problems.push(format!("{name} has shape {found:?}, expected {expected:?}"));
            }
            Some(_) => {}
        }
    }
    let known: BTreeSet<&String> = places.iter().map(|place| &place.theirs).collect();
    problems.extend(theirs.keys().filter(|name| !known.contains(name)).map(|name| format!("unknown {name}")));
    problems
}

/// For every tensor of ours, from where its rows come, in their order.
pub(super) struct Sources<'a>(BTreeMap<&'a str, Vec<Source<'a>>>);

struct Source<'a> {
    place: &'a Place,
    part: &'a Part,
    /// The first row of the part in their tensor.
    start: usize,
}

impl<'a> Sources<'a> {
    pub fn of(places: &'a [Place]) -> Self {
        let mut sources: BTreeMap<&str, Vec<Source>> = BTreeMap::new();
        for place in places {
            let mut start = 0;
            for part in &place.parts {
                sources.entry(&part.ours).or_default().push(Source { place, part, start });
                start += part.rows.as_ref().map_or(0, Range::len);
            }
        }
        let first = |source: &Source| source.part.rows.as_ref().map_or(0, |rows| rows.start);
        sources.values_mut().for_each(|sources| sources.sort_by_key(first));
        Self(sources)
    }

    /// The tensors that have sources.
    pub fn names(&self) -> impl Iterator<Item = &'a str> {
        self.0.keys().copied()
    }

    /// A tensor of ours, made of theirs, which `read` gives. None where it has no source.
    pub fn tensor<E>(
        &self,
        ours: &str,
        mut read: impl FnMut(&str) -> Result<TensorData, E>,
    ) -> Option<Result<TensorData, E>> {
        let mut last: Option<(&str, TensorData)> = None; // many parts come from one tensor
        let piece = |source: &Source<'a>| {
            let name = source.place.theirs.as_str();
            let data = match (last.take(), &source.place.shapes) {
                (Some((same, data)), _) if same == name => data,
                (_, Some([_, ours])) => shaped(read(name)?, ours),
                (_, None) => read(name)?,
            };
            let piece = match &source.part.rows {
                Some(rows) => take(&data, source.start..source.start + rows.len()),
                None => data.clone(),
            };
            last = Some((name, data));
            Ok(piece)
        };
        Some(self.0.get(ours)?.iter().map(piece).collect::<Result<_, E>>().map(join))
    }
}

/// Tensors of ours under their names.
pub(super) fn to_theirs(places: &[Place], ours: &Tensors) -> Tensors {
    let one = |Place { theirs, parts, shapes }: &Place| {
        let piece = |part: &Part| match &part.rows {
            None => ours[&part.ours].clone(),
            Some(rows) => take(&ours[&part.ours], rows.clone()),
        };
        let data = join(parts.iter().map(piece).collect());
        let data = match shapes {
            Some([their_shape, _]) => shaped(data, their_shape),
            None => data,
        };
        (theirs.clone(), data)
    };
    places.iter().map(one).collect()
}

/// Some rows, in f32.
fn take(data: &TensorData, rows: Range<usize>) -> TensorData {
    let mut shape = data.shape().to_vec();
    let width: usize = shape[1..].iter().product();
    let numbers = rows.start * width..rows.end * width;
    let values: Vec<f32> = match data.as_slice::<f32>() {
        Ok(all) => all[numbers].to_vec(),
        Err(_) => data.iter::<f32>().skip(numbers.start).take(numbers.len()).collect(),
    };
    shape[0] = rows.len();
    TensorData::new(values, shape)
}

/// The rows of a matrix in another order.
pub(super) fn reordered(data: &TensorData, order: impl Iterator<Item = usize>) -> TensorData {
    join(order.map(|row| take(data, row..row + 1)).collect())
}

/// The same numbers in another shape.
fn shaped(data: TensorData, shape: &[usize]) -> TensorData {
    let (bytes, _, dtype) = data.into_parts();
    TensorData::from_bytes(bytes, shape.to_vec(), dtype)
}

/// Rows one after the other, in f32 where there are several pieces, each of which is let go when it has its place.
fn join(mut pieces: Vec<TensorData>) -> TensorData {
    if pieces.len() == 1 {
        return pieces.remove(0);
    }
    let mut shape = pieces[0].shape().to_vec();
    shape[0] = pieces.iter().map(|piece| piece.shape().to_vec()[0]).sum();
    let mut values = Vec::with_capacity(shape.iter().product());
    for piece in pieces {
        match piece.as_slice::<f32>() {
            Ok(all) => values.extend_from_slice(all),
            Err(_) => values.extend(piece.iter::<f32>()),
        }
    }
    TensorData::new(values, shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(values: &[f32]) -> TensorData {
        TensorData::new(values.to_vec(), [values.len() / 2, 2])
    }

    /// Two of ours, interleaved in theirs.
    fn places() -> Vec<Place> {
        vec![
            Place::stacked("qg", [("q", 0..1), ("g", 0..1), ("q", 1..2), ("g", 1..2)]),
            Place::same("conv", "conv").shaped(&[2, 1, 2], &[2, 2]),
        ]
    }

    fn shapes() -> Shapes {
        ["q", "g", "conv"].map(|name| (name.to_string(), vec![2, 2])).into()
    }

    #[test]
    fn one_table_leads_there_and_back() {
        let theirs: Tensors = [
            ("qg".to_string(), matrix(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])),
            ("conv".to_string(), TensorData::new(vec![1.0f32, 2.0, 3.0, 4.0], [2, 1, 2])),
        ]
        .into();
        let places = places();
        let sources = Sources::of(&places);
        let read = |name: &str| Ok::<_, ()>(theirs[name].clone());
        let ours: Tensors =
            sources.names().map(|name| (name.to_string(), sources.tensor(name, read).unwrap().unwrap())).collect();
        assert_eq!(ours["q"], matrix(&[1.0, 2.0, 5.0, 6.0]));
        assert_eq!(ours["g"], matrix(&[3.0, 4.0, 7.0, 8.0]));
        assert_eq!(ours["conv"], matrix(&[1.0, 2.0, 3.0, 4.0]));
        assert_eq!(to_theirs(&places, &ours), theirs);
    }

    #[test]
    fn a_stack_of_ours_is_made_of_matrices_of_theirs() {
        let place = |e: usize| Place::stacked(format!("{e}.up"), [("up", e..e + 1)]).shaped(&[1, 2], &[1, 1, 2]);
        let places = [place(2), place(0), place(1)];
        let theirs: Tensors = [("0.up", [1.0, 2.0]), ("1.up", [3.0, 4.0]), ("2.up", [5.0, 6.0])]
            .map(|(name, values)| (name.to_string(), matrix(&values)))
            .into();
        let read = |name: &str| Ok::<_, ()>(theirs[name].clone());
        let stack = Sources::of(&places).tensor("up", read).unwrap().unwrap();
        assert_eq!(stack, TensorData::new(vec![1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], [3, 1, 2]));
        let ours: Tensors = [("up".to_string(), stack)].into();
        assert_eq!(to_theirs(&places, &ours), theirs);
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let theirs = [("qg", vec![2, 2]), ("other", vec![1])].map(|(name, shape)| (name.to_string(), shape)).into();
        let told = problems(&places(), &theirs, &shapes());
        assert_eq!(told, ["qg has shape [2, 2], expected [4, 2]", "missing conv", "unknown other"]);
    }
}

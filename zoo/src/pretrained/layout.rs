//! Where the numbers of a tensor of theirs are in tensors of ours. One table serves both ways.

use crate::checkpoint::Tensors;
use burn::tensor::TensorData;
use std::collections::BTreeMap;
use std::ops::Range;

/// A tensor of theirs: one of ours, or rows of several in the order in which they are stacked.
#[derive(Clone, Debug)]
pub(super) struct Place {
    theirs: String,
    parts: Vec<Part>,
    /// Their shape and ours, where they differ in more than rows.
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

/// The shapes of our tensors by name.
pub(super) type Shapes = BTreeMap<String, Vec<usize>>;

/// Tensors of theirs under our names.
///
/// # Errors
/// All that are missing, unknown or of another shape than the model's.
pub(super) fn to_ours(places: &[Place], mut theirs: Tensors, model: &Shapes) -> Result<Tensors, String> {
    let mut problems = Vec::new();
    let mut pieces: BTreeMap<&str, Vec<(usize, TensorData)>> = BTreeMap::new();
    for place in places {
        let name = &place.theirs;
        let Some(mut data) = theirs.remove(name) else {
            problems.push(format!("missing {name}"));
            continue;
        };
        let (found, expected) = (data.shape().to_vec(), place.shape(model));
        if found != expected {
            problems.push(format!("{name} has shape {found:?}, expected {expected:?}"));
            continue;
        }
        if let Some([_, ours]) = &place.shapes {
            data = shaped(data, ours);
        }
        let mut start = 0;
        for Part { ours, rows } in &place.parts {
            let (first, piece) = match rows {
                None => (0, data.clone()),
                Some(rows) => (rows.start, take(&data, start..start + rows.len())),
            };
            start += rows.as_ref().map_or(0, Range::len);
            pieces.entry(ours).or_default().push((first, piece));
        }
    }
    problems.extend(theirs.keys().map(|name| format!("unknown {name}")));
    if !problems.is_empty() {
        return Err(problems.join("; "));
    }
    let joined = pieces.into_iter().map(|(ours, mut pieces)| {
        pieces.sort_by_key(|(first, _)| *first);
        (ours.to_owned(), join(pieces.into_iter().map(|(_, piece)| piece).collect()))
    });
    Ok(joined.collect())
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
    let values: Vec<f32> = data.iter::<f32>().skip(rows.start * width).take(rows.len() * width).collect();
    shape[0] = rows.len();
    TensorData::new(values, shape)
}

/// The same numbers in another shape.
fn shaped(data: TensorData, shape: &[usize]) -> TensorData {
    let (bytes, _, dtype) = data.into_parts();
    TensorData::from_bytes(bytes, shape.to_vec(), dtype)
}

fn join(mut pieces: Vec<TensorData>) -> TensorData {
    if pieces.len() == 1 {
        return pieces.remove(0);
    }
    let mut shape = pieces[0].shape().to_vec();
    shape[0] = pieces.iter().map(|piece| piece.shape().to_vec()[0]).sum();
    TensorData::new(pieces.iter().flat_map(|piece| piece.iter::<f32>()).collect::<Vec<_>>(), shape)
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
        let ours = to_ours(&places(), theirs.clone(), &shapes()).unwrap();
        assert_eq!(ours["q"], matrix(&[1.0, 2.0, 5.0, 6.0]));
        assert_eq!(ours["g"], matrix(&[3.0, 4.0, 7.0, 8.0]));
        assert_eq!(ours["conv"], matrix(&[1.0, 2.0, 3.0, 4.0]));
        assert_eq!(to_theirs(&places(), &ours), theirs);
    }

    #[test]
    fn everything_wrong_is_in_one_error() {
        let theirs: Tensors = [("qg".to_string(), matrix(&[0.0; 4])), ("other".to_string(), matrix(&[0.0; 2]))].into();
        let error = to_ours(&places(), theirs, &shapes()).unwrap_err();
        for part in ["qg has shape [2, 2], expected [4, 2]", "missing conv", "unknown other"] {
            assert!(error.contains(part), "{error}");
        }
    }
}

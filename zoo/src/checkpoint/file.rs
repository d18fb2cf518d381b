//! Safetensors files.

use super::{Tensors, problem, write_atomically};
use crate::ZooError;
use burn::tensor::TensorData;
use memmap2::Mmap;
use safetensors::tensor::{Metadata, TensorInfo, TensorView};
use safetensors::{Dtype, SafeTensors};
use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::{Path, PathBuf};

/// A safetensors file, open. Opening reads the header alone; a tensor is read when it is asked for, so
/// a file larger than the memory can be looked into.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    bytes: Mmap,
    header: Metadata,
    /// Where the data begins.
    data: usize,
}

impl File {
    /// # Errors
    /// A missing, truncated or corrupt file, with its name.
    pub fn open(path: &Path) -> Result<Self, ZooError> {
        let file = open(path)?;
        // SAFETY: mapped bytes must not change while they are read, and a read behind the end of a
        // file that was cut short meanwhile kills the process (SIGBUS). Everything here replaces
        // checkpoints by renaming, never in place (`write_atomically`), which leaves a mapped file as
        // it was; whoever truncates one under a running program is not protected from.
        let bytes = unsafe { Mmap::map(&file) }.map_err(|e| problem(path, e.to_string()))?;
        let (length, header) = SafeTensors::read_metadata(&bytes)
            .map_err(|e| problem(path, format!("not a complete safetensors file ({e})")))?;
        Ok(Self { path: path.into(), bytes, header, data: size_of::<u64>() + length })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What whoever wrote the file said of it.
    pub fn metadata(&self) -> HashMap<String, String> {
        self.header.metadata().clone().unwrap_or_default()
    }

    /// Type, shape and place of every tensor as it is stored.
    pub fn stored(&self) -> BTreeMap<String, &TensorInfo> {
        self.header.tensors().into_iter().collect()
    }

    /// One tensor: half precision becomes f32, everything else keeps its type.
    ///
    /// # Errors
    /// A name that the file does not hold; a type that is not read here.
    pub fn tensor(&self, name: &str) -> Result<TensorData, ZooError> {
        let fail = |what: String| problem(&self.path, format!("{name}: {what}"));
        let info = self.header.info(name).ok_or_else(|| fail("no such tensor".into()))?;
        let (from, to) = info.data_offsets;
        // Compared with the file's length when it was opened.
        let (bytes, shape) = (&self.bytes[self.data + from..self.data + to], info.shape.clone());
        fn numbers<const N: usize, T>(bytes: &[u8], read: fn([u8; N]) -> T) -> Vec<T> {
            bytes.as_chunks::<N>().0.iter().map(|chunk| read(*chunk)).collect()
        }
        let bf16 = |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16);
        Ok(match info.dtype {
            Dtype::F32 => TensorData::new(numbers(bytes, f32::from_le_bytes), shape),
            Dtype::F64 => TensorData::new(numbers(bytes, f64::from_le_bytes), shape),
            Dtype::I32 => TensorData::new(numbers(bytes, i32::from_le_bytes), shape),
            Dtype::I64 => TensorData::new(numbers(bytes, i64::from_le_bytes), shape),
            Dtype::BF16 => TensorData::new(numbers(bytes, bf16), shape),
            Dtype::F16 => TensorData::new(numbers(bytes, |b| burn::tensor::f16::from_le_bytes(b).to_f32()), shape),
            other => {
                return Err(fail(format!("dtype {other:?} is not supported; valid: F16, BF16, F32, F64, I32, I64")));
            }
        })
    }

    /// One tensor that can be a weight.
    ///
    /// # Errors
    /// As [`File::tensor`]; whole numbers, infinite ones, NaN.
    pub(crate) fn weight(&self, name: &str) -> Result<TensorData, ZooError> {
        let data = self.tensor(name)?;
        if data.dtype().is_float() && data.iter::<f64>().all(f64::is_finite) {
            return Ok(data);
        }
        Err(problem(&self.path, format!("{name} is not of finite floating-point numbers")))
    }
}

/// A file that ends: a pipe or a device would block, or never come to an end.
fn open(path: &Path) -> Result<std::fs::File, ZooError> {
    let io = |e: std::io::Error| problem(path, e.to_string());
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(problem(path, "not a file"));
    }
    std::fs::File::open(path).map_err(io)
}

/// The text of a `config.json` or an index of shards, none of which is longer than [`MOST_TEXT`].
pub(crate) fn read_text(path: &Path) -> Result<String, ZooError> {
    let mut text = String::new();
    let read = open(path)?.take(MOST_TEXT + 1).read_to_string(&mut text);
    read.map_err(|e| problem(path, e.to_string()))?;
    if text.len() as u64 > MOST_TEXT {
        return Err(problem(path, format!("longer than {MOST_TEXT} bytes")));
    }
    Ok(text)
}

/// The index of a model of a hundred thousand tensors takes 10 MB.
const MOST_TEXT: u64 = 32 << 20;

/// Tensors and metadata of a safetensors file.
///
/// # Errors
/// As [`File::open`] and [`File::tensor`].
pub fn read(path: &Path) -> Result<(Tensors, HashMap<String, String>), ZooError> {
    let file = File::open(path)?;
    let tensors = file.stored().into_keys().map(|name| Ok((name.clone(), file.tensor(&name)?)));
    Ok((tensors.collect::<Result<_, ZooError>>()?, file.metadata()))
}

/// Writes a safetensors file: complete under another name first, then renamed, so that no reader
/// and no crash meets half a file.
pub fn write(path: &Path, tensors: &Tensors, metadata: HashMap<String, String>) -> Result<(), ZooError> {
    write_atomically(path, &serialised(path, tensors, metadata)?)
}

/// What [`write`] writes.
pub(super) fn serialised(
    path: &Path,
    tensors: &Tensors,
    metadata: HashMap<String, String>,
) -> Result<Vec<u8>, ZooError> {
    let views = tensors
        .iter()
        .map(|(name, data)| {
            let dtype = match data.dtype() {
                burn::tensor::DType::F32 => Dtype::F32,
                burn::tensor::DType::F64 => Dtype::F64,
                burn::tensor::DType::I64 => Dtype::I64,
                burn::tensor::DType::I32 => Dtype::I32,
                other => return Err(problem(path, format!("{name}: cannot write dtype {other:?}"))),
            };
            let view = TensorView::new(dtype, data.shape().to_vec(), data.as_bytes());
            Ok((name.as_str(), view.map_err(|e| problem(path, format!("{name}: {e}")))?))
        })
        .collect::<Result<Vec<_>, _>>()?;
    safetensors::serialize(views, Some(metadata)).map_err(|e| problem(path, e.to_string()))
}

//! Weights on disk: a directory with `config.json` and `model.safetensors`.
//!
//! Tensors are named by their place in the module (`blocks.0.mixer.q_proj.weight`), the same
//! whichever variant of an enum holds them, so files read like the checkpoints of others.

use crate::{Decoder, Mixer, ModelConfig, ZooError};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor, TensorData};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::Path;

/// Tensors by name.
pub type Tensors = BTreeMap<String, TensorData>;

/// Every parameter of a module, by name.
pub fn tensors<M: Module>(module: &M) -> Tensors {
    struct Visitor {
        place: Place,
        tensors: Tensors,
    }
    impl ModuleVisitor for Visitor {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.place.enter(name);
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.place.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.tensors.insert(self.place.name(), param.val().into_data());
        }
    }
    let mut visitor = Visitor { place: Place::default(), tensors: Tensors::new() };
    module.visit(&mut visitor);
    visitor.tensors
}

/// The module with its parameters replaced by `tensors`.
///
/// # Errors
/// One that lists every missing and unknown tensor and every wrong shape.
pub fn apply<M: Module>(module: M, tensors: &Tensors, source: &Path) -> Result<M, ZooError> {
    struct Mapper<'a> {
        place: Place,
        tensors: &'a Tensors,
        used: Vec<String>,
        problems: Vec<String>,
    }
    impl ModuleMapper for Mapper<'_> {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.place.enter(name);
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.place.exit();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let name = self.place.name();
            let Some(data) = self.tensors.get(&name) else {
                self.problems.push(format!("missing {name}"));
                return param;
            };
            self.used.push(name.clone());
            let shape = param.lazy_shape();
            if *data.shape() != shape {
                self.problems.push(format!("{name} has shape {:?}, expected {:?}", data.shape(), shape));
                return param;
            }
            param.map(|old| {
                let options = (&old.device(), old.dtype());
                Tensor::from_data(data.clone().convert_dtype(old.dtype()), options)
                    .set_require_grad(old.is_require_grad())
            })
        }
    }
    let mut mapper = Mapper { place: Place::default(), tensors, used: Vec::new(), problems: Vec::new() };
    let module = module.map(&mut mapper);
    let Mapper { used, mut problems, .. } = mapper;
    problems.extend(tensors.keys().filter(|name| !used.contains(name)).map(|name| format!("unknown {name}")));
    if problems.is_empty() {
        return Ok(module);
    }
    Err(ZooError::Checkpoint { path: source.into(), problem: problems.join("; ") })
}

/// Writes a safetensors file: complete under another name first, then renamed, so that no reader
/// and no crash meets half a file.
pub fn write(path: &Path, tensors: &Tensors, metadata: HashMap<String, String>) -> Result<(), ZooError> {
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
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(|e| problem(path, e.to_string()))?;
    write_atomically(path, &bytes)
}

/// Tensors and metadata of a safetensors file.
///
/// # Errors
/// A missing, truncated or corrupt file, with its name.
pub fn read(path: &Path) -> Result<(Tensors, HashMap<String, String>), ZooError> {
    let bytes = std::fs::read(path).map_err(|e| problem(path, e.to_string()))?;
    let corrupt = |e: safetensors::SafeTensorError| problem(path, format!("not a complete safetensors file ({e})"));
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(corrupt)?;
    let metadata = header.metadata().clone().unwrap_or_default();
    let file = SafeTensors::deserialize(&bytes).map_err(corrupt)?;
    let tensors = file
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let data = to_data(&view).ok_or_else(|| {
                problem(
                    path,
                    format!("{name}: dtype {:?} is not supported; valid: F16, BF16, F32, F64, I32, I64", view.dtype()),
                )
            })?;
            Ok((name, data))
        })
        .collect::<Result<_, ZooError>>()?;
    Ok((tensors, metadata))
}

/// Half precision becomes f32; everything else keeps its type.
fn to_data(view: &TensorView) -> Option<TensorData> {
    let (bytes, shape) = (view.data(), view.shape().to_vec());
    fn numbers<const N: usize, T>(bytes: &[u8], read: fn([u8; N]) -> T) -> Vec<T> {
        bytes.as_chunks::<N>().0.iter().map(|chunk| read(*chunk)).collect()
    }
    Some(match view.dtype() {
        Dtype::F32 => TensorData::new(numbers(bytes, f32::from_le_bytes), shape),
        Dtype::F64 => TensorData::new(numbers(bytes, f64::from_le_bytes), shape),
        Dtype::I32 => TensorData::new(numbers(bytes, i32::from_le_bytes), shape),
        Dtype::I64 => TensorData::new(numbers(bytes, i64::from_le_bytes), shape),
        Dtype::BF16 => {
            TensorData::new(numbers(bytes, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)), shape)
        }
        Dtype::F16 => TensorData::new(numbers(bytes, |b| burn::tensor::f16::from_le_bytes(b).to_f32()), shape),
        _ => return None,
    })
}

/// Saves a decoder that [`load`] reads again.
pub fn save<M: Mixer>(dir: &Path, config: &ModelConfig, model: &Decoder<M>) -> Result<(), ZooError> {
    std::fs::create_dir_all(dir).map_err(|e| problem(dir, e.to_string()))?;
    write(&dir.join("model.safetensors"), &tensors(model), HashMap::new())?;
    write_atomically(&dir.join("config.json"), config.to_json().as_bytes())
}

/// A decoder of the catalogue from a directory that [`save`] wrote.
pub fn load(dir: &Path, device: &Device) -> Result<(ModelConfig, Decoder), ZooError> {
    let path = dir.join("config.json");
    let json = std::fs::read_to_string(&path).map_err(|e| problem(&path, e.to_string()))?;
    let config = ModelConfig::from_json(&json).map_err(|e| problem(&path, e.to_string()))?;
    let weights = dir.join("model.safetensors");
    let (tensors, _) = read(&weights)?;
    let model = apply(config.init(0, device)?, &tensors, &weights)?;
    Ok((config, model))
}

/// Writes a file under another name, syncs it, and renames it.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), ZooError> {
    let io = |e: std::io::Error| problem(path, e.to_string());
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(io)?;
    file.write_all(bytes).map_err(io)?;
    file.as_file().sync_all().map_err(io)?;
    file.persist(path).map_err(|e| io(e.error))?;
    // The name itself must reach the disk too.
    std::fs::File::open(folder).and_then(|dir| dir.sync_all()).map_err(io)
}

fn problem(path: &Path, problem: String) -> ZooError {
    ZooError::Checkpoint { path: path.into(), problem }
}

/// A parameter's place in a module, for visitors and mappers that need its name.
///
/// The name of an enum's variant is left out: it says which struct the tensor is in, which the
/// configuration says already.
#[derive(Debug, Default)]
pub struct Place(Vec<String>);

impl Place {
    /// To be called by `enter_module`.
    pub fn enter(&mut self, name: &str) {
        self.0.push(name.into());
    }
    /// To be called by `exit_module`.
    pub fn exit(&mut self) {
        self.0.pop();
    }
    /// The dotted name, such as `blocks.0.mixer.q_proj.weight`.
    pub fn name(&self) -> String {
        let variant = |part: &&String| !part.starts_with(char::is_uppercase);
        self.0.iter().filter(variant).cloned().collect::<Vec<_>>().join(".")
    }
}

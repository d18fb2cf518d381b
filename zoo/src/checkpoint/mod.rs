//! Weights on disk: a directory with `config.json` and `model.safetensors`.
//!
//! Tensors are named by their place in the module (`blocks.0.mixer.q_proj.weight`), the same
//! whichever variant of an enum holds them, so files read like the checkpoints of others.

mod file;

pub(crate) use file::read_text;
pub use file::{File, read, write};

use crate::{Decoder, ModelConfig, ZooError};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor, TensorData};
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

/// The shape of every parameter of a module, by name.
pub(crate) fn shapes<M: Module>(module: &M) -> BTreeMap<String, Vec<usize>> {
    #[derive(Default)]
    struct Visitor {
        place: Place,
        shapes: BTreeMap<String, Vec<usize>>,
    }
    impl ModuleVisitor for Visitor {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.place.enter(name);
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.place.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.shapes.insert(self.place.name(), param.lazy_shape().to_vec());
        }
    }
    let mut visitor = Visitor::default();
    module.visit(&mut visitor);
    visitor.shapes
}

/// The module with its parameters replaced by `tensors`.
///
/// # Errors
/// One that lists every missing and unknown tensor and every wrong shape.
pub fn apply<M: Module>(module: M, tensors: &Tensors, source: &Path) -> Result<M, ZooError> {
    let shapes = tensors.iter().map(|(name, data)| (name.clone(), data.shape().to_vec())).collect();
    fill(module, shapes, |name| Ok(tensors[name].clone()), source)
}

/// The module with its parameters replaced by tensors of the given names and shapes, each of which
/// `read` gives when its turn comes.
pub(crate) fn fill<M: Module>(
    module: M,
    shapes: BTreeMap<String, Vec<usize>>,
    read: impl FnMut(&str) -> Result<TensorData, ZooError>,
    source: &Path,
) -> Result<M, ZooError> {
    struct Mapper<R> {
        place: Place,
        shapes: BTreeMap<String, Vec<usize>>,
        read: R,
        problems: Vec<String>,
    }
    impl<R: FnMut(&str) -> Result<TensorData, ZooError>> ModuleMapper for Mapper<R> {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.place.enter(name);
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.place.exit();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let name = self.place.name();
            let Some(shape) = self.shapes.remove(&name) else {
                self.problems.push(format!("missing {name}"));
                return param;
            };
            let expected = param.lazy_shape();
            if shape != expected.to_vec() {
                self.problems.push(format!("{name} has shape {shape:?}, expected {expected:?}"));
                return param;
            }
            match (self.read)(&name) {
                Ok(data) => param.map(|old| {
                    let options = (&old.device(), old.dtype());
                    Tensor::from_data(data.convert_dtype(old.dtype()), options).set_require_grad(old.is_require_grad())
                }),
                Err(error) => {
                    self.problems.push(error.to_string());
                    param
                }
            }
        }
    }
    let mut mapper = Mapper { place: Place::default(), shapes, read, problems: Vec::new() };
    let module = module.map(&mut mapper);
    let Mapper { shapes, mut problems, .. } = mapper;
    problems.extend(shapes.keys().map(|name| format!("unknown {name}")));
    if problems.is_empty() {
        return Ok(module);
    }
    Err(problem(source, problems.join("; ")))
}

/// Saves a decoder. [`load`] reads it again if its mixers are those that the configuration names; one with
/// mixers of one's own is made by [`Decoder::with_mixers`] and filled by [`read`] and [`apply`].
pub fn save(dir: &Path, config: &ModelConfig, model: &Decoder) -> Result<(), ZooError> {
    std::fs::create_dir_all(dir).map_err(|e| problem(dir, e.to_string()))?;
    write(&dir.join("model.safetensors"), &tensors(model), HashMap::new())?;
    write_atomically(&dir.join("config.json"), config.to_json().as_bytes())
}

/// A decoder of the catalogue from a directory that [`save`] wrote. Its weights are in memory once.
///
/// # Errors
/// A missing or damaged file, with its name; weights that are no finite numbers; a configuration that
/// asks for more than the file holds.
pub fn load(dir: &Path, device: &Device) -> Result<(ModelConfig, Decoder), ZooError> {
    let config = config(dir)?;
    let weights = File::open(&dir.join("model.safetensors"))?;
    let stored = weights.stored();
    let shapes: BTreeMap<_, _> = stored.into_iter().map(|(name, info)| (name, info.shape.clone())).collect();
    let held: usize = shapes.values().map(|shape| shape.iter().product::<usize>()).sum();
    backed(&config, held).map_err(|e| problem(weights.path(), e))?;
    let model = fill(config.init(0, device)?, shapes, |name| weights.weight(name), weights.path())?;
    Ok((config, model))
}

/// The configuration of a directory that [`save`] wrote.
///
/// # Errors
/// A file that is missing or describes no model, with its name.
pub fn config(dir: &Path) -> Result<ModelConfig, ZooError> {
    let path = dir.join("config.json");
    ModelConfig::from_json(&read_text(&path)?).map_err(|e| problem(&path, e.to_string()))
}

/// What must hold before a model is made: a few lines of JSON must not ask for more memory than the
/// file's tensors take.
pub(crate) fn backed(config: &ModelConfig, held: usize) -> Result<(), String> {
    let described = config.parameters();
    if described / 2 > held {
        return Err(format!("config.json describes {described} parameters, the tensors hold {held}"));
    }
    Ok(())
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

fn problem(path: &Path, problem: impl Into<String>) -> ZooError {
    ZooError::Checkpoint { path: path.into(), problem: problem.into() }
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

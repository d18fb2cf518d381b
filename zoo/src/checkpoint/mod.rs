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
use tempfile::NamedTempFile;

pub(crate) const CONFIG: &str = "config.json";
pub(crate) const WEIGHTS: &str = "model.safetensors";
/// Of shards, as Hugging Face writes it; none of ours.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

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
                Ok(data) => {
                    let (id, device) = (param.id, param.lazy_device());
                    // One that is not made yet has no type of its own.
                    let tensor = match param.is_initialized() {
                        true => Tensor::from_data(data, (&device, param.dtype())),
                        false => Tensor::from_data(data, &device),
                    };
                    param.transform_for_load(tensor, id)
                }
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
    replace(dir, &tensors(model), HashMap::new(), &config.to_json())
}

/// Puts a checkpoint in the place of one that may be there. The new files are whole on the disk before an old one goes,
/// and weights never lie beside another model's configuration: where it changes, there is none in between.
pub(crate) fn replace(
    dir: &Path,
    tensors: &Tensors,
    metadata: HashMap<String, String>,
    config: &str,
) -> Result<(), ZooError> {
    std::fs::create_dir_all(dir).map_err(|e| problem(dir, e.to_string()))?;
    let [weights, described, index] = [WEIGHTS, CONFIG, INDEX].map(|name| dir.join(name));
    let new_weights = staged(&weights, &file::serialised(&weights, tensors, metadata)?)?;
    let new_config = staged(&described, config.as_bytes())?;
    if !read_text(&described).is_ok_and(|old| old == config) {
        remove(&described)?;
    }
    put(new_weights, &weights)?;
    // An index of older shards would be read in the place of what was just put there.
    remove(&index)?;
    put(new_config, &described)
}

/// A decoder of the catalogue from a directory that [`save`] wrote. Its weights are in memory once.
///
/// # Errors
/// A missing or damaged file, with its name; weights that are no finite numbers; a configuration that
/// asks for more than the file holds.
pub fn load(dir: &Path, device: &Device) -> Result<(ModelConfig, Decoder), ZooError> {
    let config = config(dir)?;
    let weights = File::open(&dir.join(WEIGHTS))?;
    let stored = weights.stored();
    let shapes: BTreeMap<_, _> = stored.into_iter().map(|(name, info)| (name, info.shape.clone())).collect();
    let held: usize = shapes.values().map(|shape| shape.iter().product::<usize>()).sum();
    backed(&config, held).map_err(|e| problem(weights.path(), e))?;
    let model = fill(config.blank(device)?, shapes, |name| weights.weight(name), weights.path())?;
    Ok((config, model))
}

/// The configuration of a directory that [`save`] wrote.
///
/// # Errors
/// A file that is missing or describes no model, with its name.
pub fn config(dir: &Path) -> Result<ModelConfig, ZooError> {
    let path = dir.join(CONFIG);
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
    put(staged(path, bytes)?, path)
}

/// What will be `path`, whole on the disk under another name.
fn staged(path: &Path, bytes: &[u8]) -> Result<NamedTempFile, ZooError> {
    let io = |e: std::io::Error| problem(path, e.to_string());
    let mut builder = tempfile::Builder::new();
    // As any new file, where temporary ones are their owner's alone.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.prefix(".saving-").tempfile_in(folder(path)).map_err(io)?;
    file.write_all(bytes).map_err(io)?;
    file.as_file().sync_all().map_err(io)?;
    Ok(file)
}

fn put(file: NamedTempFile, path: &Path) -> Result<(), ZooError> {
    let renamed = file.persist(path).map_err(|e| e.error);
    renamed.and_then(|_| sync_folder(path)).map_err(|e| problem(path, e.to_string()))
}

/// Removes a file that may not be there.
fn remove(path: &Path) -> Result<(), ZooError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.and_then(|()| sync_folder(path)).map_err(|e| problem(path, e.to_string())),
    }
}

/// A name must reach the disk too, with the folder it is in.
fn sync_folder(path: &Path) -> std::io::Result<()> {
    std::fs::File::open(folder(path))?.sync_all()
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{preset, presets};

    #[test]
    fn what_is_read_from_a_file_is_not_drawn_first() {
        struct Made(usize);
        impl ModuleVisitor for Made {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                self.0 += usize::from(param.is_initialized());
            }
        }
        let made = |model: &Decoder| {
            let mut made = Made(0);
            model.visit(&mut made);
            made.0
        };
        for variant in presets::VARIANTS {
            let config = preset(variant, "nano").unwrap();
            let drawn = config.init(0, &Device::flex()).unwrap();
            let blank = config.blank(&Device::flex().autodiff()).unwrap();
            assert_eq!(shapes(&blank), shapes(&drawn), "{variant}");
            assert_eq!(made(&blank), 0, "{variant}");
            let filled = apply(blank, &tensors(&drawn), Path::new(variant)).unwrap();
            assert_eq!(made(&filled), shapes(&drawn).len(), "{variant}");
            assert_eq!(tensors(&filled), tensors(&drawn), "{variant}");
            assert!(filled.embedding.is_require_grad() && filled.device().is_autodiff(), "{variant}");
        }
    }

    #[test]
    fn a_checkpoint_may_be_read_by_whoever_may_read_other_files() {
        let dir = tempfile::tempdir().unwrap();
        let config = preset("baseline", "nano").unwrap();
        save(dir.path(), &config, &config.init(0, &Device::flex()).unwrap()).unwrap();
        let permissions = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().permissions();
        std::fs::write(dir.path().join("other"), "").unwrap();
        assert_eq!([WEIGHTS, CONFIG].map(permissions), ["other", "other"].map(permissions));
    }

    /// The new weights cannot take their place.
    #[test]
    fn a_checkpoint_that_is_half_replaced_is_one_of_the_two_or_none() {
        let dir = tempfile::tempdir().unwrap();
        let weights = dir.path().join(WEIGHTS);
        let config = preset("baseline", "nano").unwrap();
        let old = config.init(0, &Device::flex()).unwrap();
        for (next, is_refused) in [(config.clone(), false), (preset("gated", "nano").unwrap(), true)] {
            save(dir.path(), &config, &old).unwrap();
            let whole = std::fs::read(&weights).unwrap();
            std::fs::remove_file(&weights).unwrap();
            std::fs::create_dir(&weights).unwrap();
            let error = save(dir.path(), &next, &next.init(1, &Device::flex()).unwrap()).unwrap_err().to_string();
            assert!(error.contains(WEIGHTS), "{error}");
            std::fs::remove_dir(&weights).unwrap();
            std::fs::write(&weights, whole).unwrap();
            match load(dir.path(), &Device::flex()) {
                Ok((_, read)) => assert!(!is_refused && tensors(&read) == tensors(&old)),
                Err(error) => assert!(is_refused && error.to_string().contains(CONFIG), "{error}"),
            }
        }
    }
}

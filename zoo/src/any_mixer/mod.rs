//! A mixer whose type is not named: one of the catalogue, or one defined anywhere else.
//!
//! Decoders hold their mixers in this form. So a decoder, its trainer and all that looks inside are
//! compiled once, where they are defined: a mixer written in a notebook cell costs its own code alone,
//! stands beside built-in ones in one model, and its runs beside theirs in one list.

mod walk;

use crate::{Cache, Mixer, Tap};
use burn::module::{
    Content, Devices, DisplaySettings, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
};
use burn::tensor::{Device, Tensor};
use std::any::Any;
use std::fmt;
use walk::{AnyMapper, AnyVisitor, Mapper, Visitor};

/// Any mixer.
///
/// ```
/// use zoo::{Gated, preset};
///
/// let model = preset("hybrid", "nano")?.init(0, &burn::tensor::Device::flex())?;
/// let gated = model.blocks.iter().filter(|block| block.mixer.is::<Gated>()).count();
/// assert_eq!((gated, model.blocks.len()), (1, 4));
/// # Ok::<(), zoo::ZooError>(())
/// ```
pub struct AnyMixer(Box<dyn Erased>);

impl AnyMixer {
    /// One that is of this type already stays as it is.
    pub fn new<M: Mixer>(mixer: M) -> Self {
        let mut mixer = Some(mixer);
        if let Some(any) = (&mut mixer as &mut dyn Any).downcast_mut::<Option<Self>>() {
            return any.take().expect("just put there");
        }
        Self(Box::new(mixer.expect("not taken")))
    }

    /// Whether it is an `M`. In a notebook: of the type as the last cell defined it, not as an earlier one did.
    pub fn is<M: Mixer>(&self) -> bool {
        self.downcast_ref::<M>().is_some()
    }

    /// The mixer itself, where it is an `M`.
    pub fn downcast_ref<M: Mixer>(&self) -> Option<&M> {
        self.0.any().downcast_ref()
    }
}

impl Mixer for AnyMixer {
    fn forward(&self, x: Tensor<3>, tap: &mut dyn Tap) -> Tensor<3> {
        self.0.forward(x, tap)
    }
    fn step(&self, x: Tensor<3>, cache: &mut Cache, tap: &mut dyn Tap) -> Tensor<3> {
        self.0.step(x, cache, tap)
    }
}

/// What is asked of a mixer, without its type.
trait Erased: fmt::Debug + Send + Sync {
    fn any(&self) -> &dyn Any;
    fn forward(&self, x: Tensor<3>, tap: &mut dyn Tap) -> Tensor<3>;
    fn step(&self, x: Tensor<3>, cache: &mut Cache, tap: &mut dyn Tap) -> Tensor<3>;
    fn copy(&self) -> AnyMixer;
    fn collect_devices(&self, devices: Devices) -> Devices;
    fn fork(self: Box<Self>, device: &Device) -> AnyMixer;
    fn to_device(self: Box<Self>, device: &Device) -> AnyMixer;
    fn train(self: Box<Self>) -> AnyMixer;
    fn valid(&self) -> AnyMixer;
    fn materialize(self: Box<Self>) -> AnyMixer;
    fn visit(&self, visitor: &mut AnyVisitor);
    fn map(self: Box<Self>, mapper: &mut AnyMapper) -> AnyMixer;
    fn format(&self, settings: DisplaySettings) -> String;
    fn content(&self, content: Content) -> Option<Content>;
}

impl<M: Mixer> Erased for M {
    fn any(&self) -> &dyn Any {
        self
    }
    fn forward(&self, x: Tensor<3>, tap: &mut dyn Tap) -> Tensor<3> {
        Mixer::forward(self, x, tap)
    }
    fn step(&self, x: Tensor<3>, cache: &mut Cache, tap: &mut dyn Tap) -> Tensor<3> {
        Mixer::step(self, x, cache, tap)
    }
    fn copy(&self) -> AnyMixer {
        AnyMixer::new(self.clone())
    }
    fn collect_devices(&self, devices: Devices) -> Devices {
        Module::collect_devices(self, devices)
    }
    fn fork(self: Box<Self>, device: &Device) -> AnyMixer {
        AnyMixer::new(Module::fork(*self, device))
    }
    fn to_device(self: Box<Self>, device: &Device) -> AnyMixer {
        AnyMixer::new(Module::to_device(*self, device))
    }
    fn train(self: Box<Self>) -> AnyMixer {
        AnyMixer::new(Module::train(*self))
    }
    fn valid(&self) -> AnyMixer {
        AnyMixer::new(Module::valid(self))
    }
    fn materialize(self: Box<Self>) -> AnyMixer {
        AnyMixer::new(Module::materialize(*self))
    }
    fn visit(&self, visitor: &mut AnyVisitor) {
        Module::visit(self, visitor);
    }
    fn map(self: Box<Self>, mapper: &mut AnyMapper) -> AnyMixer {
        AnyMixer::new(Module::map(*self, mapper))
    }
    fn format(&self, settings: DisplaySettings) -> String {
        ModuleDisplay::format(self, settings)
    }
    fn content(&self, content: Content) -> Option<Content> {
        ModuleDisplayDefault::content(self, content)
    }
}

impl Module for AnyMixer {
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.0.collect_devices(devices)
    }
    fn fork(self, device: &Device) -> Self {
        self.0.fork(device)
    }
    fn to_device(self, device: &Device) -> Self {
        self.0.to_device(device)
    }
    fn train(self) -> Self {
        self.0.train()
    }
    fn valid(&self) -> Self {
        self.0.valid()
    }
    fn materialize(self) -> Self {
        self.0.materialize()
    }
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        self.0.visit(&mut AnyVisitor(visitor as &mut dyn Visitor));
    }
    fn map<V: ModuleMapper>(self, mapper: &mut V) -> Self {
        self.0.map(&mut AnyMapper(mapper as &mut dyn Mapper))
    }
}

impl Clone for AnyMixer {
    fn clone(&self) -> Self {
        self.0.copy()
    }
}

impl fmt::Debug for AnyMixer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// As the mixer itself prints.
impl fmt::Display for AnyMixer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&ModuleDisplay::format(self, DisplaySettings::default()))
    }
}

impl ModuleDisplayDefault for AnyMixer {
    fn content(&self, content: Content) -> Option<Content> {
        self.0.content(content)
    }
    fn num_params(&self) -> usize {
        Module::num_params(self)
    }
}

impl ModuleDisplay for AnyMixer {
    fn format(&self, settings: DisplaySettings) -> String {
        self.0.format(settings)
    }
}

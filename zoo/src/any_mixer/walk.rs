//! Visitors and mappers whose type is not known to the module they walk through.
//!
//! burn's have a method for every number of axes, so that no trait object can be made of them. Here a
//! parameter goes through one method as `dyn Any`, and finds its type again on the other side.

use burn::module::{Flag, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Bool, Int, Tensor};
use std::any::Any;

/// `$do!` with the methods and the type of every kind of parameter.
macro_rules! each_kind {
    ($do:ident) => { each_kind! { $do: 0 1 2 3 4 5 6 7 8 } };
    ($do:ident: $($axes:literal)+) => {
        $do! {
            $(
                visit_float map_float Tensor<$axes>,
                visit_int map_int Tensor<$axes, Int>,
                visit_bool map_bool Tensor<$axes, Bool>,
            )+
            visit_flag map_flag Flag,
        }
    };
}

/// Fails to compile where a parameter is of no such kind.
const fn has_kind(axes: usize) {
    assert!(axes <= 8, "a mixer's parameter has 8 axes at most");
}

/// Any visitor, as a visitor.
pub(super) struct AnyVisitor<'a>(pub &'a mut dyn Visitor);

pub(super) trait Visitor {
    /// Visits a `Param<_>`.
    fn param(&mut self, param: &dyn Any);
    fn enter(&mut self, name: &str, container: &str);
    fn exit(&mut self, name: &str, container: &str);
}

impl ModuleVisitor for AnyVisitor<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        const { has_kind(D) };
        self.0.param(param);
    }
    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        const { has_kind(D) };
        self.0.param(param);
    }
    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        const { has_kind(D) };
        self.0.param(param);
    }
    fn visit_flag(&mut self, flag: &Param<Flag>) {
        self.0.param(flag);
    }
    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter(name, container);
    }
    fn exit_module(&mut self, name: &str, container: &str) {
        self.0.exit(name, container);
    }
}

impl<V: ModuleVisitor> Visitor for V {
    fn param(&mut self, param: &dyn Any) {
        macro_rules! visit {
            ($($visit:ident $map:ident $kind:ty,)+) => {
                $(if let Some(param) = param.downcast_ref::<Param<$kind>>() {
                    return self.$visit(param);
                })+
            };
        }
        each_kind!(visit);
        unreachable!("`has_kind` lets no other kind compile");
    }
    fn enter(&mut self, name: &str, container: &str) {
        self.enter_module(name, container);
    }
    fn exit(&mut self, name: &str, container: &str) {
        self.exit_module(name, container);
    }
}

/// Any mapper, as a mapper.
pub(super) struct AnyMapper<'a>(pub &'a mut dyn Mapper);

pub(super) trait Mapper {
    /// Replaces the `Param<_>` in an `Option<Param<_>>`.
    fn param(&mut self, place: &mut dyn Any);
    fn enter(&mut self, name: &str, container: &str);
    fn exit(&mut self, name: &str, container: &str);
}

impl AnyMapper<'_> {
    fn param<P: 'static>(&mut self, param: P) -> P {
        let mut place = Some(param);
        self.0.param(&mut place);
        place.expect("a mapper gives a parameter for a parameter")
    }
}

impl ModuleMapper for AnyMapper<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        const { has_kind(D) };
        self.param(param)
    }
    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        const { has_kind(D) };
        self.param(param)
    }
    fn map_bool<const D: usize>(&mut self, param: Param<Tensor<D, Bool>>) -> Param<Tensor<D, Bool>> {
        const { has_kind(D) };
        self.param(param)
    }
    fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        self.param(flag)
    }
    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter(name, container);
    }
    fn exit_module(&mut self, name: &str, container: &str) {
        self.0.exit(name, container);
    }
}

impl<M: ModuleMapper> Mapper for M {
    fn param(&mut self, place: &mut dyn Any) {
        macro_rules! map {
            ($($visit:ident $map:ident $kind:ty,)+) => {
                $(if let Some(place) = place.downcast_mut::<Option<Param<$kind>>>() {
                    *place = place.take().map(|param| self.$map(param));
                    return;
                })+
            };
        }
        each_kind!(map);
        unreachable!("`has_kind` lets no other kind compile");
    }
    fn enter(&mut self, name: &str, container: &str) {
        self.enter_module(name, container);
    }
    fn exit(&mut self, name: &str, container: &str) {
        self.exit_module(name, container);
    }
}

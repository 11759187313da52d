//! Bounds what becomes of a component when the components inside it are laid out flat.
//!
//! To compile a component, wasmtime goes through each instantiation in it, and again through those inside what is
//! instantiated, so the counts multiply: a few kilobytes could ask for a thousand million instances. It copies an
//! instance, with those inside it, wherever it is named, so a chain of instances that each have the one before twice
//! doubles with every link. Validation bounds each component only by itself, and each instance to a million items.

use wasmparser::{
    ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind, ComponentTypeRef,
    Encoding, Instance, Parser, Payload,
};

use super::{invalid, within};
use crate::plugin_host::package::PackageError;

/// Refuses components with too much of their own between their modules, or too many instances.
pub(super) fn judge(component: &[u8]) -> Result<(), PackageError> {
    let mut open: Vec<Scope> = Vec::new();
    let (mut parts, mut structure) = (0_u64, 0_u64);
    for payload in Parser::new(0).parse_all(component) {
        let payload = payload.map_err(invalid)?;
        match &payload {
            Payload::Version { encoding, .. } => {
                parts += 1;
                within("modules and components inside one another", parts, PARTS_MAX)?;
                open.push(Scope::of(*encoding));
            }
            Payload::End(_) => {
                let Some(done) = open.pop() else { continue };
                done.made.judge()?;
                if let (Encoding::Component, Some(around)) = (done.encoding, open.last_mut()) {
                    around.components.push(Some(done.made));
                }
            }
            _ if open
                .last()
                .is_some_and(|scope| scope.encoding == Encoding::Component) =>
            {
                structure += own_bytes(&payload);
                within("bytes of what joins its modules", structure, STRUCTURE_BYTES_MAX)?;
                note(&mut open, payload)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Returns the bytes of a component's section; nothing for those of the modules and components inside it, and for
/// custom sections, which nothing is made of.
fn own_bytes(payload: &Payload<'_>) -> u64 {
    match payload {
        Payload::ModuleSection { .. } | Payload::ComponentSection { .. } | Payload::CustomSection(_) => 0,
        _ => payload
            .as_section()
            .map_or(0, |(_, range)| (range.end - range.start) as u64),
    }
}

/// Notes what a section of the innermost open component adds to it.
fn note(open: &mut [Scope], payload: Payload<'_>) -> Result<(), PackageError> {
    let scope = innermost(open);
    match payload {
        Payload::InstanceSection(instances) => {
            for instance in instances {
                if let Instance::Instantiate { .. } = instance.map_err(invalid)? {
                    scope.made.instances = scope.made.instances.saturating_add(1);
                }
            }
        }
        Payload::ComponentInstanceSection(instances) => {
            for instance in instances {
                match instance.map_err(invalid)? {
                    ComponentInstance::Instantiate {
                        component_index,
                        args,
                    } => {
                        let given = args.iter().map(|arg| (arg.kind, arg.index));
                        scope.instantiate(component_index, given)?;
                    }
                    ComponentInstance::FromExports(exports) => {
                        let items = exports.iter().map(|export| (export.kind, export.index));
                        let size = scope.size_of_all(items);
                        scope.add_instance(size);
                    }
                }
            }
        }
        Payload::ComponentAliasSection(aliases) => {
            for alias in aliases {
                match alias.map_err(invalid)? {
                    ComponentAlias::Outer {
                        kind: ComponentOuterAliasKind::Component,
                        count,
                        index,
                    } => hold(open, count as usize, index),
                    ComponentAlias::InstanceExport {
                        kind, instance_index, ..
                    } => {
                        // No larger than the instance that it is in.
                        innermost(open).add(kind, (ComponentExternalKind::Instance, instance_index));
                    }
                    _ => {}
                }
            }
        }
        Payload::ComponentImportSection(imports) => {
            for import in imports {
                match import.map_err(invalid)?.ty {
                    ComponentTypeRef::Component(_) => scope.components.push(None),
                    ComponentTypeRef::Instance(_) => scope.add_instance(Size::GIVEN),
                    _ => {}
                }
            }
        }
        Payload::ComponentExportSection(exports) => {
            for export in exports {
                let export = export.map_err(invalid)?;
                let of = (export.kind, export.index);
                scope.made.exported = scope.made.exported.and(scope.size(of));
                scope.add(export.kind, of);
            }
        }
        _ => {}
    }
    Ok(())
}

/// Notes that the innermost component refers to one that is `count` components further out.
fn hold(open: &mut [Scope], count: usize, index: u32) {
    let outer = open.len().checked_sub(count + 1);
    let made = outer.and_then(|at| open[at].components.get(index as usize).copied().flatten());
    // Those between hand it down, so they hold it too.
    for scope in open.iter_mut().rev().take(count) {
        let held = made.map_or(1, |made| made.held);
        scope.made.held = scope.made.held.saturating_add(held);
    }
    innermost(open).components.push(made);
}

fn innermost(open: &mut [Scope]) -> &mut Scope {
    open.last_mut()
        .expect("its sections are those of an open component")
}

/// How many items an instance has, those of the instances inside it included: `own`, and `given` times as many as the
/// component is given when it is instantiated.
#[derive(Clone, Copy)]
struct Size {
    own: u64,
    given: u64,
}

impl Size {
    const ONE: Self = Self { own: 1, given: 0 };
    const GIVEN: Self = Self { own: 0, given: 1 };

    fn and(self, other: Self) -> Self {
        Self {
            own: self.own.saturating_add(other.own),
            given: self.given.saturating_add(other.given),
        }
    }

    /// Returns the size where the component is given items of this size.
    fn given(self, items: Self) -> Self {
        Self {
            own: self.own.saturating_add(self.given.saturating_mul(items.own)),
            given: self.given.saturating_mul(items.given),
        }
    }
}

/// What one instantiation of a component makes.
#[derive(Clone, Copy)]
struct Made {
    /// Instances of modules and components, its own included.
    instances: u64,
    /// Items of all instances that it names, each time that it does.
    items: Size,
    /// Items of the instance that comes of it.
    exported: Size,
    /// Components that it refers to outside it, with all that those refer to.
    held: u64,
}

impl Made {
    fn judge(&self) -> Result<(), PackageError> {
        within(
            "instances of all components together",
            self.instances,
            INSTANCES_MAX,
        )?;
        let items = self.items.given(Size::ONE).own;
        within("items of all instances together", items, ITEMS_MAX)?;
        within("components that one refers to", self.held, PARTS_MAX)
    }
}

/// A module or component that is being read.
struct Scope {
    encoding: Encoding,
    /// The components that it can name, by index; nothing for one that it is given, not contains.
    components: Vec<Option<Made>>,
    /// The instances of components that it can name, by index.
    instances: Vec<Size>,
    made: Made,
}

impl Scope {
    fn of(encoding: Encoding) -> Self {
        Self {
            encoding,
            components: Vec::new(),
            instances: Vec::new(),
            made: Made {
                instances: 1,
                items: Size::ONE,
                exported: Size::ONE,
                held: 1,
            },
        }
    }

    /// Adds what an alias or an export gives another index.
    fn add(&mut self, kind: ComponentExternalKind, of: (ComponentExternalKind, u32)) {
        match (kind, of) {
            (ComponentExternalKind::Instance, _) => self.add_instance(self.size(of)),
            (ComponentExternalKind::Component, (ComponentExternalKind::Component, index)) => {
                let same = self.components.get(index as usize).copied().flatten();
                self.components.push(same);
            }
            (ComponentExternalKind::Component, _) => self.components.push(None),
            _ => {}
        }
    }

    fn add_instance(&mut self, size: Size) {
        self.made.items = self.made.items.and(size);
        self.instances.push(size);
    }

    fn size(&self, (kind, index): (ComponentExternalKind, u32)) -> Size {
        match kind {
            ComponentExternalKind::Instance => {
                let known = self.instances.get(index as usize).copied();
                known.unwrap_or(Size::ONE)
            }
            _ => Size::ONE,
        }
    }

    fn size_of_all(&self, items: impl Iterator<Item = (ComponentExternalKind, u32)>) -> Size {
        items.fold(Size::ONE, |all, item| all.and(self.size(item)))
    }

    fn instantiate(
        &mut self,
        component: u32,
        given: impl Iterator<Item = (ComponentExternalKind, u32)>,
    ) -> Result<(), PackageError> {
        let known = self.components.get(component as usize).copied().flatten();
        let made = known.ok_or_else(|| PackageError::TooComplex {
            reason: "it instantiates a component that it is given, not one that it contains".to_owned(),
        })?;
        let given = self.size_of_all(given);
        self.made.instances = self.made.instances.saturating_add(made.instances);
        self.made.items = self.made.items.and(given).and(made.items.given(given));
        self.add_instance(made.exported.given(given));
        Ok(())
    }
}

/// An instance may have 40 of modules, and what wit-component makes has a component for each interface.
const INSTANCES_MAX: u64 = 1_000;
/// An upper bound counts 630,000 in a JavaScript plugin, which has far fewer.
const ITEMS_MAX: u64 = 10_000_000;
/// A JavaScript plugin has 35, a Python one 41.
const PARTS_MAX: u64 = 1_000;
/// Python plugins have 87 KB.
const STRUCTURE_BYTES_MAX: u64 = 512 << 10;

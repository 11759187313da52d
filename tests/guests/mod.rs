//! Small policies written by hand, plain and hostile. Each is a core module; the host makes the
//! component. An answer of nothing but zeros is `ok(allow([]))`, `ok(())` or `ok([])`.

/// A guest whose `before-reset` has this body (of type `i32`, the address of the answer).
pub fn before(body: &str) -> Vec<u8> {
    Guest {
        before: body.into(),
        ..Guest::default()
    }
    .wasm()
}

/// A guest of this version that denies every reset with this code.
pub fn denying(version: &'static str, code: &str) -> Vec<u8> {
    denier(version, code).wasm()
}

/// The parts of such a guest.
pub fn denier(version: &'static str, code: &str) -> Guest {
    denier_saying(version, code, code)
}

/// The parts of a guest that denies every reset with this code and this message.
pub fn denier_saying(version: &'static str, code: &str, message: &str) -> Guest {
    let length = |text: &str| u8::try_from(text.len()).expect("short");
    let bytes = |text: &str| escaped(text.as_bytes());
    Guest {
        // ok(deny({ code, message, allowed-from: none, because: [] })) at 512; code at 3000, message at 3300
        items: format!(
            r#"(data (i32.const 520) "\01")
               (data (i32.const 528) "\b8\0b\00\00\{:02x}\00\00\00\e4\0c\00\00\{:02x}\00\00\00")
               (data (i32.const 3000) "{}") (data (i32.const 3300) "{}")"#,
            length(code),
            length(message),
            bytes(code),
            bytes(message),
        ),
        manifest: Manifest::of(version),
        ..Guest::default()
    }
}

/// Bytes as they stand in a text of WebAssembly.
fn escaped(bytes: &[u8]) -> String {
    let each: Vec<_> = bytes.iter().map(|b| format!("\\{b:02x}")).collect();
    each.concat()
}

/// The parts of a guest that tests vary.
pub struct Guest {
    /// `(memory …)` without the parentheses' name.
    pub memory: String,
    /// Functions, globals, tables, data, a start function.
    pub items: String,
    pub describe: String,
    pub check_config: String,
    pub before: String,
    pub after: String,
    pub realloc: String,
    /// The clean-up after `before-reset` (its answer's address is parameter 0).
    pub post_before: String,
    pub manifest: Manifest,
}

/// What `describe` says.
#[derive(Clone)]
pub struct Manifest {
    pub name: &'static str,
    pub version: &'static str,
    pub schema: &'static str,
    /// Numbers of the hooks that it implements: 0 before the reset, 1 after it.
    pub hooks: &'static [u8],
    /// Names of the effects that it may ask for.
    pub wants: &'static [&'static str],
}

impl Manifest {
    /// The manifest of such a guest in this version.
    pub fn of(version: &'static str) -> Self {
        Self {
            version,
            ..Guest::default().manifest
        }
    }
}

impl Default for Guest {
    fn default() -> Self {
        Self {
            memory: "4".into(),
            items: String::new(),
            describe: "(i32.const 1024)".into(),
            check_config: "(i32.const 512)".into(),
            before: "(i32.const 512)".into(),
            after: "(i32.const 512)".into(),
            realloc: BUMP.into(),
            post_before: String::new(),
            manifest: Manifest {
                name: "guest",
                version: "1.0.0",
                schema: "{}",
                hooks: &[0, 1],
                wants: &[],
            },
        }
    }
}

/// Hands out memory from 64 KiB upwards and never takes any back.
const BUMP: &str = "
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
    (global.set $heap (i32.add (local.get $at) (local.get 3)))
    (local.get $at)";

impl Guest {
    pub fn wasm(&self) -> Vec<u8> {
        wat::parse_str(self.wat()).expect("the guest's text is WebAssembly")
    }

    fn wat(&self) -> String {
        let Manifest {
            name,
            version,
            schema,
            hooks,
            wants,
        } = self.manifest;
        let word = |n: usize| {
            u32::try_from(n)
                .expect("short")
                .to_le_bytes()
                .map(|b| format!("\\{b:02x}"))
                .concat()
        };
        let (schema_text, hooks_text) = (escaped(schema.as_bytes()), escaped(hooks));
        // The list of what it wants at 2400, the names themselves from 2500 on.
        let (mut wants_list, mut at) = (String::new(), 2500);
        for want in wants {
            wants_list += &(word(at) + &word(want.len()));
            at += want.len();
        }
        let wants_text = wants.concat();
        // record manifest at 1024: name, version, summary, hooks, wants, history-days, config-schema
        let manifest = [
            word(2048),
            word(name.len()),
            word(2200),
            word(version.len()),
            word(2048),
            word(0),
            word(2300),
            word(hooks.len()),
            word(2400),
            word(wants.len()),
            word(30),
            word(4096),
            word(schema.len()),
        ]
        .concat();
        format!(
            r#"(module
              (import "latchkey:policy/log@1.0.0" "write" (func $log (param i32 i32 i32)))
              (memory (export "memory") {memory})
              (global $heap (mut i32) (i32.const 65536))
              (data (i32.const 1024) "{manifest}")
              (data (i32.const 2048) "{name}")
              (data (i32.const 2200) "{version}")
              (data (i32.const 2300) "{hooks_text}")
              (data (i32.const 2400) "{wants_list}")
              (data (i32.const 2500) "{wants_text}")
              (data (i32.const 4096) "{schema_text}")
              {items}
              (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) {realloc})
              (func (export "latchkey:policy/hooks@1.0.0#describe") (result i32) {describe})
              (func (export "latchkey:policy/hooks@1.0.0#check-config") (param i32 i32) (result i32) {check_config})
              (func (export "latchkey:policy/hooks@1.0.0#before-reset") (param i32) (result i32) {before})
              (func (export "cabi_post_latchkey:policy/hooks@1.0.0#before-reset") (param i32) {post_before})
              (func (export "latchkey:policy/hooks@1.0.0#after-reset") (param i32) (result i32) {after})
            )"#,
            memory = self.memory,
            items = self.items,
            realloc = self.realloc,
            describe = self.describe,
            check_config = self.check_config,
            before = self.before,
            after = self.after,
            post_before = self.post_before,
        )
    }
}

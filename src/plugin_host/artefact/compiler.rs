//! Compiles components, one at a time: in a process of its own, so that nothing that a compilation does can hurt the
//! appliance, or on a thread here, for tools and tests that have no such program.
//!
//! A thread can't be stopped, and its memory is this process's. The process bounds its own CPU time and memory
//! before it reads the component, and is killed if it takes too long by the clock.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use cpu_time::ThreadTime;
use wasmtime::Engine;

use crate::plugin_host::engine;

/// The program that compiles a component on its standard input: this binary, started with a command that calls
/// [`compile_stdin`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompilerProgram {
    /// The file to start.
    pub path: PathBuf,
    /// The arguments that choose the command.
    pub arguments: Vec<String>,
}

/// How components are compiled.
pub(super) struct Compiler {
    /// Compiles here if there is no program.
    pub(super) engine: Engine,
    pub(super) program: Option<CompilerProgram>,
    /// Maximum CPU time of one compilation.
    pub(super) limit: Duration,
}

/// Why there is no machine code.
#[derive(Debug)]
pub(super) enum Fault {
    /// The component is not valid.
    Invalid(String),
    TooLong,
    /// It took too much memory, or the compiler crashed on it.
    Crashed,
    /// The process can't be started.
    Host(String),
}

pub(super) type Compiled = Result<Vec<u8>, Fault>;

/// A component to be compiled.
pub(super) struct Job {
    pub(super) component: Vec<u8>,
    pub(super) reply: mpsc::Sender<News>,
}

pub(super) enum News {
    Started,
    Done(Compiled),
}

impl Compiler {
    /// Starts the compiler: one thread at low priority, which a process inherits, so that compilation leaves the
    /// processors to requests.
    pub(super) fn start(self) -> io::Result<mpsc::Sender<Job>> {
        let (sender, jobs) = mpsc::channel::<Job>();
        std::thread::Builder::new()
            .name("latchkey-compile".into())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                crate::plugin_host::scheduling::step_back(NICE);
                for job in jobs {
                    if job.reply.send(News::Started).is_ok() {
                        let _ = job.reply.send(News::Done(self.compile(&job.component)));
                    }
                }
            })?;
        Ok(sender)
    }

    fn compile(&self, component: &[u8]) -> Compiled {
        match &self.program {
            None => self.compile_here(component),
            Some(program) => self.compile_apart(program, component),
        }
    }

    fn compile_here(&self, component: &[u8]) -> Compiled {
        let started = ThreadTime::now();
        let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            self.engine
                .precompile_component(component)
                .map_err(|error| Fault::Invalid(format!("{error:#}")))
        }));
        if started.elapsed() > self.limit {
            return Err(Fault::TooLong);
        }
        code.unwrap_or(Err(Fault::Crashed))
    }

    fn compile_apart(&self, program: &CompilerProgram, component: &[u8]) -> Compiled {
        let host = |error: io::Error| Fault::Host(format!("its compiler can't be run: {error}"));
        let mut child = Command::new(&program.path)
            .args(&program.arguments)
            .arg(cpu_secs(self.limit).to_string())
            // Secrets may be in it.
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(host)?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (ended, said) = std::thread::scope(|scope| {
            // If it ends before it has read everything, its exit status says why.
            scope.spawn(move || input.map(|mut input| input.write_all(component)));
            let reading = scope.spawn(move || {
                let mut said = Vec::new();
                let read = output.map(|output| output.take(CODE_BYTES_MAX).read_to_end(&mut said));
                read.transpose().map(|_| said)
            });
            let ended = wait(&mut child, self.limit * super::WALL_PER_CPU);
            (ended, reading.join())
        });
        let status = ended.map_err(host)?.ok_or(Fault::TooLong)?;
        if status.signal() == Some(libc::SIGXCPU) {
            return Err(Fault::TooLong);
        }
        let mut said = said.map_err(|_| Fault::Crashed)?.map_err(host)?;
        match (status.success(), said.first()) {
            (true, Some(&CODE)) => {
                said.remove(0);
                Ok(said)
            }
            (true, Some(_)) => Err(Fault::Invalid(String::from_utf8_lossy(&said[1..]).into_owned())),
            _ => Err(Fault::Crashed),
        }
    }
}

/// Waits until the process ends; kills it and returns `None` if it has not by then.
fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if started.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(POLL);
    }
}

/// Compiles the component on standard input, for a host that counts fuel or not, and writes the machine code, or
/// why there is none, to standard output. Takes at most `cpu_secs` of CPU time and 2 GiB of memory; the process is
/// killed or crashes where it would take more.
///
/// # Errors
/// The limits can't be set, standard input can't be read, or standard output can't be written.
pub fn compile_stdin(counts_fuel: bool, cpu_secs: u64) -> anyhow::Result<()> {
    // The kernel's choice if the machine runs out of memory all the same. It may refuse; nothing else depends on it.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    limit_self(libc::RLIMIT_CPU, cpu_secs).context("cannot limit the CPU time")?;
    limit_self(libc::RLIMIT_AS, MEMORY_BYTES_MAX).context("cannot limit the memory")?;
    let mut component = Vec::new();
    io::stdin().lock().read_to_end(&mut component)?;
    // The stack that a compilation in the appliance's own process has, whatever this one's limit is.
    let compiling = std::thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn(move || {
            let engine = engine::compiling(counts_fuel)?;
            let code = engine.precompile_component(&component);
            Ok::<_, anyhow::Error>(code.map_err(|error| format!("{error:#}")))
        })?;
    let code = compiling
        .join()
        .map_err(|_| anyhow::anyhow!("the compiler crashed on it"))??;
    let mut output = io::stdout().lock();
    match code {
        Ok(code) => {
            output.write_all(&[CODE])?;
            output.write_all(&code)?;
        }
        Err(reason) => {
            output.write_all(&[REASON])?;
            output.write_all(reason.as_bytes())?;
        }
    }
    Ok(output.flush()?)
}

fn cpu_secs(limit: Duration) -> u64 {
    limit.as_secs().max(1)
}

#[expect(unsafe_code, reason = "the standard library can't limit a process")]
fn limit_self(resource: libc::__rlimit_resource_t, limit: u64) -> io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: limit,
        // A process that stays beyond the CPU time it was told of is killed a second later.
        rlim_max: limit + 1,
    };
    // SAFETY: `setrlimit` reads a struct that lives until it returns, and touches no memory of ours.
    if unsafe { libc::setrlimit(resource, &raw const limit) } == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        // It has a lower one already, which it may not raise.
        error if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        error => Err(error),
    }
}

/// First byte of what a process says: machine code, or the reason why there is none.
const CODE: u8 = b'+';
const REASON: u8 = b'-';
/// A Python plugin takes 400 MiB.
const MEMORY_BYTES_MAX: u64 = 2 << 30;
/// That of a Python plugin has 32 MB.
const CODE_BYTES_MAX: u64 = 256 << 20;
const POLL: Duration = Duration::from_millis(5);
/// Niceness of a compilation: it gets a tenth of a processor that requests want, and all of an idle one.
const NICE: i32 = 10;
/// cranelift recurses on deeply nested code.
const STACK_BYTES: usize = 8 << 20;

//! The command line: one file per subcommand. What a command prints as its result goes to standard
//! output, everything else to standard error, so that scripts can use the one and log the other.

mod config;
mod exit;
mod output;
mod serve;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::app::App;
use crate::config::{Config, Flags, LogFormat, Sources};
pub use exit::Exit;
pub use output::Progress;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "latchkey", version, about, max_term_width = 100, after_help = exit::HELP, propagate_version = true)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Configuration file [default: ./latchkey.toml, then /etc/latchkey/latchkey.toml, if there].
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the database and the keys live.
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// How to log.
    #[arg(long, global = true, value_enum, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// What to log: error, warn, info, debug, or per module "info,latchkey::service=debug".
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the API.
    Serve(serve::Serve),
    /// Check the configuration, or print an annotated example of it.
    #[command(subcommand)]
    Config(config::Command),
}

/// Parses the command line, runs the command and says how it ended.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let exit = Exit::of(&error);
            // A reader that had enough (`latchkey … | head`) is no failure worth a word.
            if exit != Exit::BrokenPipe {
                eprintln!("latchkey: {error:#}");
            }
            exit.into()
        }
    }
}

impl Cli {
    fn run(self) -> Result<()> {
        let Self { global, command } = self;
        match command {
            Command::Serve(serve) => serve.run(&global),
            Command::Config(config) => config.run(&global),
        }
    }
}

impl Global {
    /// The configuration, checked; `listen` is what the command line says about that.
    ///
    /// # Errors
    /// [`exit::BadConfig`].
    pub fn load(&self, listen: Option<String>) -> Result<Config> {
        Config::load(&self.sources(listen)).map_err(|error| exit::BadConfig(format!("{error:#}")).into())
    }

    fn sources(&self, listen: Option<String>) -> Sources {
        let flags = Flags {
            data_dir: self.data_dir.clone(),
            listen,
            log_format: self.log_format,
            log_level: self.log_level.clone(),
        };
        Sources::of_process(self.config.clone(), flags)
    }

    /// The appliance over its data directory, for a command that acts on it while no server runs.
    ///
    /// # Errors
    /// As [`Global::load`] and [`App::open`].
    pub fn open(&self) -> Result<App> {
        App::open(self.load(None)?)
    }
}

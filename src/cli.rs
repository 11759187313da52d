//! The command line: one file per subcommand. What a command prints as its result goes to standard
//! output, everything else to standard error, so that scripts can use the one and log the other.

mod audit;
mod backup;
mod config;
mod deliveries;
mod demo;
mod doctor;
mod exit;
mod files;
mod keys;
mod openapi;
mod orders;
mod org;
mod output;
mod plugin;
mod policy;
mod process;
mod restore;
mod serve;
mod signals;
mod token;
mod user;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::app::App;
use crate::config::{Config, Flags, LogFormat, Sources};
use crate::store::DATABASE_FILE;
use crate::{domain, logging};
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
    config_file: Option<PathBuf>,
    /// Where the database and the keys live.
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// How to log.
    #[arg(long, global = true, value_enum, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// What to log: error, warn, info, debug, or per module "info,latchkey=debug".
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the API.
    Serve(serve::Serve),
    /// Serve the API with sample organisations, and print what to paste.
    Demo(demo::Demo),
    /// Organisations.
    #[command(subcommand)]
    Org(org::Command),
    /// Accounts.
    #[command(subcommand)]
    User(user::Command),
    /// Access tokens without a login.
    #[command(subcommand)]
    Token(token::Command),
    /// Policy plugins: write, check, test, measure, sign; install, bind, switch off.
    #[command(subcommand)]
    Plugin(PluginCommands),
    /// The trail: export, check, sign, prove.
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Mail, webhook calls and syslog messages that are owed.
    #[command(subcommand)]
    Deliveries(deliveries::Command),
    /// The keys that sign access tokens.
    #[command(subcommand)]
    Keys(keys::Command),
    /// Copy the appliance, beside a running server.
    Backup(backup::Backup),
    /// Make a data directory from a backup.
    Restore(restore::Restore),
    /// Print the document that describes the API.
    #[command(name = "openapi")]
    OpenApi(openapi::OpenApi),
    /// Say whether this installation is in order.
    Doctor(doctor::Doctor),
    /// Check the configuration, or print an annotated example of it.
    #[command(subcommand)]
    Config(config::Command),
    /// Print a script that completes `latchkey` commands in a shell.
    #[command(after_help = "Examples:\n  latchkey completions bash > /etc/bash_completion.d/latchkey")]
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

/// Authors need no data directory, operators do.
#[derive(Debug, Subcommand)]
enum PluginCommands {
    #[command(flatten)]
    Author(plugin::PluginCommand),
    #[command(flatten)]
    Operator(policy::PolicyCommand),
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
                // Plugins, admins and files have their part in what is said.
                eprintln!("latchkey: {}", output::lines(&exit::told(&error)));
                for (field, problem) in exit::problems(&error) {
                    eprintln!("  {}", output::lines(&format!("{field}: {problem}")));
                }
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
            Command::Demo(demo) => demo.run(&global),
            Command::Org(org) => org.run(&global),
            Command::User(user) => user.run(&global),
            Command::Keys(command) => command.run(&global),
            Command::Deliveries(command) => command.run(&global),
            Command::Backup(backup) => backup.run(&global),
            Command::Restore(restore) => restore.run(&global),
            Command::Token(token) => token.run(&global),
            Command::Plugin(PluginCommands::Author(command)) => command.run(),
            Command::Plugin(PluginCommands::Operator(command)) => command.run(&global),
            Command::Audit(audit) => audit.run(&global),
            Command::OpenApi(openapi) => openapi.run(),
            Command::Doctor(doctor) => doctor.run(&global),
            Command::Config(config) => config.run(&global),
            Command::Completions { shell } => {
                clap_complete::generate(shell, &mut Self::command(), "latchkey", &mut std::io::stdout());
                Ok(())
            }
        }
    }
}

impl Global {
    /// The configuration, checked; `listen` is what the command line says about that.
    ///
    /// # Errors
    /// With every problem in one text; exit code 3.
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
        Sources::of_process(self.config_file.clone(), flags)
    }

    /// The appliance over a data directory that must be there, with a database, for a command that acts on it
    /// while no server runs: neither a mistyped name nor an unmounted volume should make an empty one.
    ///
    /// # Errors
    /// As [`Global::load`] and [`App::open`].
    pub fn open(&self) -> Result<App> {
        let config = self.load(None)?;
        refuse_missing(&config)?;
        self.quietly(config)
    }

    /// The same, and the data directory is made when it isn't there.
    ///
    /// # Errors
    /// As [`Global::open`].
    pub fn open_or_make(&self) -> Result<App> {
        let config = self.load(None)?;
        process::refuse_strangers(&config.data_dir)?;
        self.quietly(config)
    }

    /// As [`Global::open`], over a database that may be older than it was: for accepting it.
    ///
    /// # Errors
    /// As [`Global::open`].
    pub fn open_unchecked(&self) -> Result<App> {
        let config = self.load(None)?;
        refuse_missing(&config)?;
        logging::start(&config.log)?;
        App::open_unchecked(config)
    }

    fn quietly(&self, mut config: Config) -> Result<App> {
        self.log_warnings(&mut config)?;
        App::open(config)
    }

    /// The configuration, for a command that reads the data directory beside a running server, or makes one.
    fn load_quietly(&self) -> Result<Config> {
        let mut config = self.load(None)?;
        self.log_warnings(&mut config)?;
        Ok(config)
    }

    /// A command tells its result itself; only warnings are worth a line besides.
    fn log_warnings(&self, config: &mut Config) -> Result<()> {
        if self.log_level.is_none() {
            "warn".clone_into(&mut config.log.filter);
        }
        logging::start(&config.log)
    }
}

/// Refuses a data directory that is somebody else's, and one that is still to be made.
fn refuse_missing(config: &Config) -> Result<()> {
    let place = config.data_dir.display();
    if !config.data_dir.is_dir() {
        return Err(exit::NoDataDirectory(format!(
            "there is no data directory {place}; latchkey org create makes one, or name yours with --data-dir"
        ))
        .into());
    }
    process::refuse_strangers(&config.data_dir)?;
    // What can't be told is left to whoever opens it.
    if matches!(config.data_dir.join(DATABASE_FILE).try_exists(), Ok(false)) {
        return Err(exit::NoDataDirectory(format!(
            "there is no database in {place}; is the volume mounted? latchkey org create makes a new one, or name \
             yours with --data-dir"
        ))
        .into());
    }
    Ok(())
}

/// Runs a service's story to its end, for a command that does nothing else meanwhile.
fn wait_for<T>(story: impl Future<Output = domain::Result<T>>) -> domain::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime
        .map_err(|e| domain::Error::Internal(format!("the async runtime: {e}")))?
        .block_on(story)
}

/// The same, for a story with errors of its own.
fn wait_for_any<T, E>(story: impl Future<Output = Result<T, E>>) -> Result<T>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(story)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}

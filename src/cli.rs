//! The command line: one file per subcommand. A command writes its result to standard output and everything
//! else to standard error, so that scripts can use the one and log the other.

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
use clap::{ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::app::App;
use crate::config::{Config, Flags, LogFormat, Sources};
use crate::store::DATABASE_FILE;
use crate::{domain, logging};
pub use exit::Exit;
pub use output::Progress;

/// The parsed command line.
#[derive(Debug, Parser)]
#[command(name = "latchkey", version, about, max_term_width = 100, after_help = exit::HELP, propagate_version = true)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options that every command accepts.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Configuration file [default: ./latchkey.toml, then /etc/latchkey/latchkey.toml, if present].
    #[arg(long, global = true, value_name = "FILE")]
    config_file: Option<PathBuf>,
    /// Directory that holds the database and the keys.
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Log format: text for people, json for log collectors.
    #[arg(long, global = true, value_enum, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// Log level: off, error, warn, info, debug or trace; per module: "info,latchkey=debug".
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the API.
    ///
    /// Creates the data directory and its keys if they do not exist. SIGTERM, SIGINT (Ctrl-C) or SIGHUP (the
    /// terminal was closed) stops accepting connections, lets requests in progress finish, and exits; a
    /// second signal exits at once.
    Serve(serve::Serve),
    /// Serve the API with sample organisations, and print commands to paste.
    ///
    /// The first run creates ./latchkey-demo with two organisations, a dozen users and policies; later runs
    /// keep what is there (remove the directory to start over). Serves on 127.0.0.1:8080 and prints sign-in
    /// details, an admin's access token and the curl command that resets a user's MFA.
    Demo(demo::Demo),
    /// Create, list and configure organisations.
    #[command(subcommand)]
    Org(org::Command),
    /// Create, import and list users, and recover their accounts.
    #[command(subcommand)]
    User(user::Command),
    /// Mint access tokens without a login.
    #[command(subcommand)]
    Token(token::Command),
    /// Policy plugins: write, check, test, measure and sign them; install, bind and disable them.
    #[command(subcommand)]
    Plugin(PluginCommands),
    /// Export, verify, sign and prove the audit trail.
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// List and retry the mail, webhook calls and syslog messages that are still to be sent.
    #[command(subcommand)]
    Deliveries(deliveries::Command),
    /// List and rotate the keys that sign access tokens.
    #[command(subcommand)]
    Keys(keys::Command),
    /// Back up the appliance, also while a server runs.
    ///
    /// The copy is a snapshot of one instant, and taking it blocks nobody. It is verified as `latchkey audit
    /// verify` does, and appears under its name only once it is complete and on disk. The configuration file
    /// is not included.
    Backup(backup::Backup),
    /// Create a data directory from a backup.
    ///
    /// Verifies the backup (the hash of every file, who made the manifest, the database, the audit trail),
    /// copies it into the data directory, which must be new or empty, ends every session in it, and records
    /// the restore. Reports which factors, sessions and API keys are back. The audit trail continues under a
    /// new name and with a new key that was in no backup, which must be given to everyone who verifies it. The
    /// key of access tokens stays the same: if others may have had the backup, run latchkey keys rotate.
    Restore(restore::Restore),
    /// Print the OpenAPI document of the API.
    ///
    /// It is the document that the server serves as /openapi.json and /openapi.yaml.
    #[command(name = "openapi")]
    OpenApi(openapi::OpenApi),
    /// Check whether this installation is in order.
    ///
    /// Examines the configuration, the data directory and the free space on its disk, the keys, the database,
    /// the audit trail and its witness directory, the clock, backups, the policies and the organisations. Leaves
    /// the data directory as it is, except that policies that are not compiled yet are compiled into the plugin
    /// cache: an older database is reported and not migrated. Stop the server first. Exits with 1 if anything is
    /// broken.
    Doctor(doctor::Doctor),
    /// Check the configuration, or print an annotated example.
    #[command(subcommand)]
    Config(config::Command),
    /// Print a completion script for a shell.
    #[command(after_help = "Examples:\n  latchkey completions bash > /etc/bash_completion.d/latchkey")]
    Completions {
        /// Shell to write the script for.
        shell: clap_complete::Shell,
    },
}

/// The `plugin` commands of policy authors, which need no data directory, and of operators, which do.
#[derive(Debug, Subcommand)]
enum PluginCommands {
    #[command(flatten)]
    Author(plugin::PluginCommand),
    #[command(flatten)]
    Operator(policy::PolicyCommand),
}

/// Parses the command line, runs the command and returns its exit code. Errors are printed to standard error, and
/// with `--json` to standard output as well, unless the command has printed its result before it failed.
#[must_use]
pub fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.format(&mut Cli::command()).exit(),
    };
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let exit = Exit::of(&error);
            // A reader that closed the pipe (`latchkey … | head`) is not an error worth printing.
            if exit != Exit::BrokenPipe {
                if wants_json(&matches) && !output::has_said() {
                    // If standard output is closed, standard error still has it.
                    output::json(&exit::in_json(&error)).ok();
                }
                // Parts of the message may come from plugins, admins and files.
                eprintln!("latchkey: {}", output::lines(&exit::told(&error)));
                for (field, problem) in exit::problems(&error) {
                    eprintln!("  {}", output::lines(&format!("{field}: {problem}")));
                }
            }
            exit.into()
        }
    }
}

/// Returns whether the command has the option `--json`, and it was given.
fn wants_json(mut given: &ArgMatches) -> bool {
    while let Some((_, of_command)) = given.subcommand() {
        given = of_command;
    }
    matches!(given.try_get_one::<bool>("json"), Ok(Some(true)))
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
    /// Loads and checks the configuration. `listen` is the value of `--listen`, if given.
    ///
    /// # Errors
    /// One text that lists every problem; exit code 3.
    pub fn load(&self, listen: Option<String>) -> Result<Config> {
        let mut config =
            Config::load(&self.sources(listen)).map_err(|error| exit::BadConfig(format!("{error:#}")))?;
        config.plugins.compiler = Some(plugin::compiler(config.plugins.count_fuel));
        Ok(config)
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

    /// Opens the appliance over an existing data directory, for a command that acts on it while no server
    /// runs. Refuses a directory that is missing or has no database, so that neither a mistyped name nor an
    /// unmounted volume creates an empty one.
    ///
    /// # Errors
    /// As [`Global::load`] and [`App::open`].
    pub fn open(&self) -> Result<App> {
        let config = self.load(None)?;
        refuse_missing(&config)?;
        self.quietly(config)
    }

    /// Opens the appliance as [`Global::open`] does, and creates the data directory if it is missing.
    ///
    /// # Errors
    /// As [`Global::open`].
    pub fn open_or_make(&self) -> Result<App> {
        let config = self.load(None)?;
        process::refuse_strangers(&config.data_dir)?;
        self.quietly(config)
    }

    /// Opens the appliance without checking whether the database was rolled back, so that the rollback can be
    /// accepted.
    ///
    /// # Errors
    /// As [`Global::open`].
    pub fn open_unchecked(&self) -> Result<App> {
        let config = self.load(None)?;
        refuse_missing(&config)?;
        logging::start(&config.log)?;
        App::open_unchecked(config)
    }

    /// Opens the appliance as [`Global::open`] does, but leaves the data directory as it is.
    ///
    /// # Errors
    /// As [`Global::load`] and [`App::open_to_examine`].
    pub fn open_to_examine(&self) -> Result<App> {
        let config = self.load_quietly()?;
        refuse_missing(&config)?;
        App::open_to_examine(config)
    }

    fn quietly(&self, mut config: Config) -> Result<App> {
        self.log_warnings(&mut config)?;
        App::open(config)
    }

    /// Loads the configuration for a command that reads the data directory beside a running server, or
    /// creates one.
    fn load_quietly(&self) -> Result<Config> {
        let mut config = self.load(None)?;
        self.log_warnings(&mut config)?;
        Ok(config)
    }

    /// Starts logging with warnings only, unless `--log-level` says otherwise: a command prints its own
    /// result.
    fn log_warnings(&self, config: &mut Config) -> Result<()> {
        if self.log_level.is_none() {
            "warn".clone_into(&mut config.log.filter);
        }
        logging::start(&config.log)
    }
}

/// Refuses a data directory of another user, one that does not exist, and one without a database.
fn refuse_missing(config: &Config) -> Result<()> {
    let place = config.data_dir.display();
    if !config.data_dir.is_dir() {
        return Err(exit::NoDataDirectory(format!(
            "there is no data directory {place}; latchkey org create creates one, or name yours with --data-dir"
        ))
        .into());
    }
    process::refuse_strangers(&config.data_dir)?;
    // If the check itself fails, opening the database reports the cause.
    if matches!(config.data_dir.join(DATABASE_FILE).try_exists(), Ok(false)) {
        return Err(exit::NoDataDirectory(format!(
            "there is no database in {place}; is the volume mounted? latchkey org create creates a new one, or name \
             yours with --data-dir"
        ))
        .into());
    }
    Ok(())
}

/// Runs a service function to its end, for a command that does nothing else in the meantime.
fn wait_for<T>(story: impl Future<Output = domain::Result<T>>) -> domain::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime
        .map_err(|e| domain::Error::Internal(format!("could not start the async runtime: {e}")))?
        .block_on(story)
}

/// Does the same for a future with another error type.
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

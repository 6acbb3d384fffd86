//! The command line: everything an operator needs without a browser.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use serde_json::{Map, Value};

use crate::app::App;
use crate::clock::Clock;
use crate::config::{Config, ConfigError};
use crate::flows::add_account::{add_invoicing_account, add_provider_account, issuing_before, waits_behind};
use crate::flows::add_key::make_key;
use crate::flows::replay_delivery::replay_delivery;
use crate::http::input::Fields;
use crate::http::server::listen as listen_at;
use crate::run::Ended;
use crate::store::{Expert, Merchant};

/// Payment hub: checkouts, signed webhooks, one status machine, invoices. Without a command: the demonstration.
#[derive(Debug, Parser)]
#[command(name = "grosz", version, about)]
pub struct Cli {
    /// TOML file with settings; variables named GROSZ_… win over it.
    #[arg(long, global = true, env = "GROSZ_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The hub on SQLite with simulated gateways and invoicing, a demo merchant and a fresh key (the default).
    Demo,
    /// Serve: HTTP and jobs, or one of them by --role.
    Serve(Serve),
    /// Run jobs only: the same as `serve --role worker`.
    Worker {
        /// Start with all outside calls held.
        #[arg(long)]
        hold: bool,
    },
    /// Only the simulated gateways and the simulated invoicing API, in a process of their own.
    Sandbox {
        /// Address and port.
        #[arg(long, default_value = "127.0.0.1:9090")]
        listen: String,
        /// Addresses to which webhooks may be sent; any loopback address when left out.
        #[arg(long)]
        hub: Vec<String>,
    },
    /// Bring the database's schema up to this program's version.
    Migrate,
    /// Print the OpenAPI document.
    Openapi,
    /// Settings.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Merchants.
    #[command(subcommand)]
    Merchant(MerchantCommand),
    /// API keys.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Accounts at gateways.
    #[command(subcommand)]
    Provider(ProviderCommand),
    /// Accounts at invoicing APIs.
    #[command(subcommand)]
    Invoicing(InvoicingCommand),
    /// Experts.
    #[command(subcommand)]
    Expert(ExpertCommand),
    /// Webhook calls on record.
    #[command(subcommand)]
    Deliveries(DeliveriesCommand),
}

#[derive(Debug, Args)]
struct Serve {
    /// all, web or worker.
    #[arg(long)]
    role: Option<String>,
    /// Start with all outside calls held: for drills with a restored backup.
    #[arg(long)]
    hold: bool,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check the settings and explain each.
    Check,
}

#[derive(Debug, Subcommand)]
enum MerchantCommand {
    /// Add a merchant; prints its id.
    Add {
        /// Name on pages and mails.
        #[arg(long)]
        name: String,
        /// pl, uk, cs, ru, is or en.
        #[arg(long, default_value = "pl")]
        language: String,
        /// Where notices go that have no expert.
        #[arg(long)]
        fallback_email: Option<String>,
        /// Origin that return addresses may have, such as https://shop.example; any when left out.
        #[arg(long)]
        return_origin: Vec<String>,
    },
    /// List merchants.
    List,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Add an API key; prints it once.
    Add {
        /// Whose.
        #[arg(long)]
        merchant: String,
        /// What it is for.
        #[arg(long, default_value = "command line")]
        name: String,
        /// For real money.
        #[arg(long)]
        live: bool,
        /// read, write; both when left out.
        #[arg(long)]
        scope: Vec<String>,
    },
    /// List API keys: id, name, first characters, mode, scopes, and whether they are valid.
    List {
        /// Whose.
        #[arg(long)]
        merchant: String,
    },
    /// End an API key.
    Revoke {
        /// Whose.
        #[arg(long)]
        merchant: String,
        /// Its id, as `key list` shows it.
        #[arg(long)]
        id: String,
    },
}

#[derive(Debug, Subcommand)]
enum ProviderCommand {
    /// Add an account; prints its id and the address it shall report to.
    Add {
        #[command(flatten)]
        account: NewAccount,
        /// The account's currency, where it takes one only.
        #[arg(long)]
        currency: Option<String>,
    },
    /// List what can be added, with the settings of each.
    Kinds,
}

#[derive(Debug, Subcommand)]
enum InvoicingCommand {
    /// Add an account; prints its id. Of several that are on, the first of a mode issues.
    Add(NewAccount),
    /// List what can be added, with the settings of each.
    Kinds,
}

#[derive(Debug, Args)]
struct NewAccount {
    /// Whose.
    #[arg(long)]
    merchant: String,
    /// Name of the gateway or invoicing API.
    kind: String,
    /// Settings as name=value. A value of @FILE is read from the file, so that secrets stay out of process lists.
    #[arg(long = "set", value_name = "NAME=VALUE")]
    settings: Vec<String>,
    /// For real money.
    #[arg(long)]
    live: bool,
}

#[derive(Debug, Subcommand)]
enum ExpertCommand {
    /// Add an expert; prints its id.
    Add {
        /// Whose.
        #[arg(long)]
        merchant: String,
        /// Name.
        #[arg(long)]
        name: String,
        /// Where notices go.
        #[arg(long)]
        email: String,
        /// Language of notices.
        #[arg(long, default_value = "pl")]
        language: String,
    },
}

#[derive(Debug, Subcommand)]
enum DeliveriesCommand {
    /// Read a delivery again and apply what was not applied.
    Replay {
        /// Whose.
        #[arg(long)]
        merchant: String,
        /// Its id.
        id: String,
    },
}

/// What went wrong, for the person at the terminal.
type Failure = Box<dyn std::error::Error>;

/// Runs the program.
///
/// # Errors
/// The text says what to change.
pub fn main() -> Result<(), Failure> {
    let cli = Cli::parse();
    crate::descriptors::raise();
    let file = cli.config.as_deref();
    match cli.command {
        None | Some(Command::Demo) => {
            if let Some(file) = file {
                // Somebody forgot the word `serve`: the demonstration must not touch what these settings name.
                let file = file.display();
                let why =
                    format!("the demonstration takes no settings file; to serve with it: grosz serve --config {file}");
                return Err(Box::new(ConfigError(why)));
            }
            let config = crate::demo::demo_config(environment()?)?;
            crate::log::start(&config);
            block_on(config.runtime_threads, async {
                let stop = crate::run::stop_on_signals()?;
                how_it_ended(crate::demo::run(config, stop, say).await?)
            })
        }
        Some(Command::Serve(options)) => {
            let mut config = Config::load(file, environment()?)?;
            config.role = options.role.unwrap_or(config.role);
            config.hold |= options.hold;
            serve(config)
        }
        Some(Command::Worker { hold }) => {
            let mut config = Config::load(file, environment()?)?;
            config.role = "worker".into();
            config.hold |= hold;
            serve(config)
        }
        Some(Command::Sandbox { listen, hub }) => sandbox(&listen, hub),
        Some(Command::Openapi) => {
            say(crate::http::openapi::yaml().trim_end());
            Ok(())
        }
        Some(Command::Config(ConfigCommand::Check)) => check(&Config::load(file, environment()?)?),
        Some(command) => {
            let config = Config::load(file, environment()?)?;
            block_on(1, async {
                let app = App::open(config, Clock::System).await?;
                let done = administer(&app, command).await;
                app.store.close().await;
                done
            })
        }
    }
}

/// Our variables. Whatever else is in the environment may be written as it likes.
fn environment() -> Result<impl Iterator<Item = (String, String)>, ConfigError> {
    let mut ours = vec![];
    for (name, value) in std::env::vars_os() {
        let Ok(name) = name.into_string() else { continue };
        // The file's name is read beside the other arguments, and need not be text.
        if name.starts_with("GROSZ_") && name != "GROSZ_CONFIG" {
            let value = value.into_string().map_err(|_| ConfigError(format!("{name} is not text in UTF-8")))?;
            ours.push((name, value));
        }
    }
    Ok(ours.into_iter())
}

/// Prints a line. Whoever read our output may be gone (`| head`); that is no reason to die.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Does `work` on a runtime of so many threads; 0 for as many as there are processors.
fn block_on(threads: usize, work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if threads > 0 {
        runtime.worker_threads(threads);
    }
    // Answers of the database come in beside requests: whoever waits for one must not wait for sixty requests more.
    runtime.event_interval(13).enable_all().build()?.block_on(work)
}

fn serve(config: Config) -> Result<(), Failure> {
    if !matches!(config.role.as_str(), "all" | "web" | "worker") {
        return Err(Box::new(ConfigError("role must be all, web or worker".into())));
    }
    crate::log::start(&config);
    block_on(config.runtime_threads, async {
        let stop = crate::run::stop_on_signals()?;
        let app = Arc::new(App::open(config, Clock::System).await?);
        let (setting, listen) = match app.config.role.as_str() {
            "worker" => ("worker_listen", &app.config.worker_listen),
            _ => ("listen", &app.config.listen),
        };
        let listener = match listen.as_str() {
            "" => None,
            at => {
                let bound = listen_at(at).await;
                Some(bound.map_err(|e| ConfigError(format!("{setting}: {at} cannot be listened on: {e}")))?)
            }
        };
        tracing::info!(role = app.config.role, listen, hold = app.config.hold, "Grosz is up");
        how_it_ended(crate::run::run(app, listener, stop).await)
    })
}

/// A program that lost a part of itself ends as failed, so that whoever watches it starts it again (F26).
fn how_it_ended(ended: Ended) -> Result<(), Failure> {
    match ended {
        Ended::Asked => tracing::info!("Grosz stopped"),
        Ended::Crippled => return Err("a part of the hub ended by itself; the log says which".into()),
    }
    Ok(())
}

fn sandbox(listen: &str, hubs: Vec<String>) -> Result<(), Failure> {
    crate::log::start(&Config::default());
    block_on(1, async {
        let stop = crate::run::stop_on_signals()?;
        let listener = listen_at(listen).await?;
        let address = listener.local_addr()?;
        say(&format!("simulated gateways and invoicing at http://{address}/sandbox"));
        crate::sandbox::serve_alone(listener, format!("http://{address}"), hubs, stop).await;
        Ok(())
    })
}

fn check(config: &Config) -> Result<(), Failure> {
    let values: std::collections::BTreeMap<_, _> = config.shown().into_iter().collect();
    for (name, explained) in Config::EXPLAINED {
        let value = values.get(name).map_or("", String::as_str);
        say(&format!("{name} = {value}\n   {}\n", explained.trim()));
    }
    App::check(config)?;
    say("The settings can be used.");
    Ok(())
}

async fn administer(app: &App, command: Command) -> Result<(), Failure> {
    let mut tx = app.store.begin().await?;
    match command {
        Command::Migrate => say("the schema is up to date"),
        Command::Merchant(MerchantCommand::Add { name, language, fallback_email, return_origin }) => {
            check_language(&language)?;
            let name = name_of(&name)?;
            for origin in &return_origin {
                crate::http::api::check_origin(origin).map_err(|e| ConfigError(format!("--return-origin {e}")))?;
            }
            for address in fallback_email.iter() {
                crate::mail::check_address(address).map_err(|e| ConfigError(format!("--fallback-email: {e}")))?;
            }
            let merchant = Merchant {
                id: app.ids.make("mer"),
                name,
                language,
                fallback_email,
                return_origins: return_origin,
                show_attachment: false,
                created_at: app.now(),
            };
            tx.add_merchant(&merchant).await?;
            say(&merchant.id);
        }
        Command::Merchant(MerchantCommand::List) => {
            for m in tx.merchants().await? {
                say(&format!("{}\t{}", m.id, m.name));
            }
        }
        Command::Key(KeyCommand::Add { merchant, name, live, scope }) => {
            tx.merchant(&merchant).await?.ok_or("there is no such merchant")?;
            let scopes: Vec<&str> =
                if scope.is_empty() { vec!["read", "write"] } else { scope.iter().map(String::as_str).collect() };
            let (_, shown) = make_key(app, &mut tx, &merchant, &name, live, &scopes).await?;
            say(&shown);
        }
        Command::Key(KeyCommand::List { merchant }) => {
            tx.merchant(&merchant).await?.ok_or("there is no such merchant")?;
            for k in tx.api_keys(&merchant).await? {
                let mode = if k.live { "live" } else { "test" };
                let state = if k.revoked_at.is_none() { "valid" } else { "revoked" };
                say(&format!("{}\t{}\t{}…\t{mode}\t{}\t{state}", k.id, k.name, k.hint, k.scopes.join(",")));
            }
        }
        Command::Key(KeyCommand::Revoke { merchant, id }) => {
            if !tx.revoke_api_key(&merchant, &id, app.now()).await? {
                return Err("there is no such valid key".into());
            }
            say("ended");
        }
        Command::Provider(ProviderCommand::Add { account, currency }) => {
            let NewAccount { merchant, kind, settings, live } = account;
            tx.merchant(&merchant).await?.ok_or("there is no such merchant")?;
            let given = given(&settings)?;
            let account =
                add_provider_account(app, &mut tx, &merchant, &kind, &given, currency.as_deref(), live).await?;
            say(&format!("{}\n{}", account.id, app.webhook_url(&account)));
        }
        Command::Invoicing(InvoicingCommand::Add(NewAccount { merchant, kind, settings, live })) => {
            tx.merchant(&merchant).await?.ok_or("there is no such merchant")?;
            let account = add_invoicing_account(app, &mut tx, &merchant, &kind, &given(&settings)?, live).await?;
            say(&account.id);
            if let Some(first) = issuing_before(&mut tx, &account).await? {
                let _ = writeln!(std::io::stderr(), "grosz: {}", waits_behind(&first));
            }
        }
        Command::Provider(ProviderCommand::Kinds) => {
            for p in grosz_providers::registry::providers() {
                print_kind(p.facts().name, p.facts().settings);
            }
        }
        Command::Invoicing(InvoicingCommand::Kinds) => {
            for i in grosz_providers::registry::invoicers() {
                print_kind(i.facts().name, i.facts().settings);
            }
        }
        Command::Expert(ExpertCommand::Add { merchant, name, email, language }) => {
            tx.merchant(&merchant).await?.ok_or("there is no such merchant")?;
            check_language(&language)?;
            let name = name_of(&name)?;
            crate::mail::check_address(&email).map_err(|e| ConfigError(format!("--email: {e}")))?;
            let id = app.ids.make("exp");
            let expert = Expert { merchant_id: merchant, id, name, email, language, created_at: app.now() };
            tx.add_expert(&expert).await?;
            say(&expert.id);
        }
        Command::Deliveries(DeliveriesCommand::Replay { merchant, id }) => {
            let replayed = replay_delivery(app, &mut tx, &merchant, &id).await?;
            say(&format!("{} events read again", replayed.len()));
            for r in replayed {
                say(&format!(
                    "{} {}: {}",
                    r.event.id,
                    r.event.state,
                    if r.applied { "applied now" } else { "as before" }
                ));
            }
        }
        Command::Demo
        | Command::Serve(_)
        | Command::Worker { .. }
        | Command::Sandbox { .. }
        | Command::Openapi
        | Command::Config(_) => {}
    }
    Ok(tx.commit().await?)
}

/// A name as the API takes it.
fn name_of(text: &str) -> Result<String, ConfigError> {
    let mut fields = Fields::default();
    let name = fields.free_text("", text, 200);
    let refused = fields.into_refusals().into_iter().next();
    refused.map_or(Ok(name), |refusal| Err(ConfigError(format!("--name {}", refusal.detail))))
}

fn check_language(language: &str) -> Result<(), ConfigError> {
    if matches!(language, "pl" | "uk" | "cs" | "ru" | "is" | "en") {
        return Ok(());
    }
    Err(ConfigError("--language must be pl, uk, cs, ru, is or en".into()))
}

fn given(settings: &[String]) -> Result<Map<String, Value>, Failure> {
    let mut map = Map::new();
    for text in settings {
        let (name, value) = text.split_once('=').ok_or_else(|| format!("--set {text}: must be NAME=VALUE"))?;
        let value = match value.strip_prefix('@') {
            Some(file) => std::fs::read_to_string(file).map_err(|e| format!("{file}: {e}"))?.trim_end().to_owned(),
            None => value.to_owned(),
        };
        map.insert(name.to_owned(), Value::String(value));
    }
    Ok(map)
}

fn print_kind(name: &str, settings: &[grosz_providers::facts::Setting]) {
    say(name);
    for s in settings {
        let need = match (s.default, s.optional) {
            (Some(default), _) => format!("default {default}"),
            (None, true) => "optional".into(),
            (None, false) => "required".into(),
        };
        say(&format!("   {} ({need}): {}", s.name, s.help));
    }
}

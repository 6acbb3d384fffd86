//! The `grosz` program.

use std::sync::Arc;

use grosz::app::App;
use grosz::clock::Clock;
use grosz::config::Config;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().init();
    let config = Config::load(None, std::env::vars())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let app = Arc::new(App::open(config, Clock::System).await?);
        let stop = grosz::run::stop_on_signals()?;
        let listener = tokio::net::TcpListener::bind(&app.config.listen).await?;
        grosz::run::run(app, Some(listener), stop).await;
        Ok(())
    })
}

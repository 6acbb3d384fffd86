//! The `grosz` program.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().init();
    let config = grosz::demo::demo_config(std::env::vars())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let stop = grosz::run::stop_on_signals()?;
        grosz::demo::run(config, stop, |text| println!("{text}")).await?;
        Ok(())
    })
}

//! W1 while somebody sends forged calls: who pays must not notice (F48).

use crate::load::{Outcome, Pace};
use crate::program::Process;
use crate::report::{Figure, Floor, Rounds};
use crate::stage::Stage;
use crate::w1_intake::{Kind, Templates, check_effects, intake, load, moved, needed};

/// Valid calls at a quarter of the saturated rate, then again with as many forged ones, some rounds. Together they are half
/// of that rate, so what shows is what a forged call costs its neighbours, not a hub without room.
pub async fn run(stage: &mut Stage<'_>, process: &Process, templates: &Templates, saturated: f64) {
    let rate = saturated / 4.0;
    let [mut without, mut with, mut refusals] = [const { Rounds::new() }; 3];
    let mut otherwise = 0;
    for _ in 0..stage.options.rounds() {
        let (figure, alone) = intake(stage, process, templates, Kind::Stripe, Pace::Rate(rate), rate).await;
        without.add(figure, alone.quantile_ms(0.99));
        let (figure, valid, forged) = beside(stage, process, templates, rate).await;
        with.add(figure, valid.quantile_ms(0.99));
        let refused = forged.statuses.get(&400).copied().unwrap_or(0);
        assert!(refused > 0, "no forged call was answered in the measured time");
        otherwise += forged.answers() - refused + forged.broken;
        let figure = Figure {
            p50_ms: forged.quantile_ms(0.5),
            p99_ms: forged.quantile_ms(0.99),
            ..Figure::rate(refused as f64 / forged.seconds)
        };
        refusals.add(figure, forged.quantile_ms(0.99));
    }
    stage.judge("W1 forged calls answered otherwise than 400", otherwise as f64, Floor::Most(0.0));
    stage.judge("W1 p99 of valid calls, beside forged ones / without", with.over(&without), Floor::Most(2.0));
    stage.figure("W1", "hub, a quarter of that rate (open loop)", without.figure());
    stage.figure("W1", "hub, the same beside as many forged calls", with.figure());
    stage.figure("W1", "hub, forged calls answered 400", refusals.figure());
}

/// Valid and forged calls at the same time.
async fn beside(
    stage: &mut Stage<'_>,
    process: &Process,
    templates: &Templates,
    rate: f64,
) -> (Figure, Outcome, Outcome) {
    let count = needed(stage, rate);
    // They name payments that wait for their money, as a forger would.
    let unpaid = templates.payments(stage, Kind::Forged, count).await;
    let paid = templates.payments(stage, Kind::Stripe, count).await;
    let (valid, forged) = (templates.calls(stage, Kind::Stripe, &paid), templates.calls(stage, Kind::Forged, &unpaid));
    let target = stage.target(process);
    let load = || load(target, Pace::Rate(rate), stage.options.connections, stage.options.seconds());
    let ((mut figure, with), forged) =
        tokio::join!(stage.measure_load(target, valid, load()), load().run(forged, || {}));
    check_effects(stage, &paid, with.accepted.len()).await;
    assert_eq!(moved(stage, &unpaid).await, [0, 0], "a forged call moved a payment");
    figure.note = format!("cpu and db include the forged ones'; {}", figure.note);
    (figure, with, forged)
}

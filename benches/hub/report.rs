//! What was measured: a table for people, one line of JSON for programs.

use serde_json::{Value, json};

use crate::load::Outcome;
use crate::program::Usage;

/// One measured load.
#[derive(Debug, Clone, Default)]
pub struct Figure {
    /// Answers of 2xx (or units of work) a second.
    pub rate: f64,
    /// Milliseconds; not a number where nothing was timed.
    pub p50_ms: f64,
    /// Milliseconds.
    pub p99_ms: f64,
    /// Processor time of the program for each, microseconds.
    pub program_us: f64,
    /// Processor time of PostgreSQL for each, microseconds.
    pub database_us: f64,
    /// Resident memory of the program at the end, MiB.
    pub resident_mib: f64,
    /// Anything a reader should know, such as other answers than 2xx.
    pub note: String,
}

impl Figure {
    /// Of a load and the counters around it.
    pub fn of(outcome: &Outcome, before: Usage, after: Usage) -> Figure {
        let answers = outcome.answers().max(1) as f64;
        let mut notes: Vec<String> = outcome
            .statuses
            .iter()
            .filter(|(status, _)| !(200..300).contains(*status))
            .map(|(status, n)| format!("{n} × {status}"))
            .collect();
        if outcome.broken > 0 {
            notes.push(format!("{} broken", outcome.broken));
        }
        if outcome.unsent > 0 {
            notes.push(format!("{} not sent in time", outcome.unsent));
        }
        Figure {
            rate: outcome.rate(),
            p50_ms: outcome.quantile_ms(0.5),
            p99_ms: outcome.quantile_ms(0.99),
            program_us: after.program_us.saturating_sub(before.program_us) as f64 / answers,
            database_us: after.database_us.saturating_sub(before.database_us) as f64 / answers,
            resident_mib: after.resident_kib as f64 / 1024.0,
            note: notes.join(", "),
        }
    }

    /// A bare rate.
    pub fn rate(rate: f64) -> Figure {
        Figure { rate, p50_ms: f64::NAN, p99_ms: f64::NAN, ..Figure::default() }
    }
}

/// The same load, measured again and again in turns with others.
pub struct Rounds(Vec<(Figure, f64)>);

impl Rounds {
    /// None yet.
    pub const fn new() -> Rounds {
        Rounds(vec![])
    }

    /// Adds a round and its rate.
    pub fn add(&mut self, figure: Figure, rate: f64) {
        self.0.push((figure, rate));
    }

    /// Forgets all rounds.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The rate of the last round; 0 when there is none.
    pub fn last(&self) -> f64 {
        self.0.last().map_or(0.0, |(_, rate)| *rate)
    }

    /// The rate in the middle.
    pub fn median(&self) -> f64 {
        middle(self.0.iter().map(|(_, rate)| *rate).collect())
    }

    /// The ratio in the middle of those to another load, round by round.
    pub fn over(&self, other: &Rounds) -> f64 {
        middle(self.0.iter().zip(&other.0).map(|((_, a), (_, b))| a / b).collect())
    }

    /// The round whose rate is in the middle.
    pub fn figure(self) -> Figure {
        let median = self.median();
        let found = self.0.into_iter().find(|(_, rate)| *rate == median);
        found.map_or_else(Figure::default, |(figure, _)| figure)
    }
}

/// Of an even number the lower one; not a number when there is none.
fn middle(mut all: Vec<f64>) -> f64 {
    all.sort_unstable_by(f64::total_cmp);
    all.get(all.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

/// What a floor asks for.
#[derive(Debug, Clone, Copy)]
pub enum Floor {
    /// At least.
    Least(f64),
    /// At most.
    Most(f64),
}

struct Line {
    engine: &'static str,
    workload: &'static str,
    what: String,
    figure: Figure,
}

struct Judgement {
    engine: &'static str,
    what: String,
    value: f64,
    floor: Floor,
}

impl Judgement {
    fn reached(&self) -> bool {
        // What could not be measured was not reached.
        match self.floor {
            _ if !self.value.is_finite() => false,
            Floor::Least(least) => self.value >= least,
            Floor::Most(most) => self.value <= most,
        }
    }
}

/// Collects and prints.
#[derive(Default)]
pub struct Report {
    lines: Vec<Line>,
    judgements: Vec<Judgement>,
}

impl Report {
    /// Adds a load; also says it at once, since a run takes minutes.
    pub fn figure(&mut self, engine: &'static str, workload: &'static str, what: &str, figure: Figure) {
        let line = Line { engine, workload, what: what.to_owned(), figure };
        println!("  {}", written(&line));
        self.lines.push(line);
    }

    /// Compares a value with its floor.
    pub fn judge(&mut self, engine: &'static str, what: &str, value: f64, floor: Floor) {
        self.judgements.push(Judgement { engine, what: what.to_owned(), value, floor });
    }

    /// Prints everything. `about` describes machine and run.
    pub fn print(&self, about: &Value) {
        let head = format!(
            "{:<9} {:<3} {:<44} {:>11} {:>8} {:>8} {:>8} {:>8} {:>5}  note",
            "engine", "", "what", "per second", "p50 ms", "p99 ms", "cpu µs", "db µs", "MiB"
        );
        println!("\n{head}\n{}", "-".repeat(112));
        for line in &self.lines {
            println!("{}", written(line));
        }
        println!("\n{:<9} {:<62} {:>10}   {:<10} reached", "engine", "floor", "value", "asked for");
        println!("{}", "-".repeat(104));
        for j in &self.judgements {
            let asked = match j.floor {
                Floor::Least(least) => format!("≥ {}", short(least)),
                Floor::Most(most) => format!("≤ {}", short(most)),
            };
            let reached = if j.reached() { "yes" } else { "NO" };
            println!("{:<9} {:<62} {:>10}   {:<10} {reached}", j.engine, j.what, short(j.value), asked);
        }
        println!("\n{}", self.json(about));
    }

    fn json(&self, about: &Value) -> Value {
        let figures: Vec<Value> = self
            .lines
            .iter()
            .map(|l| {
                let f = &l.figure;
                json!({"engine": l.engine, "workload": l.workload, "what": l.what, "per_second": f.rate, "p50_ms": f.p50_ms,
                    "p99_ms": f.p99_ms, "program_us": f.program_us, "database_us": f.database_us, "resident_mib": f.resident_mib,
                    "note": f.note})
            })
            .collect();
        let floors: Vec<Value> = self
            .judgements
            .iter()
            .map(|j| {
                let (bound, floor) = match j.floor {
                    Floor::Least(v) => ("least", v),
                    Floor::Most(v) => ("most", v),
                };
                json!({"engine": j.engine, "what": j.what, "value": j.value, bound: floor, "reached": j.reached()})
            })
            .collect();
        json!({"about": about, "figures": figures, "floors": floors})
    }
}

fn written(line: &Line) -> String {
    let f = &line.figure;
    let number = |v: f64, digits: usize| if v.is_nan() || v == 0.0 { "-".to_owned() } else { format!("{v:.digits$}") };
    format!(
        "{:<9} {:<3} {:<44} {:>11} {:>8} {:>8} {:>8} {:>8} {:>5}  {}",
        line.engine,
        line.workload,
        line.what,
        number(f.rate, 0),
        number(f.p50_ms, 2),
        number(f.p99_ms, 2),
        number(f.program_us, 0),
        number(f.database_us, 0),
        number(f.resident_mib, 0),
        f.note
    )
}

/// Two digits behind the point for small numbers, none for large ones.
fn short(value: f64) -> String {
    if value.abs() >= 1000.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

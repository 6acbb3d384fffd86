//! One engine with its databases, a hub set up on one of them and the references' tables in another.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Options;
use crate::child::{Child, SlowFlush};
use crate::cluster::{Db, Engine, Site};
use crate::load::{Load, Outcome, Pace, Requests};
use crate::program::{Hub, Process, Usage};
use crate::references;
use crate::report::{Figure, Floor, Report};
use crate::seed::Seeder;

/// What workloads are given.
pub struct Stage<'a> {
    /// What was asked for.
    pub options: &'a Options,
    /// Which engine.
    pub engine: Engine,
    /// Where databases are made.
    pub site: Site,
    /// The hub; started by each workload.
    pub hub: Hub,
    /// Eyes on its database.
    pub db: Db,
    /// Eyes on the references'.
    pub reference_db: Db,
    reference_database: String,
    /// Numbers rows.
    pub seeder: Seeder,
    /// What was measured.
    pub report: &'a mut Report,
    /// W1's ratio to the grouped reference with a small table, once it is known.
    pub small_ratio: Option<f64>,
    room: PathBuf,
    slow: Option<SlowFlush>,
}

/// What a load goes to.
#[derive(Clone, Copy)]
pub struct Target {
    /// Where it listens.
    pub address: SocketAddr,
    /// The program's process.
    pub pid: u32,
    /// PostgreSQL's first process.
    pub database: Option<u32>,
}

impl<'a> Stage<'a> {
    /// Makes the databases and sets the hub up; `None` where the engine is not installed.
    pub async fn set(
        options: &'a Options,
        engine: Engine,
        room: &Path,
        slow: Option<&SlowFlush>,
        report: &'a mut Report,
    ) -> Option<Stage<'a>> {
        let mut site = Site::open(engine, room, slow, &options.locale)?;
        let database = site.database();
        let hub = Hub::set_up(database, room, slow, options).await;
        let db = Db::open(&hub.database).await;
        let reference_database = site.database();
        let mut reference_db = Db::open(&reference_database).await;
        references::make_tables(&mut reference_db).await;
        Some(Stage {
            options,
            engine,
            site,
            hub,
            db,
            reference_db,
            reference_database,
            seeder: Seeder::default(),
            report,
            small_ratio: None,
            room: room.to_owned(),
            slow: slow.cloned(),
        })
    }

    /// Starts the references in a process of their own.
    pub async fn start_references(&self) -> (Child, Target) {
        let slow = self.slow.as_ref();
        let started = references::start(&self.reference_database, self.options.committers, &self.room, slow).await;
        let target = Target { address: started.1, pid: started.0.pid, database: self.site.server() };
        (started.0, target)
    }

    /// After the database was started again.
    pub async fn reopen_references(&mut self) {
        self.reference_db = Db::open(&self.reference_database).await;
    }

    /// A process of the hub as a target.
    pub fn target(&self, process: &Process) -> Target {
        Target { address: process.address, pid: process.child.pid, database: self.site.server() }
    }

    /// Measures a load for the usual time.
    pub async fn measure(&self, target: Target, requests: Box<dyn Requests>, pace: Pace) -> (Figure, Outcome) {
        let load = Load {
            to: target.address,
            connections: self.options.connections,
            pace,
            warm_up: WARM_UP,
            time: Duration::from_secs(self.options.seconds()),
        };
        self.measure_load(target, requests, load).await
    }

    /// Measures a load.
    pub async fn measure_load(&self, target: Target, requests: Box<dyn Requests>, load: Load) -> (Figure, Outcome) {
        let mut usage = vec![];
        let outcome = load.run(requests, || usage.push(Usage::of(target.pid, target.database))).await;
        (Figure::of(&outcome, usage[0], usage[1]), outcome)
    }

    /// Adds a figure of this engine.
    pub fn figure(&mut self, workload: &'static str, what: &str, figure: Figure) {
        self.report.figure(self.engine.name(), workload, what, figure);
    }

    /// Compares a value of this engine with its floor.
    pub fn judge(&mut self, what: &str, value: f64, floor: Floor) {
        self.report.judge(self.engine.name(), what, value, floor);
    }
}

/// Before each measured time: connections open, statements are prepared.
pub const WARM_UP: Duration = Duration::from_secs(1);

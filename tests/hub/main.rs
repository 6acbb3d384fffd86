//! Stories of the whole hub: a real hub on a loopback port, a real database, a clock that is moved by hand.

mod browser;
mod cluster;
mod crash;
mod harness;
mod kill;
mod matter;
mod property;
mod sandbox;
mod store;
mod stories;
mod web;
mod webdriver;

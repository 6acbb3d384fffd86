//! Stories of the whole hub: a real hub on a loopback port, a real database, a clock that is moved by hand.

mod api;
mod browser;
mod canary;
mod cluster;
mod crash;
mod growth;
mod harness;
mod hooks;
mod keys;
mod kill;
mod matter;
mod plans;
mod processes;
mod property;
mod raw;
mod readme;
mod sandbox;
mod slices;
mod statements;
mod store;
mod stories;
mod telling;
mod web;
mod webdriver;
mod wire;
mod working;

//! Payment hub.

pub mod outbound;

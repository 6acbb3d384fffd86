//! Payment hub.

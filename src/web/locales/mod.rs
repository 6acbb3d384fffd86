//! One file a language.

pub(crate) mod cs;
pub(crate) mod en;
pub(crate) mod is;
pub(crate) mod pl;
pub(crate) mod ru;
pub(crate) mod uk;

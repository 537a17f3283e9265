//! What a role says about itself: the parts of `/readyz`.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

/// What `/readyz` calls the part that says whether the database's tables fit: a role may begin by it, and has not begun with it.
pub const SCHEMA: &str = "schema";

static PARTS: Mutex<BTreeMap<&'static str, (bool, String)>> = Mutex::new(BTreeMap::new());

/// Notes how a part is: whether it is fine, and a word about it.
pub fn set(part: &'static str, fine: bool, detail: impl Into<String>) {
    PARTS.lock().unwrap_or_else(PoisonError::into_inner).insert(part, (fine, detail.into()));
}

/// Every part noted so far. A role is ready when it has noted something and all of it is fine.
pub fn parts() -> BTreeMap<&'static str, (bool, String)> {
    PARTS.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

//! What a role says about itself: the parts of `/readyz`.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

static PARTS: Mutex<BTreeMap<&'static str, (bool, String)>> = Mutex::new(BTreeMap::new());

/// Notes how a part is: whether it is fine, and a word about it.
pub fn set(part: &'static str, fine: bool, detail: impl Into<String>) {
    PARTS.lock().unwrap_or_else(PoisonError::into_inner).insert(part, (fine, detail.into()));
}

/// Every part noted so far. A role is ready when it has noted something and all of it is fine.
pub fn parts() -> BTreeMap<&'static str, (bool, String)> {
    PARTS.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

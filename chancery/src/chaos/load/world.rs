//! What the clients know: tenants and what is in them, as answers told.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use uuid::Uuid;

/// Things of a tenant that are remembered; the oldest is forgotten first, and stays what it is.
const REMEMBERED: usize = 64;

/// An invitation whose link is known.
#[derive(Debug, Clone)]
pub(super) struct Invitation {
    pub(super) id: Uuid,
    /// What stands behind `#token=`.
    pub(super) token: String,
    /// The address it is for.
    pub(super) email: String,
    /// The token of the guest it is for; none for a new person.
    pub(super) guest: Option<String>,
    /// Somebody has tried to accept it.
    pub(super) tried: bool,
}

/// A person created in a tenant.
#[derive(Debug, Clone)]
pub(super) struct User {
    pub(super) id: Uuid,
    pub(super) email: String,
    /// May be invited elsewhere: nothing of them carries the tenant's marker, because another tenant will show it.
    pub(super) guest: bool,
}

/// Somebody whose name many clients change and read at once, and nothing else of whom is ever changed: a register.
#[derive(Debug, Clone)]
pub(super) struct Hot {
    pub(super) id: Uuid,
    /// The version that was answered last.
    pub(super) version: u64,
}

/// A team.
#[derive(Debug, Clone)]
pub(super) struct Team {
    pub(super) id: Uuid,
    pub(super) members: Vec<Uuid>,
}

/// A tenant.
#[derive(Debug, Clone)]
pub(super) struct Tenant {
    pub(super) id: Uuid,
    /// Letters that stand in everything of this tenant's own and nowhere else; its slug.
    pub(super) marker: String,
    pub(super) owner: Uuid,
    /// The owner's access token.
    pub(super) token: String,
    pub(super) version: u64,
    pub(super) hot: Vec<Hot>,
    pub(super) users: VecDeque<User>,
    pub(super) invitations: VecDeque<Invitation>,
    pub(super) teams: VecDeque<Team>,
}

/// Keeps the newest.
pub(super) fn remember<T>(things: &mut VecDeque<T>, thing: T) {
    if things.len() >= REMEMBERED {
        things.pop_front();
    }
    things.push_back(thing);
}

/// All tenants.
#[derive(Debug, Default)]
pub(super) struct World {
    tenants: Mutex<Vec<Tenant>>,
    markers: Mutex<BTreeMap<String, Uuid>>,
}

impl World {
    /// The tenants, to look and to change.
    pub(super) fn tenants(&self) -> MutexGuard<'_, Vec<Tenant>> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A tenant that is there now.
    pub(super) fn add(&self, tenant: Tenant) {
        self.markers.lock().unwrap_or_else(PoisonError::into_inner).insert(tenant.marker.clone(), tenant.id);
        self.tenants().push(tenant);
    }

    /// Changes what is known of a tenant, if it is.
    pub(super) fn with(&self, tenant: Uuid, change: impl FnOnce(&mut Tenant)) {
        if let Some(tenant) = self.tenants().iter_mut().find(|known| known.id == tenant) {
            change(tenant);
        }
    }

    /// The markers of tenants other than this one that stand in the text.
    pub(super) fn strangers(&self, text: &str, own: Option<Uuid>) -> Vec<String> {
        let found = markers(text);
        if found.is_empty() {
            return Vec::new();
        }
        let known = self.markers.lock().unwrap_or_else(PoisonError::into_inner);
        let foreign = |marker: &&str| known.get(*marker).is_some_and(|id| Some(*id) != own);
        let mut strangers: Vec<String> = found.into_iter().filter(foreign).map(str::to_owned).collect();
        strangers.sort_unstable();
        strangers.dedup();
        strangers
    }
}

/// What a marker begins with; ten hexadecimal digits follow.
const MARK: &str = "cnry";
/// Letters of a marker.
const MARK_LENGTH: usize = 14;

/// A marker that no other tenant of any run has.
pub(super) fn marker() -> String {
    format!("{MARK}{:010x}", rand::random::<u64>() & 0xff_ffff_ffff)
}

/// The markers in a text.
fn markers(text: &str) -> Vec<&str> {
    let whole = |at: usize| {
        let found = text.get(at..at + MARK_LENGTH)?;
        found.bytes().skip(MARK.len()).all(|byte| byte.is_ascii_hexdigit()).then_some(found)
    };
    text.match_indices(MARK).filter_map(|(at, _)| whole(at)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_found_wherever_it_stands_and_nothing_else_is() {
        let (one, other) = (marker(), marker());
        let text = format!("{one} cnry {{\"slug\":\"x-{other}\"}} cnrycnry cnry123456789 cnryzzzzzzzzzz é{one}");
        assert_eq!(markers(&text), [&one, &other, &one]);
        assert!(markers("cnry").is_empty());
    }

    #[test]
    fn only_the_marker_of_another_tenant_is_a_stranger() {
        let world = World::default();
        let tenant = |number: u128, marker: &str| Tenant {
            id: Uuid::from_u128(number),
            marker: marker.to_owned(),
            owner: Uuid::nil(),
            token: String::new(),
            version: 1,
            hot: Vec::new(),
            users: VecDeque::new(),
            invitations: VecDeque::new(),
            teams: VecDeque::new(),
        };
        let (one, other) = (marker(), marker());
        world.add(tenant(1, &one));
        world.add(tenant(2, &other));
        let text = format!("{one} {other} {}", marker());
        assert_eq!(world.strangers(&text, Some(Uuid::from_u128(1))), [other]);
        assert_eq!(world.strangers(&text, None).len(), 2);
    }
}

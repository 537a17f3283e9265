//! Whether a member counts: the home tenant of a user suspends, deactivates and reactivates them, and the tenants where they are a guest
//! follow. That has happened already when it is told here, so it is never refused, not even for the last owner.
//!
//! Commands of several events may come in any order and more than once. Each names how often the user's standing had changed at home, and
//! what is not newer than what was followed last means nothing. It also names which of the user's stays it is meant for: what was told of
//! an earlier one says nothing about the present one, which was looked at when it began.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use subjects::{Authority, UserId};

use super::{Command, Event, State};
use crate::{About, Emitted, Reason, Surroundings};

/// What the home tenant did. Its own words stay at home.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StandingReason {
    /// It suspended the user.
    UserSuspended,
    /// It, or the user, deactivated the user.
    UserDeactivated,
    /// It reactivated the user.
    UserReactivated,
}

/// Follows the home tenant: the member counts no longer, or again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FromHome {
    /// What happened at home.
    pub reason: StandingReason,
    /// How often the user's standing had changed at home by then.
    pub home_standing: u32,
    /// Which of the user's stays in this tenant it is meant for; see [`State::stay`].
    pub stay: u32,
}

/// A suspended member has no role that counts, does nothing, and is no active owner.
pub(super) fn decide(command: &Command, surroundings: &Surroundings<'_>, about: &About) -> Result<Vec<Emitted>, Reason> {
    let (tenant_id, user_id) = (about.tenant, UserId::new(about.target));
    if about.authority != Authority::System {
        return Err(Reason::Forbidden);
    }
    let state = surroundings.membership(user_id).ok_or(Reason::NotFound)?;
    let is_news = |follow: &FromHome| state.active && follow.stay == state.stay && state.home_standing.is_none_or(|had| follow.home_standing > had);
    let event = match command {
        Command::Suspend(follow) if is_news(follow) => {
            Event::Suspended { tenant_id, user_id, reason: follow.reason, home_standing: follow.home_standing }
        }
        Command::Reactivate(follow) if is_news(follow) => {
            Event::Reactivated { tenant_id, user_id, reason: follow.reason, home_standing: follow.home_standing }
        }
        _ => return Ok(Vec::new()),
    };
    Ok(vec![Emitted::new(user_id.uuid(), event)])
}

/// Applies. Cannot fail and contains no rule.
pub(super) fn apply(state: &mut State, suspended: bool, home_standing: u32) {
    state.suspended = suspended;
    state.home_standing = Some(home_standing);
}

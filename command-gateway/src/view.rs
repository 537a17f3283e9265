//! What queries answer. The database builds the JSON; these types document it and let clients in Rust read it.

mod letters;
mod past;

use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    answer::{etag, json},
    gateway::Gateway,
    problem::Problem,
    store::{Sight, StoreError},
};

pub use letters::{
    DeadLetterActionView, DeadLetterCount, DeadLetterDone, DeadLetterPage, DeadLetterView, DeadLetterWhole, StandingView, WaitingView,
};
pub use past::{AuditPage, AuditView, HistoryItem, HistoryPage, NotificationPage, NotificationView};

/// A tenant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TenantView {
    /// Id.
    pub id: String,
    /// Short name.
    pub slug: String,
    /// Full name.
    pub name: String,
    /// Plan.
    pub plan: String,
    /// `active`, `suspended` or `cancelled`.
    pub state: String,
    /// What it has switched on.
    pub settings: SettingsView,
    /// Where its people sign in; null where they do not sign in elsewhere.
    pub sso: Option<SsoView>,
    /// When it came to be.
    pub created_at: String,
    /// When it last changed.
    pub updated_at: String,
    /// The ETag.
    pub version: u64,
}

/// What a tenant has switched on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SettingsView {
    /// Whether people are told that their profile was changed.
    pub notify_profile_updated: bool,
    /// Whether an inviter is told that their invitation expired.
    pub notify_invitation_expired: bool,
}

/// Where the people of a tenant sign in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SsoView {
    /// The provider's name.
    pub provider: String,
    /// The issuer's identifier.
    pub issuer: String,
    /// What the provider knows us by.
    pub client_id: String,
}

/// A page of tenants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TenantPage {
    /// The tenants.
    pub items: Vec<TenantView>,
    /// How many there are, counted up to 10,000.
    pub total: u64,
    /// The page, from 1.
    pub page: u64,
    /// Items on a page.
    pub page_size: u64,
    /// `false` where there are more than `total` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_is_exact: Option<bool>,
}

/// A user, as the home tenant knows them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UserView {
    /// Id.
    pub id: String,
    /// The home tenant.
    pub tenant_id: String,
    /// Address; null once deleted.
    pub email: Option<String>,
    /// Name; null once deleted.
    pub full_name: Option<String>,
    /// Whether the address is known to be theirs.
    pub email_verified: bool,
    /// `active`, `suspended`, `deactivated` or `deleted`.
    pub state: String,
    /// Since when they are deactivated.
    pub deactivated_at: Option<String>,
    /// When they came to be.
    pub created_at: String,
    /// When they last changed.
    pub updated_at: String,
    /// The ETag.
    pub version: u64,
}

/// A page of users.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UserPage {
    /// The users.
    pub items: Vec<UserView>,
    /// How many there are, counted up to 10,000.
    pub total: u64,
    /// The page, from 1.
    pub page: u64,
    /// Items on a page.
    pub page_size: u64,
    /// `false` where there are more than `total` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_is_exact: Option<bool>,
}

/// A member of a tenant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MemberView {
    /// The user.
    pub user_id: String,
    /// Address.
    pub email: Option<String>,
    /// Name; null where the user's home is another tenant.
    pub full_name: Option<String>,
    /// `owner`, `admin`, `member` or `readonly`; null after a revocation.
    pub role: Option<String>,
    /// `active`, or `suspended` where the user is not active.
    pub state: String,
    /// The teams they are in.
    pub teams: Vec<Named>,
    /// The invitation that began it.
    pub invitation_id: Option<String>,
    /// When it first began.
    pub created_at: String,
    /// When it last changed.
    pub updated_at: String,
    /// The ETag.
    pub version: u64,
}

/// A page of members.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MemberPage {
    /// The members.
    pub items: Vec<MemberView>,
    /// How many there are, counted up to 10,000.
    pub total: u64,
    /// The page, from 1.
    pub page: u64,
    /// Items on a page.
    pub page_size: u64,
    /// `false` where there are more than `total` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_is_exact: Option<bool>,
}

/// An id and a name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// Id.
    pub id: String,
    /// Name.
    pub name: Option<String>,
}

/// Who invited.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Inviter {
    /// The user; null for a service.
    pub user_id: Option<String>,
    /// Name; null where the user's home is another tenant.
    pub full_name: Option<String>,
}

/// An invitation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InvitationView {
    /// Id.
    pub id: String,
    /// The tenant it is to.
    pub tenant: Named,
    /// The address it is for.
    pub email: Option<String>,
    /// `created`, `sent`, `accepted`, `declined`, `removed` or `expired`.
    pub state: String,
    /// `email` or `link`.
    pub invitation_type: String,
    /// The role it offers.
    pub role: String,
    /// The teams it offers.
    pub teams: Vec<Named>,
    /// Who invited.
    pub invited_by: Inviter,
    /// The user who accepted.
    pub account_id: Option<String>,
    /// Free attributes.
    #[schema(value_type = Object)]
    pub attributes: Value,
    /// How often it was sent again.
    pub resend_count: u64,
    /// When it ends.
    pub expires_at: String,
    /// When it came to be.
    pub created_at: String,
    /// The ETag.
    pub version: u64,
}

/// A page of invitations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InvitationPage {
    /// The invitations.
    pub items: Vec<InvitationView>,
    /// How many there are, counted up to 10,000.
    pub total: u64,
    /// The page, from 1.
    pub page: u64,
    /// Items on a page.
    pub page_size: u64,
    /// `false` where there are more than `total` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_is_exact: Option<bool>,
}

/// A team.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TeamView {
    /// Id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The team it belongs to.
    pub parent_team_id: Option<String>,
    /// How many people are in it, without those in the teams below it.
    pub member_count: u64,
    /// When it came to be.
    pub created_at: String,
    /// When it last changed.
    pub updated_at: String,
    /// The ETag.
    pub version: u64,
}

/// A page of teams.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TeamPage {
    /// The teams.
    pub items: Vec<TeamView>,
    /// How many there are, counted up to 10,000.
    pub total: u64,
    /// The page, from 1.
    pub page: u64,
    /// Items on a page.
    pub page_size: u64,
    /// `false` where there are more than `total` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_is_exact: Option<bool>,
}

/// The caller.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeView {
    /// The user or service.
    pub id: String,
    /// The token's tenant; null for the platform.
    pub tenant_id: Option<String>,
    /// What the token allows.
    pub scope: String,
    /// Whether the caller operates the platform.
    pub operator: bool,
    /// The role in the token's tenant.
    pub role: Option<String>,
    /// The profile, where the token's tenant is the home.
    pub user: Option<UserView>,
}

/// Answers with one thing and its entity tag; or 304 to who has seen it; or 404.
pub(crate) async fn one(gateway: &Gateway, headers: &HeaderMap, sight: Sight, view: &str, id: Uuid) -> Result<Response, Problem> {
    let sql = format!("SELECT doc::text, version FROM {view} WHERE id = $1");
    let rows = gateway.store.rows(sight, &sql, &[&id]).await?;
    let row = rows.first().ok_or_else(Problem::not_found)?;
    let version: i64 = row.try_get(1).map_err(StoreError::from)?;
    let tag = etag(version.unsigned_abs());
    let seen = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let seen = seen.flat_map(|value| value.split(',')).any(|seen| seen.trim() == "*" || seen.trim().trim_start_matches("W/") == tag);
    let mut response = if seen { StatusCode::NOT_MODIFIED.into_response() } else { json(row.try_get::<_, String>(0).map_err(StoreError::from)?) };
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    if let Ok(tag) = HeaderValue::try_from(tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Ok(response)
}

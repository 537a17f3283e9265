//! Who is where: tenants, people and members as far as mails need them, built from the same events. Each changeable part remembers the
//! sequence of its event, so that a repeated or late one changes nothing.

use std::collections::HashMap;

use aggregates::{membership, tenant, user};
use deadpool_postgres::Transaction;
use futures_util::future::{try_join, try_join_all};
use runtime::Failure;
use subjects::{Envelope, Kind};
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::{ledger::database, notice::typed};

/// Follows several events. In whatever order: every part remembers what it is from. Most are new names, and these are one statement.
pub(crate) async fn follow_all(transaction: &Transaction<'_>, envelopes: &[&Envelope]) -> Result<(), Failure> {
    let mut names: HashMap<Uuid, (i64, String)> = HashMap::new();
    let mut others = Vec::new();
    for envelope in envelopes {
        if envelope.event_type != "user.profile_updated" {
            others.push(follow(transaction, envelope));
        } else if let user::Event::ProfileUpdated { user_id, changes, .. } = typed(envelope)?
            && let Some(name) = changes.full_name
        {
            let sequence = i64::try_from(envelope.sequence).unwrap_or(i64::MAX);
            let newest = names.entry(user_id.uuid()).or_default();
            if newest.0 < sequence {
                *newest = (sequence, name.new.as_str().to_owned());
            }
        }
    }
    try_join(rename(transaction, names), try_join_all(others)).await.map(|_| ())
}

async fn rename(transaction: &Transaction<'_>, names: HashMap<Uuid, (i64, String)>) -> Result<(), Failure> {
    if names.is_empty() {
        return Ok(());
    }
    // In one order for everybody: two replicas wait for each other instead of deadlocking.
    let mut names: Vec<(Uuid, (i64, String))> = names.into_iter().collect();
    names.sort_unstable();
    let users: Vec<Uuid> = names.iter().map(|(user, _)| *user).collect();
    let sequences: Vec<i64> = names.iter().map(|(_, (sequence, _))| *sequence).collect();
    let texts: Vec<&str> = names.iter().map(|(_, (_, name))| name.as_str()).collect();
    let statement = "INSERT INTO notifications.people AS p (user_id, full_name, name_seq) SELECT * FROM unnest($1::uuid[], $2::text[], $3::bigint[])
         ON CONFLICT (user_id) DO UPDATE SET full_name = excluded.full_name, name_seq = excluded.name_seq
         WHERE excluded.name_seq > p.name_seq AND NOT p.gone";
    run(transaction, statement, &[&users, &texts, &sequences]).await
}

/// Follows an event.
pub(crate) async fn follow(transaction: &Transaction<'_>, envelope: &Envelope) -> Result<(), Failure> {
    let sequence = i64::try_from(envelope.sequence).unwrap_or(i64::MAX);
    match envelope.aggregate {
        Kind::Tenant => follow_tenant(transaction, envelope, typed(envelope)?, sequence).await,
        Kind::User => follow_user(transaction, typed(envelope)?, sequence).await,
        Kind::Membership => follow_membership(transaction, envelope, typed(envelope)?, sequence).await,
        Kind::Invitation | Kind::Team => Ok(()),
    }
}

async fn run(transaction: &Transaction<'_>, statement: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<(), Failure> {
    let statement = transaction.prepare_cached(statement).await.map_err(database)?;
    transaction.execute(&statement, parameters).await.map(|_| ()).map_err(database)
}

async fn follow_tenant(transaction: &Transaction<'_>, envelope: &Envelope, event: tenant::Event, sequence: i64) -> Result<(), Failure> {
    let tenant = envelope.tenant_id.uuid();
    match event {
        tenant::Event::Created { name, .. } => {
            let statement =
                "INSERT INTO notifications.tenants AS t (tenant_id, name, name_seq, created_event, created_cause) VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (tenant_id) DO UPDATE SET created_event = excluded.created_event, created_cause = excluded.created_cause,
                     name = CASE WHEN excluded.name_seq > t.name_seq THEN excluded.name ELSE t.name END,
                     name_seq = greatest(excluded.name_seq, t.name_seq)";
            run(transaction, statement, &[&tenant, &name.as_str(), &sequence, &envelope.id.uuid(), &envelope.causation_id]).await
        }
        tenant::Event::Updated { changes, .. } => {
            if let Some(settings) = changes.settings {
                switch(transaction, tenant, settings.new, sequence).await?;
            }
            let Some(name) = changes.name else { return Ok(()) };
            let statement = "INSERT INTO notifications.tenants AS t (tenant_id, name, name_seq) VALUES ($1, $2, $3)
                 ON CONFLICT (tenant_id) DO UPDATE SET name = excluded.name, name_seq = excluded.name_seq WHERE excluded.name_seq > t.name_seq";
            run(transaction, statement, &[&tenant, &name.new.as_str(), &sequence]).await
        }
        tenant::Event::Activated { .. }
        | tenant::Event::Suspended { .. }
        | tenant::Event::Cancelled { .. }
        | tenant::Event::PlanUpgraded { .. }
        | tenant::Event::SsoConfigured { .. }
        | tenant::Event::SsoDisabled { .. } => Ok(()),
    }
}

async fn switch(transaction: &Transaction<'_>, tenant: Uuid, settings: tenant::Settings, sequence: i64) -> Result<(), Failure> {
    let statement = "INSERT INTO notifications.switches AS s (tenant_id, profile_updated, invitation_expired, sequence,
             profile_updated_since, invitation_expired_since) VALUES ($1, $2, $3, $4, $4, $4)
         ON CONFLICT (tenant_id) DO UPDATE SET profile_updated = excluded.profile_updated, invitation_expired = excluded.invitation_expired,
             profile_updated_since = CASE WHEN s.profile_updated THEN s.profile_updated_since ELSE excluded.sequence END,
             invitation_expired_since = CASE WHEN s.invitation_expired THEN s.invitation_expired_since ELSE excluded.sequence END,
             sequence = excluded.sequence WHERE excluded.sequence > s.sequence";
    run(transaction, statement, &[&tenant, &settings.notify_profile_updated, &settings.notify_invitation_expired, &sequence]).await
}

async fn follow_user(transaction: &Transaction<'_>, event: user::Event, sequence: i64) -> Result<(), Failure> {
    match event {
        user::Event::Created { user_id, email, full_name, .. } => {
            let statement = "INSERT INTO notifications.people AS p (user_id, email, full_name, name_seq) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (user_id) DO UPDATE SET email = excluded.email,
                     full_name = CASE WHEN excluded.name_seq > p.name_seq THEN excluded.full_name ELSE p.full_name END,
                     name_seq = greatest(excluded.name_seq, p.name_seq) WHERE NOT p.gone";
            run(transaction, statement, &[&user_id.uuid(), &email.as_str(), &full_name.as_str(), &sequence]).await
        }
        user::Event::ProfileUpdated { user_id, changes, .. } => {
            let name = changes.full_name.map(|name| (user_id.uuid(), (sequence, name.new.as_str().to_owned())));
            rename(transaction, name.into_iter().collect()).await
        }
        user::Event::Deleted { user_id, .. } => {
            // The ledger has the address until the last mail has left; here it ends now.
            let statement = "INSERT INTO notifications.people (user_id, gone) VALUES ($1, true)
                 ON CONFLICT (user_id) DO UPDATE SET email = NULL, full_name = NULL, gone = true";
            run(transaction, statement, &[&user_id.uuid()]).await?;
            run(transaction, "UPDATE notifications.members SET email = NULL WHERE user_id = $1", &[&user_id.uuid()]).await
        }
        user::Event::Suspended { .. } | user::Event::Deactivated { .. } | user::Event::Reactivated { .. } => Ok(()),
    }
}

async fn follow_membership(transaction: &Transaction<'_>, envelope: &Envelope, event: membership::Event, sequence: i64) -> Result<(), Failure> {
    let tenant = envelope.tenant_id.uuid();
    match event {
        membership::Event::Joined { user_id, email, role_name, .. } => {
            let statement = "INSERT INTO notifications.members AS m (tenant_id, user_id, email, role, role_seq, active, active_seq, joined_cause)
                 VALUES ($1, $2, $3, $4, $5, true, $5, $6)
                 ON CONFLICT (tenant_id, user_id) DO UPDATE SET
                     role = CASE WHEN excluded.role_seq > m.role_seq THEN excluded.role ELSE m.role END,
                     role_seq = greatest(excluded.role_seq, m.role_seq),
                     email = CASE WHEN excluded.active_seq > m.active_seq THEN excluded.email ELSE m.email END,
                     active = CASE WHEN excluded.active_seq > m.active_seq THEN true ELSE m.active END,
                     joined_cause = CASE WHEN excluded.active_seq > m.active_seq THEN excluded.joined_cause ELSE m.joined_cause END,
                     active_seq = greatest(excluded.active_seq, m.active_seq)";
            let parameters: [&(dyn ToSql + Sync); 6] =
                [&tenant, &user_id.uuid(), &email.as_str(), &role_name.name(), &sequence, &envelope.causation_id];
            run(transaction, statement, &parameters).await
        }
        membership::Event::RoleChanged { user_id, new_role_name, .. } => {
            let statement = "INSERT INTO notifications.members AS m (tenant_id, user_id, role, role_seq) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (tenant_id, user_id) DO UPDATE SET role = excluded.role, role_seq = excluded.role_seq WHERE excluded.role_seq > m.role_seq";
            run(transaction, statement, &[&tenant, &user_id.uuid(), &new_role_name.map(subjects::Role::name), &sequence]).await
        }
        membership::Event::Removed { user_id, .. } => {
            let statement = "INSERT INTO notifications.members AS m (tenant_id, user_id, active, active_seq) VALUES ($1, $2, false, $3)
                 ON CONFLICT (tenant_id, user_id) DO UPDATE SET active = false, email = NULL, active_seq = excluded.active_seq
                 WHERE excluded.active_seq > m.active_seq";
            run(transaction, statement, &[&tenant, &user_id.uuid(), &sequence]).await
        }
        membership::Event::Suspended { .. }
        | membership::Event::Reactivated { .. }
        | membership::Event::AssignmentAttempted { .. }
        | membership::Event::AssignmentSucceeded { .. }
        | membership::Event::AssignmentFailed { .. }
        | membership::Event::RevocationAttempted { .. }
        | membership::Event::RevocationSucceeded { .. }
        | membership::Event::RevocationFailed { .. } => Ok(()),
    }
}

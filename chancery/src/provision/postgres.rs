//! What other teams' consumers have in PostgreSQL: a role, a schema of its own, and a policy that shows it the events its filters take.

use std::fmt::Write as _;

use anyhow::Context as _;
use postgres::Client;
use subjects::{FilterParts, TenantId};

use super::{Item, Sign};
use crate::{
    manifest::{Entry, Manifest},
    migrate::{Passwords, quoted},
};

/// The group with what every consumer needs for itself.
const GROUP: &str = "chancery_consumers";
/// Connections a consumer's role may hold, over all replicas.
const CONNECTIONS: u32 = 32;

/// What one entry is to have.
struct Wanted<'a> {
    entry: &'a Entry,
    role: String,
    schema: &'a str,
}

impl<'a> Wanted<'a> {
    /// What the manifest's entries are to have; ours have theirs by migrations.
    fn all(manifest: &'a Manifest) -> impl Iterator<Item = Self> {
        manifest.of_teams().filter_map(|entry| Some(Self { entry, role: entry.database_role()?, schema: entry.schema.as_deref()? }))
    }

    /// What the policy's comment says: by it, it is known which filters a policy was made for.
    fn comment(&self) -> String {
        format!("filters of the manifest: {}", self.entry.filters.join(" "))
    }

    /// How its role, its schema and its view of the events stand.
    fn standing(&self, client: &mut Client) -> anyhow::Result<[Item; 3]> {
        let Self { entry, role, schema } = self;
        let member = client.query_opt("SELECT pg_has_role(rolname, $2, 'USAGE') FROM pg_roles WHERE rolname = $1", &[role, &GROUP])?;
        let what = format!("role {role}");
        let role_item = match member.map(|row| row.get::<_, bool>(0)) {
            None => Item::new(Sign::Add, what, "cannot log in before it is given a password"),
            Some(false) => Item::new(Sign::Change, what, &format!("it is not in {GROUP}")),
            Some(true) => Item::new(Sign::Same, what, ""),
        };
        let owner = client.query_opt("SELECT pg_get_userbyid(nspowner)::text FROM pg_namespace WHERE nspname = $1", &[schema])?;
        let what = format!("schema {schema}");
        let schema_item = match owner.map(|row| row.get::<_, String>(0)) {
            None => Item::new(Sign::Add, what, &format!("owned by {role}")),
            Some(owner) if owner == *role => Item::new(Sign::Same, what, ""),
            Some(owner) => Item::new(Sign::Refused, what, &format!("it is there and belongs to {owner}")),
        };
        let comment = client.query_opt(
            "SELECT coalesce(obj_description(oid, 'pg_policy'), '') FROM pg_policy WHERE polrelid = 'events'::regclass AND polname = $1",
            &[&format!("team {}", entry.name)],
        )?;
        let what = format!("events for {role}");
        let events_item = match comment.map(|row| row.get::<_, String>(0)) {
            None => Item::new(Sign::Add, what, &entry.filters.join(", ")),
            Some(found) if found == self.comment() => Item::new(Sign::Same, what, ""),
            Some(_) => Item::new(Sign::Change, what, &entry.filters.join(", ")),
        };
        Ok([role_item, schema_item, events_item])
    }

    fn statements(&self) -> String {
        let Self { entry, role, schema } = self;
        let name = entry.name;
        let mut sql = String::new();
        // Names are checked when the manifest is read: letters, digits, underscores, and dashes in the consumer's.
        let _ = write!(
            sql,
            "DO $$ BEGIN CREATE ROLE {role} NOLOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;
             ALTER ROLE {role} NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE CONNECTION LIMIT {CONNECTIONS};
             GRANT {GROUP} TO {role};
             CREATE SCHEMA IF NOT EXISTS {schema} AUTHORIZATION {role};
             DROP POLICY IF EXISTS \"team {name}\" ON events;
             CREATE POLICY \"team {name}\" ON events FOR SELECT TO {role} USING ({condition});
             COMMENT ON POLICY \"team {name}\" ON events IS {comment};",
            condition = condition(&entry.filters),
            comment = quoted(&self.comment()),
        );
        sql
    }
}

/// Which rows of `events` some filters take.
fn condition(filters: &[&'static str]) -> String {
    let one = |filter: &&str| {
        // What is no filter was refused when the manifest was read, and shows nothing.
        let Ok(FilterParts { tenant, topic, event }) = FilterParts::parse(filter) else { return "false".to_owned() };
        // Events of the platform belong to no tenant, and stand in no tenant's rows.
        let tenant = tenant.map(|tenant| tenant.parse::<TenantId>().map_or_else(|_| "false".to_owned(), |id| format!("tenant_id = '{}'", id.uuid())));
        let token = |place: u8, token: Option<&str>| token.map(|token| format!("split_part(type, '.', {place}) = {}", quoted(token)));
        let terms: Vec<String> = [tenant, token(1, topic), token(2, event)].into_iter().flatten().collect();
        if terms.is_empty() { "true".to_owned() } else { format!("({})", terms.join(" AND ")) }
    };
    filters.iter().map(one).collect::<Vec<_>>().join(" OR ")
}

/// Compares what there is with what the manifest says; changes nothing.
///
/// # Errors
/// The database cannot be read, or has not been migrated.
pub fn standing(client: &mut Client, manifest: &Manifest) -> anyhow::Result<Vec<Item>> {
    if client.query_opt("SELECT 1 FROM pg_roles WHERE rolname = $1", &[&GROUP])?.is_none() {
        anyhow::bail!("the database has no role {GROUP}: run `chancery migrate` first");
    }
    let mut items = Vec::new();
    for wanted in Wanted::all(manifest) {
        items.extend(wanted.standing(client)?);
    }
    let known: Vec<String> = Wanted::all(manifest).map(|wanted| wanted.role).collect();
    let strays = client.query(
        "SELECT m.rolname::text FROM pg_auth_members a JOIN pg_roles g ON g.oid = a.roleid JOIN pg_roles m ON m.oid = a.member
         WHERE g.rolname = $1 AND m.rolname <> ALL ($2) AND NOT m.rolsuper ORDER BY 1",
        &[&GROUP, &known],
    )?;
    items.extend(
        strays.iter().map(|row| Item::new(Sign::Stray, format!("role {}", row.get::<_, String>(0)), "is in no manifest; nothing removes it")),
    );
    Ok(items)
}

/// Makes what is missing and changes what differs. A role for which there is a password may log in with it.
///
/// # Errors
/// A schema is somebody else's, or the database refuses.
pub fn apply(client: &mut Client, manifest: &Manifest, passwords: &Passwords) -> anyhow::Result<Vec<Item>> {
    let items = standing(client, manifest)?;
    super::refuse(&items)?;
    // A policy needs the table for itself for a moment: rather fail than hold up everybody who waits behind.
    client.batch_execute("SET lock_timeout = '10s'")?;
    for wanted in Wanted::all(manifest) {
        let is_there = wanted.standing(client)?.iter().all(|item| item.sign == Sign::Same);
        let mut transaction = client.transaction()?;
        if !is_there {
            transaction.batch_execute(&wanted.statements()).with_context(|| format!("making what {} needs", wanted.entry.name))?;
        }
        if let Some(password) = passwords.of(&wanted.role) {
            let login = format!("ALTER ROLE {} LOGIN PASSWORD {}", wanted.role, quoted(password));
            transaction.batch_execute(&login).with_context(|| format!("role {}", wanted.role))?;
        }
        transaction.commit()?;
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_shows_the_rows_whose_subjects_it_takes() {
        assert_eq!(condition(&["evt.>"]), "true");
        assert_eq!(condition(&["evt.*.*.>"]), "true");
        assert_eq!(condition(&["evt.*.user.>"]), "(split_part(type, '.', 1) = 'user')");
        assert_eq!(
            condition(&["evt.*.role.assignment_succeeded", "evt.*.*.created"]),
            "(split_part(type, '.', 1) = 'role' AND split_part(type, '.', 2) = 'assignment_succeeded') OR (split_part(type, '.', 2) = 'created')"
        );
        assert_eq!(condition(&["evt.tenant_01890a5d-ac96-774b-bcce-b302099a8057.>"]), "(tenant_id = '01890a5d-ac96-774b-bcce-b302099a8057')");
        assert_eq!(
            condition(&["evt.platform.user.created"]),
            "(false AND split_part(type, '.', 1) = 'user' AND split_part(type, '.', 2) = 'created')"
        );
    }
}

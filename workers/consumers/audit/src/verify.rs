//! Verification: walks every chain from its first row and names the first that is broken.

use std::collections::BTreeMap;

use serde_json::Value;
use subjects::TenantId;
use tokio_postgres::{Client, NoTls, Row};
use uuid::Uuid;

use crate::{
    Head,
    chain::{self, Hash, Seals},
    row::Content,
};

/// Rows read in one go.
const PAGE: i64 = 2_000;

/// The first broken row of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The tenant.
    pub tenant: TenantId,
    /// The row's number.
    pub n: i64,
    /// What is wrong with it.
    pub what: String,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Rows looked at.
    pub rows: u64,
    /// The ends of the chains that are whole.
    pub heads: Vec<Head>,
    /// The first broken row of each chain that is not.
    pub broken: Vec<Broken>,
}

/// Why nothing could be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The database.
    #[error("cannot read the audit log: {0}")]
    Database(String),
    /// The connection sees some rows only, or none: what it does not see would count as whole.
    #[error("role {0} does not see the whole audit log: connect as chancery_audit or as a superuser")]
    Blind(String),
    /// A published head that cannot be read.
    #[error("not a head of the form tenant:n:hash: {0:?}")]
    Head(String),
}

impl From<tokio_postgres::Error> for VerifyError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(runtime::store::describe(&error))
    }
}

/// Verifies the chain of one tenant, or of all. `published` are heads noted earlier, somewhere the database's owner cannot write.
///
/// # Errors
/// The log cannot be read, or not as a whole.
pub async fn verify(database_url: &str, tenant: Option<TenantId>, published: &[Head]) -> Result<Report, VerifyError> {
    let (client, connection) = tokio_postgres::connect(database_url, NoTls).await?;
    let driver = tokio::spawn(connection);
    let result = verify_with(&client, tenant, published).await;
    drop(client);
    driver.abort();
    result
}

async fn verify_with(client: &Client, tenant: Option<TenantId>, published: &[Head]) -> Result<Report, VerifyError> {
    let row = client
        .query_one(
            "SELECT current_user::text, r.rolsuper OR r.rolbypassrls OR pg_has_role(current_user, 'chancery_audit', 'USAGE')
             FROM pg_roles r WHERE r.rolname = current_user",
            &[],
        )
        .await?;
    if !row.get::<_, bool>(1) {
        return Err(VerifyError::Blind(row.get(0)));
    }
    let mut walk = Walk::new(tenant, published);
    let tenant = tenant.map(|tenant| tenant.uuid());
    let mut after = (Uuid::nil(), 0_i64);
    let statement = client
        .prepare(
            "SELECT id, n, tenant_id, sequence, action, entity_type, entity_id, performed_by, occurred_at, event_id, command_id,
                 correlation_id, ip_address, user_agent, before::text, after::text, seals::text, salt, hash
             FROM audit_log WHERE (tenant_id, n) > ($1, $2) AND ($3::uuid IS NULL OR tenant_id = $3) ORDER BY tenant_id, n LIMIT $4",
        )
        .await?;
    loop {
        let page = client.query(&statement, &[&after.0, &after.1, &tenant, &PAGE]).await?;
        let Some(last) = page.last() else { break };
        after = (last.get(2), last.get(1));
        for row in &page {
            walk.step(Stored::from(row));
        }
    }
    Ok(walk.finish())
}

/// A row as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) content: Content<'static>,
    pub(crate) seals: Seals,
    pub(crate) salt: Option<Vec<u8>>,
    pub(crate) hash: Vec<u8>,
}

impl From<&Row> for Stored {
    fn from(row: &Row) -> Self {
        let json = |index: usize| row.get::<_, Option<&str>>(index).map(|text| serde_json::from_str(text).unwrap_or(Value::Null));
        Self {
            content: Content {
                id: row.get(0),
                n: row.get(1),
                tenant: TenantId::new(row.get(2)),
                sequence: row.get(3),
                action: row.get::<_, String>(4).into(),
                entity_type: row.get::<_, String>(5).into(),
                entity_id: row.get::<_, String>(6).into(),
                performed_by: row.get::<_, String>(7).into(),
                occurred_at: row.get(8),
                event_id: row.get(9),
                command_id: row.get(10),
                correlation_id: row.get::<_, String>(11).into(),
                ip_address: row.get::<_, Option<String>>(12).map(Into::into),
                user_agent: row.get::<_, Option<String>>(13).map(Into::into),
                before: json(14),
                after: json(15),
            },
            seals: serde_json::from_str(row.get(16)).unwrap_or_default(),
            salt: row.get(17),
            hash: row.get(18),
        }
    }
}

/// A walk over rows in the order of tenant and number.
pub(crate) struct Walk {
    report: Report,
    published: BTreeMap<TenantId, Vec<Head>>,
    tenant: Option<TenantId>,
    n: i64,
    hash: Hash,
    broken: bool,
}

impl Walk {
    pub(crate) fn new(only: Option<TenantId>, heads: &[Head]) -> Self {
        let mut published: BTreeMap<TenantId, Vec<Head>> = BTreeMap::new();
        for head in heads.iter().filter(|head| only.is_none_or(|tenant| tenant == head.tenant)) {
            published.entry(head.tenant).or_default().push(*head);
        }
        Self { report: Report::default(), published, tenant: None, n: 0, hash: chain::START, broken: false }
    }

    pub(crate) fn step(&mut self, row: Stored) {
        self.report.rows += 1;
        let tenant = row.content.tenant;
        if self.tenant != Some(tenant) {
            self.end_tenant();
            (self.tenant, self.n, self.hash, self.broken) = (Some(tenant), 0, chain::START, false);
        }
        if self.broken {
            return;
        }
        let n = self.n + 1;
        if row.content.n != n {
            return self.breaks(tenant, n, format!("missing: row {} follows row {}", row.content.n, self.n));
        }
        if let Some(pointer) = broken_seal(&row) {
            return self.breaks(tenant, n, format!("{pointer} was changed"));
        }
        let hash = chain::hash(&self.hash, &row.content, &row.seals);
        if row.hash != hash {
            return self.breaks(tenant, n, "it was changed, or is not the row that stood here".to_owned());
        }
        if let Some(head) = self.published.get(&tenant).into_iter().flatten().find(|head| head.n == n)
            && head.hash != hash
        {
            return self.breaks(tenant, n, "its hash is not the published one: the chain was written anew".to_owned());
        }
        (self.n, self.hash) = (n, hash);
    }

    fn breaks(&mut self, tenant: TenantId, n: i64, what: String) {
        self.broken = true;
        self.report.broken.push(Broken { tenant, n, what });
    }

    fn end_tenant(&mut self) {
        let Some(tenant) = self.tenant.take() else { return };
        let newest = self.published.remove(&tenant).into_iter().flatten().map(|head| head.n).max().unwrap_or(0);
        if !self.broken && newest > self.n {
            self.breaks(tenant, self.n + 1, format!("missing: the published head is row {newest}"));
        }
        if !self.broken {
            self.report.heads.push(Head { tenant, n: self.n, hash: self.hash });
        }
    }

    pub(crate) fn finish(mut self) -> Report {
        self.end_tenant();
        // Published chains of which not one row is left.
        for (tenant, heads) in std::mem::take(&mut self.published) {
            let newest = heads.iter().map(|head| head.n).max().unwrap_or(0);
            self.report.broken.push(Broken { tenant, n: 1, what: format!("missing: the published head is row {newest}") });
        }
        self.report
    }
}

/// The first personal value that is not what was sealed. Erased together with the salt, it is in order.
fn broken_seal(row: &Stored) -> Option<String> {
    let wrong = |(pointer, seal): &(&String, &String)| match (&row.salt, row.content.value(pointer)) {
        (Some(salt), Some(value)) => chain::seal_value(salt, pointer, &value) != **seal,
        (None, None) => false,
        _ => true,
    };
    row.seals.iter().find(wrong).map(|(pointer, _)| pointer.clone())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use time::OffsetDateTime;

    use super::*;

    const SALT: &[u8] = b"0123456789abcdef0123456789abcdef";

    fn tenant() -> TenantId {
        TenantId::new(Uuid::from_u128(7))
    }

    /// A whole chain of so many rows.
    fn chain_of(rows: i64) -> Vec<Stored> {
        let mut previous = chain::START;
        (1..=rows)
            .map(|n| {
                let content = Content {
                    id: Uuid::from_u128(n as u128),
                    n,
                    tenant: tenant(),
                    sequence: n,
                    action: "USER_CREATED".into(),
                    entity_type: "user".into(),
                    entity_id: format!("user_{n}").into(),
                    performed_by: "system".into(),
                    occurred_at: OffsetDateTime::UNIX_EPOCH,
                    event_id: Uuid::from_u128(1_000 + n as u128),
                    command_id: None,
                    correlation_id: "c".into(),
                    ip_address: Some("192.0.2.1".into()),
                    user_agent: None,
                    before: None,
                    after: Some(json!({ "email": format!("u{n}@example.com"), "role": "member" })),
                };
                let seals = chain::seal(&content, &content.personal("user.created"), SALT);
                let hash = chain::hash(&previous, &content, &seals);
                previous = hash;
                Stored { content, seals, salt: Some(SALT.to_vec()), hash: hash.to_vec() }
            })
            .collect()
    }

    fn verify_rows(rows: Vec<Stored>, published: &[Head]) -> Report {
        let mut walk = Walk::new(None, published);
        rows.into_iter().for_each(|row| walk.step(row));
        walk.finish()
    }

    /// The number of the first broken row.
    fn broken(rows: Vec<Stored>) -> Option<i64> {
        verify_rows(rows, &[]).broken.first().map(|broken| broken.n)
    }

    #[test]
    fn a_whole_chain_is_whole() {
        let report = verify_rows(chain_of(5), &[]);
        assert_eq!((report.rows, report.heads.len(), report.broken), (5, 1, vec![]));
    }

    #[test]
    fn what_is_personal_is_sealed() {
        assert_eq!(chain_of(1)[0].seals.keys().collect::<Vec<_>>(), ["/after/email", "/ipAddress"]);
    }

    #[test]
    fn an_edit_is_found_in_every_kind_of_field() {
        let edits: [fn(&mut Stored); 9] = [
            |row| row.content.action = "USER_DELETED".into(),
            |row| row.content.performed_by = "user_x".into(),
            |row| row.content.occurred_at += time::Duration::milliseconds(1),
            |row| row.content.after = Some(json!({ "email": "u3@example.com", "role": "owner" })),
            |row| row.content.after = Some(json!({ "email": "other@example.com", "role": "member" })),
            |row| row.content.ip_address = Some("192.0.2.2".into()),
            |row| row.content.user_agent = Some("curl".into()),
            |row| row.content.command_id = Some(Uuid::nil()),
            |row| row.seals = Seals::new(),
        ];
        for (index, edit) in edits.into_iter().enumerate() {
            let mut rows = chain_of(5);
            edit(&mut rows[2]);
            assert_eq!(broken(rows), Some(3), "edit {index}");
        }
    }

    #[test]
    fn an_edit_with_a_fitting_hash_breaks_the_next_row() {
        let mut rows = chain_of(5);
        rows[2].content.action = "USER_DELETED".into();
        let previous: Hash = rows[1].hash.clone().try_into().unwrap();
        rows[2].hash = chain::hash(&previous, &rows[2].content, &rows[2].seals).to_vec();
        assert_eq!(broken(rows), Some(4));
    }

    #[test]
    fn removal_and_reordering_are_found() {
        let mut rows = chain_of(5);
        rows.remove(2);
        assert_eq!(broken(rows), Some(3));
        let mut rows = chain_of(5);
        rows.remove(0);
        assert_eq!(broken(rows), Some(1));
        let mut rows = chain_of(5);
        rows.swap(1, 3);
        (rows[1].content.n, rows[3].content.n) = (2, 4);
        assert_eq!(broken(rows), Some(2));
    }

    #[test]
    fn erasing_values_and_salt_keeps_the_chain_whole_and_erasing_one_of_them_does_not() {
        let erase_values = |row: &mut Stored| {
            row.content.after = Some(json!({ "email": null, "role": "member" }));
            row.content.ip_address = None;
        };
        let mut rows = chain_of(5);
        erase_values(&mut rows[2]);
        rows[2].salt = None;
        assert_eq!(broken(rows), None);
        let mut rows = chain_of(5);
        erase_values(&mut rows[2]);
        assert_eq!(broken(rows), Some(3));
        let mut rows = chain_of(5);
        rows[2].salt = None;
        assert_eq!(broken(rows), Some(3));
    }

    #[test]
    fn the_loss_of_the_newest_rows_shows_against_a_published_head() {
        let rows = chain_of(5);
        let head = verify_rows(rows.clone(), &[]).heads[0];
        assert_eq!(head.to_string().parse::<Head>().unwrap(), head);
        assert_eq!(verify_rows(rows.clone(), &[head]).broken, []);
        assert_eq!(verify_rows(rows[..3].to_vec(), &[head]).broken.first().map(|broken| broken.n), Some(4));
        assert_eq!(verify_rows(Vec::new(), &[head]).broken.first().map(|broken| broken.n), Some(1));
        let written_anew = Head { hash: [9; 32], ..head };
        assert_eq!(verify_rows(rows, &[written_anew]).broken.first().map(|broken| broken.n), Some(5));
    }

    #[test]
    fn a_head_that_is_none_is_refused() {
        assert!("tenant_x:1:00".parse::<Head>().is_err());
        assert!("".parse::<Head>().is_err());
    }
}

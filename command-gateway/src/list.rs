//! Lists: `?page=&pageSize=&orderBy=&state=&…`, answered as `{items, total, page, pageSize}`.
//!
//! Every view has a column `doc` with the item as the API shows it, and columns that can be filtered and sorted.

use std::fmt::Write as _;

use axum::{extract::FromRequestParts, http::request::Parts, response::Response};
use serde_json::{Value, json};
use subjects::TeamId;
use tokio_postgres::types::ToSql;

use crate::{
    answer::json as json_response,
    body::escaped,
    gateway::Gateway,
    problem::{Code, FieldError, Problem},
    store::{Query, Sight, StoreError},
};

/// Items on a page at most, and unless asked otherwise.
const PAGE_SIZE: (i64, i64) = (100, 20);
/// The last page that is served: a database reads everything before it.
const LAST_PAGE: i64 = 10_000;
/// Items that are counted exactly.
pub(crate) const COUNTED: i64 = 10_000;
/// Filters on attributes at most.
const ATTRIBUTES: usize = 8;
/// Finds by attributes: every simple value has a term of its key and itself.
const TERMS: &str = "SELECT invitation_id FROM invitation_terms WHERE tenant_id = (SELECT current_tenant()) \
     AND term = ANY(ARRAY(SELECT md5(asked)::uuid FROM unnest(?::text[]) asked))";
/// Items before a page from which on those that are skipped are no longer built.
const FAR: i64 = 200;

/// How the value of a filter is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compare {
    /// As text.
    Text,
    /// As an e-mail address, in the form in which addresses are compared.
    Email,
    /// As a name, whatever the case of its letters.
    Folded,
    /// As the id of a team that the row's id is a member of.
    InTeam,
    /// At this time or later.
    From,
    /// Before this time.
    To,
}

/// A list.
#[derive(Debug)]
pub(crate) struct Listing {
    /// The view.
    pub(crate) view: &'static str,
    /// What can be sorted by: names and columns (several with `, `, as an index has them).
    pub(crate) orders: &'static [(&'static str, &'static str)],
    /// The order when none is asked for.
    pub(crate) default_order: &'static str,
    /// What breaks ties: a column.
    pub(crate) tie: &'static str,
    /// What can be filtered by: names, columns, and how.
    pub(crate) filters: &'static [(&'static str, &'static str, Compare)],
    /// Whether `attr.<key>=` filters the column `attributes`.
    pub(crate) attributes: bool,
}

/// The parameters of a request's query.
#[derive(Debug, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    /// The names and values, in the order in which they were given.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// These.
    pub(crate) fn new(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }
}

impl FromRequestParts<Gateway> for Params {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, Problem> {
        let axum::extract::Query(pairs) = axum::extract::Query::from_request_parts(parts, gateway)
            .await
            .map_err(|_| Problem::new(Code::Malformed).detail("the query cannot be read"))?;
        Ok(Self(pairs))
    }
}

/// Why there is no plan.
pub(crate) type ExplainError = Box<dyn std::error::Error + Send + Sync>;

type Param = Box<dyn ToSql + Sync + Send>;

/// A number or truth value as its term has it: a number in full, without an exponent and without zeros at the end of a fraction.
fn plain(literal: &Value) -> String {
    let text = literal.to_string();
    if !literal.is_number() {
        return text;
    }
    let (sign, digits) = text.strip_prefix('-').map_or(("", text.as_str()), |digits| ("-", digits));
    let (mantissa, exponent) = digits.split_once(['e', 'E']).unwrap_or((digits, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    // Numbers come from 64 bits here, so a text is at most some hundred digits long.
    let point = whole.len() as i64 + exponent.parse::<i64>().unwrap_or(0);
    let digits = format!("{whole}{fraction}");
    let padded = match usize::try_from(point) {
        Ok(point) if point >= digits.len() => format!("{digits}{}", "0".repeat(point - digits.len())),
        Ok(point) => format!("{}.{}", &digits[..point], &digits[point..]),
        Err(_) => format!("0.{}{digits}", "0".repeat(usize::try_from(-point).unwrap_or(0))),
    };
    let padded = if padded.contains('.') { padded.trim_end_matches('0').trim_end_matches('.').to_owned() } else { padded };
    let plain = padded.trim_start_matches('0');
    match plain {
        "" => "0".to_owned(),
        fraction if fraction.starts_with('.') => format!("{sign}0{fraction}"),
        other => format!("{sign}{other}"),
    }
}

/// A list that was asked for.
struct Asked {
    page: i64,
    page_size: i64,
    order: String,
    conditions: String,
    params: Vec<Param>,
}

/// A page that was asked for.
#[derive(Debug)]
pub(crate) struct Window {
    /// Which, from 1.
    pub(crate) page: i64,
    /// Items on it.
    pub(crate) page_size: i64,
    /// What stands after `ORDER BY`.
    pub(crate) order: String,
}

impl Window {
    /// How many items stand before it.
    pub(crate) const fn skipped(&self) -> i64 {
        (self.page - 1) * self.page_size
    }
}

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "where {} order by {} page {}x{}", self.conditions, self.order, self.page, self.page_size)
    }
}

impl Asked {
    fn condition(&mut self, text: &str, param: Param) {
        self.params.push(param);
        let joint = if self.conditions.is_empty() { " WHERE " } else { " AND " };
        let _ = write!(self.conditions, "{joint}{}", text.replace('?', &format!("${}", self.params.len())));
    }
}

impl Asked {
    /// Only what has a term of each of these. Of one, the planner may choose the way; of several, who has all of them is found first: it
    /// would guess that to be many, and walk through all of a state instead (90 ms against 10, of 100,000).
    fn with_terms(&mut self, attributes: Vec<Vec<String>>) {
        let Some(first) = self.params.len().checked_add(1).filter(|_| !attributes.is_empty()) else { return };
        let each = (first..first + attributes.len()).map(|place| TERMS.replace('?', &format!("${place}")));
        let found = each.collect::<Vec<_>>().join(" INTERSECT ");
        let joint = if self.conditions.is_empty() { " WHERE " } else { " AND " };
        let found = if attributes.len() == 1 { format!("id IN ({found})") } else { format!("id = ANY(ARRAY({found}))") };
        let _ = write!(self.conditions, "{joint}{found}");
        self.params.extend(attributes.into_iter().map(|terms| Box::new(terms) as Param));
    }
}

impl Listing {
    fn asked(&self, params: &Params) -> Result<Asked, Problem> {
        let (mut unknown, mut invalid) = (Vec::new(), Vec::new());
        let mut order = self.default_order;
        let mut asked = Asked { page: 1, page_size: PAGE_SIZE.1, order: String::new(), conditions: String::new(), params: Vec::new() };
        let mut attributes: Vec<Vec<String>> = Vec::new();
        for (index, (name, value)) in params.0.iter().enumerate() {
            let place = || format!("?{}", escaped(name).replace('\0', "\u{fffd}"));
            let mut wrong = |detail: String| invalid.push(FieldError::new(place(), detail));
            if params.0[..index].iter().any(|(earlier, _)| earlier == name) {
                wrong("must be given once".into());
            } else if value.contains('\0') {
                wrong("must not contain NUL".into());
            } else if name == "page" || name == "pageSize" {
                let most = if name == "page" { LAST_PAGE } else { PAGE_SIZE.0 };
                match value.parse::<i64>() {
                    Ok(number) if (1..=most).contains(&number) => *(if name == "page" { &mut asked.page } else { &mut asked.page_size }) = number,
                    _ => wrong(format!("must be a number from 1 to {most}")),
                }
            } else if name == "orderBy" {
                match self.orders.iter().any(|(known, _)| *known == value.strip_prefix('-').unwrap_or(value)) {
                    true => order = value,
                    false => wrong(format!(
                        "must be one of {}, each also with -",
                        self.orders.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
                    )),
                }
            } else if let Some((_, column, compare)) = self.filters.iter().find(|(known, ..)| known == name) {
                match compare {
                    Compare::Text => asked.condition(&format!("{column} = ?"), Box::new(value.clone())),
                    Compare::Email => match value.parse::<aggregates::text::Email>() {
                        Ok(email) => asked.condition(&format!("{column} = ?"), Box::new(email.as_str().to_owned())),
                        Err(error) => wrong(error.to_string()),
                    },
                    Compare::Folded => asked.condition(&format!("{column} = ?"), Box::new(value.trim().to_lowercase())),
                    Compare::InTeam => match value.parse::<TeamId>() {
                        Ok(team) => asked.condition(
                            &format!("{column} IN (SELECT named FROM team_names WHERE tenant_id = (SELECT current_tenant()) AND team_id = ?)"),
                            Box::new(team.uuid()),
                        ),
                        Err(_) => wrong("must be a team's id".into()),
                    },
                    Compare::From | Compare::To => match subjects::timestamp::parse(value) {
                        Some(time) => asked.condition(&format!("{column} {} ?", if *compare == Compare::From { ">=" } else { "<" }), Box::new(time)),
                        None => wrong("must be an RFC 3339 time".into()),
                    },
                }
            } else if let Some(key) = name.strip_prefix("attr.").filter(|_| self.attributes) {
                match key.parse::<aggregates::text::AttributeKey>() {
                    Ok(key) if attributes.len() < ATTRIBUTES => {
                        // What reads as a number or a truth value is looked for as that, too.
                        let literal = serde_json::from_str::<Value>(value).ok().filter(|value| value.is_number() || value.is_boolean());
                        // By the index of terms, which row level security lets be used; then exactly.
                        let terms =
                            literal.iter().map(|literal| format!("{}={}", key.as_str(), plain(literal))).chain([format!("{}={value}", key.as_str())]);
                        attributes.push(terms.collect());
                        let text = json!({ key.as_str(): value });
                        let other = literal.map_or_else(|| text.clone(), |literal| json!({ key.as_str(): literal }));
                        asked.condition("attributes @> ANY(?)", Box::new(vec![text, other]));
                    }
                    Ok(_) => wrong(format!("at most {ATTRIBUTES} attributes can be asked for")),
                    Err(error) => wrong(error.to_string()),
                }
            } else {
                unknown.push(FieldError::new(place(), "is not a parameter of this list"));
            }
        }
        asked.with_terms(attributes);
        if !unknown.is_empty() {
            unknown.append(&mut invalid);
            return Err(Problem::new(Code::Malformed).errors(unknown));
        }
        if !invalid.is_empty() {
            return Err(Problem::new(Code::ValidationFailed).errors(invalid));
        }
        let (name, direction) = order.strip_prefix('-').map_or((order, "ASC"), |name| (name, "DESC"));
        let column = self.orders.iter().find(|(known, _)| *known == name).map_or(self.tie, |(_, column)| column);
        let columns = column.split(", ").chain([self.tie].into_iter().filter(|tie| *tie != column));
        asked.order = columns.map(|column| format!("{column} {direction}")).collect::<Vec<_>>().join(", ");
        Ok(asked)
    }

    /// Reads what was asked for, for who reads the page themself.
    ///
    /// # Errors
    /// Parameters that are unknown, or values that are not allowed.
    pub(crate) fn window(&self, params: &Params) -> Result<Window, Problem> {
        let Asked { page, page_size, order, .. } = self.asked(params)?;
        Ok(Window { page, page_size, order })
    }

    /// What a page is read with, and what counts.
    fn statements(&self, asked: &Asked) -> (String, String) {
        let Asked { order, conditions, params, .. } = asked;
        let (view, limit, offset) = (self.view, params.len() + 1, params.len() + 2);
        let items = if (asked.page - 1) * asked.page_size < FAR {
            format!("SELECT doc::text FROM {view}{conditions} ORDER BY {order} LIMIT ${limit} OFFSET ${offset}")
        } else {
            // An item is built for each row that is read, skipped or not; so first which rows, then their items.
            let tie = self.tie;
            format!(
                "SELECT item.doc::text FROM (SELECT tie, row_number() OVER () AS place
                     FROM (SELECT {tie} AS tie FROM {view}{conditions} ORDER BY {order} LIMIT ${limit} OFFSET ${offset}) AS page) AS page
                 CROSS JOIN LATERAL (SELECT doc FROM {view} WHERE {tie} = page.tie OFFSET 0) AS item ORDER BY page.place"
            )
        };
        (items, format!("SELECT count(*) FROM (SELECT 1 FROM {view}{conditions} LIMIT {}) AS counted", COUNTED + 1))
    }

    /// How PostgreSQL would read a page, and how it would count: the plans as JSON. The caller's transaction says as whom and where.
    pub(crate) async fn explain(&self, client: &tokio_postgres::Client, params: &Params) -> Result<Vec<Value>, ExplainError> {
        let asked = self.asked(params).map_err(|problem| format!("{:?}", problem.body()))?;
        let (items, count) = self.statements(&asked);
        let filters: Vec<&(dyn ToSql + Sync)> = asked.params.iter().map(|param| &**param as &(dyn ToSql + Sync)).collect();
        let skipped = (asked.page - 1) * asked.page_size;
        let paged: Vec<&(dyn ToSql + Sync)> = filters.iter().copied().chain([&asked.page_size as &(dyn ToSql + Sync), &skipped]).collect();
        let mut plans = Vec::new();
        for (sql, params) in [(items, &paged), (count, &filters)] {
            plans.push(client.query_one(&format!("EXPLAIN (FORMAT JSON) {sql}"), params).await?.try_get(0)?);
        }
        Ok(plans)
    }

    /// Reads a page and counts.
    pub(crate) async fn answer(&self, gateway: &Gateway, sight: Sight, params: &Params) -> Result<Response, Problem> {
        let asked = self.asked(params)?;
        let (items, count) = self.statements(&asked);
        let Asked { page, page_size, params, .. } = &asked;
        let filters: Vec<&(dyn ToSql + Sync)> = params.iter().map(|param| &**param as &(dyn ToSql + Sync)).collect();
        let skipped = (page - 1) * page_size;
        let paged: Vec<&(dyn ToSql + Sync)> = filters.iter().copied().chain([page_size as &(dyn ToSql + Sync), &skipped]).collect();
        let mut rows = gateway.store.read(sight, &[Query { sql: &items, params: &paged }, Query { sql: &count, params: &filters }]).await?;
        let count = rows.pop().unwrap_or_default();
        let items = rows.pop().unwrap_or_default();
        let total: i64 = count.first().map_or(Ok(0), |row| row.try_get(0)).map_err(StoreError::from)?;
        let mut body = String::with_capacity(512 * items.len() + 64);
        body.push_str("{\"items\":[");
        for (index, row) in items.iter().enumerate() {
            if index > 0 {
                body.push(',');
            }
            body.push_str(row.try_get(0).map_err(StoreError::from)?);
        }
        let exact = if total > COUNTED { ",\"totalIsExact\":false" } else { "" };
        let _ = write!(body, "],\"total\":{},\"page\":{page},\"pageSize\":{page_size}{exact}}}", total.min(COUNTED));
        Ok(json_response(body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: Listing = Listing {
        view: "things",
        orders: &[("createdAt", "created_at"), ("email", "email")],
        default_order: "-createdAt",
        tie: "id",
        filters: &[("state", "state", Compare::Text), ("email", "email", Compare::Email), ("from", "created_at", Compare::From)],
        attributes: true,
    };

    fn asked(pairs: &[(&str, &str)]) -> Result<Asked, Problem> {
        LISTING.asked(&Params::new(pairs))
    }

    #[test]
    fn a_number_is_looked_for_as_the_database_writes_it() {
        for (given, plainly) in [
            ("7", "7"),
            ("-7.50", "-7.5"),
            ("1e16", "10000000000000000"),
            ("10000000000000000.0", "10000000000000000"),
            ("1e-7", "0.0000001"),
            ("1.25e2", "125"),
            ("0.0", "0"),
            ("0.05", "0.05"),
            ("18446744073709551615", "18446744073709551615"),
            ("true", "true"),
        ] {
            assert_eq!(plain(&serde_json::from_str(given).unwrap()), plainly, "{given}");
        }
    }

    #[test]
    fn a_list_begins_with_the_newest() {
        let asked = asked(&[]).unwrap();
        assert_eq!((asked.page, asked.page_size, asked.order.as_str(), asked.conditions.as_str()), (1, 20, "created_at DESC, id DESC", ""));
    }

    #[test]
    fn what_is_asked_for_becomes_parameters_never_sql() {
        let asked = asked(&[
            ("page", "3"),
            ("pageSize", "100"),
            ("orderBy", "email"),
            ("state", "x' OR 1=1"),
            ("email", "A@B.example"),
            ("attr.team.x", "7"),
        ])
        .unwrap();
        assert_eq!((asked.page, asked.page_size, asked.order.as_str()), (3, 100, "email ASC, id ASC"));
        assert_eq!(asked.conditions, format!(" WHERE state = $1 AND email = $2 AND attributes @> ANY($3) AND id IN ({})", TERMS.replace('?', "$4")));
        assert_eq!(asked.params.len(), 4);
    }

    #[test]
    fn everything_wrong_is_named() {
        let wrong = |pairs: &[(&str, &str)]| {
            let problem = asked(pairs).expect_err("wrong");
            (problem.code().name(), problem.body().errors.into_iter().map(|error| error.pointer).collect::<Vec<_>>())
        };
        assert_eq!(
            wrong(&[("page", "0"), ("pageSize", "101"), ("orderBy", "password")]),
            ("validation_failed", vec!["?orderBy".into(), "?page".into(), "?pageSize".into()])
        );
        assert_eq!(wrong(&[("limit", "5")]), ("malformed", vec!["?limit".into()]));
        assert_eq!(wrong(&[("state", "a\0"), ("from", "yesterday"), ("attr.a b", "1")]).1, vec!["?attr.a b", "?from", "?state"]);
        assert_eq!(wrong(&[("page", "1"), ("page", "2")]).1, vec!["?page"]);
    }
}

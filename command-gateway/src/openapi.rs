//! The OpenAPI document: the handlers and their forms say what they take and give, the policies say who may and what can go wrong.

use serde_json::{Map, Value, json};
use utoipa::OpenApi;

use crate::{
    policy::{Does, Least, Policy},
    problem::Code,
    route,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Chancery",
        description = "Multi-tenant identity and access backbone. What happens is told as events over NATS, which [/asyncapi.json](/asyncapi.json) describes."
    ),
    paths(
        route::tenant::create,
        route::tenant::list,
        route::tenant::get,
        route::tenant::update,
        route::tenant::activate,
        route::tenant::suspend,
        route::tenant::cancel,
        route::tenant::plan,
        route::tenant::sso,
        route::tenant::configure_sso,
        route::tenant::disable_sso,
        route::user::create,
        route::user::list,
        route::user::get,
        route::user::update,
        route::user::suspend,
        route::user::deactivate,
        route::user::reactivate,
        route::user::delete,
        route::member::list,
        route::member::get,
        route::member::add,
        route::member::remove,
        route::member::leave,
        route::member::assign,
        route::member::revoke,
        route::invitation::create,
        route::bulk::bulk,
        route::invitation::list,
        route::invitation::get,
        route::invitation::update,
        route::invitation::remove,
        route::invitation::send,
        route::invitation::set_attribute,
        route::invitation::remove_attribute,
        route::link::lookup,
        route::link::accept,
        route::link::decline,
        route::team::create,
        route::team::list,
        route::team::get,
        route::team::update,
        route::team::delete,
        route::team::add_members,
        route::team::remove_member,
        route::command::get,
        route::command::timeline,
        route::me::get,
        route::audit::list,
        route::history::list,
        route::events::follow,
        route::notification::list,
        route::deadletter::list,
        route::deadletter::get,
        route::deadletter::redrive,
        route::deadletter::discard,
    ),
    components(schemas(crate::problem::ProblemBody, crate::answer::CommandView))
)]
struct Document;

/// The parameters that every list takes.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
#[expect(dead_code, reason = "only described")]
pub(crate) struct Page {
    /// The page, from 1.
    #[param(minimum = 1)]
    page: Option<u32>,
    /// Items on a page; 20 unless given.
    #[param(minimum = 1, maximum = 100)]
    page_size: Option<u32>,
    /// What to sort by, with `-` for the last first; `-createdAt` unless given.
    #[param(example = "-createdAt")]
    order_by: Option<String>,
    /// Only these.
    state: Option<String>,
}

/// The document, as served under `/openapi.json`.
pub fn openapi() -> Value {
    let mut document = serde_json::to_value(Document::openapi()).unwrap_or_default();
    document["info"]["version"] = env!("CARGO_PKG_VERSION").into();
    document["components"]["securitySchemes"] = json!({ "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" } });
    document["components"]["parameters"] = headers();
    // A bad item costs the others nothing: the request is accepted, and the item's result has the problem.
    document["components"]["schemas"]["BulkInvitations"]["properties"]["invitations"]["items"] = json!({
        "anyOf": [{ "$ref": "#/components/schemas/CreateInvitation" }, { "description": "Anything else: its result is a problem." }]
    });
    for policy in route::policies() {
        let method = policy.method.name().to_ascii_lowercase();
        if let Some(operation) = document["paths"][policy.path].get_mut(&method).and_then(Value::as_object_mut) {
            complete(operation, policy);
        }
    }
    document
}

fn headers() -> Value {
    let header =
        |name: &str, about: &str| json!({ "name": name, "in": "header", "required": false, "description": about, "schema": { "type": "string" } });
    json!({
        "IdempotencyKey": header("Idempotency-Key", "The same request under the same key has one effect, for ever; another request under it is refused."),
        "IfMatch": header("If-Match", "The ETag that was read; 412 if it is stale."),
        "Prefer": header("Prefer", "`respond-async`, or `wait=N` seconds for the outcome."),
    })
}

fn complete(operation: &mut Map<String, Value>, policy: &Policy) {
    let command = policy.command_type();
    operation.insert("operationId".into(), operation_id(policy).into());
    let parameters = operation.entry("parameters").or_insert_with(|| json!([]));
    if let Some(parameters) = parameters.as_array_mut() {
        for name in policy.path.split(['{', '}']).skip(1).step_by(2) {
            parameters.push(json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" }, "description": about(name) }));
        }
        if command.is_some() {
            for header in ["IdempotencyKey", "IfMatch", "Prefer"] {
                parameters.push(json!({ "$ref": format!("#/components/parameters/{header}") }));
            }
        }
    }
    if policy.least != Least::Public {
        operation.insert("security".into(), json!([{ "bearer": [] }]));
    }
    operation.insert("x-permission".into(), policy.permission.into());
    operation.insert("x-least".into(), least(policy.least).into());
    if let Some(command) = &command {
        operation.insert("x-command".into(), command.as_str().into());
    }
    let responses = operation.entry("responses").or_insert_with(|| json!({}));
    if let Some(responses) = responses.as_object_mut() {
        for response in responses.values_mut().filter_map(Value::as_object_mut) {
            let text = match policy.does {
                Does::Command(..) => "Decided, and in effect.",
                Does::Query => "What was asked for.",
                Does::Operation => "Done.",
            };
            response.insert("description".into(), text.into());
        }
        if command.is_some() {
            let schema = json!({ "application/json": { "schema": { "$ref": "#/components/schemas/CommandView" } } });
            responses
                .insert("202".into(), json!({ "description": "Stored, and not decided in time; `Location` tells the outcome.", "content": schema }));
        }
        let mut codes = codes(policy);
        codes.sort_by_key(|code| (code.status(), code.name()));
        for group in codes.chunk_by(|a, b| a.status() == b.status()) {
            responses.insert(group[0].status().to_string(), problem(group));
        }
    }
}

fn problem(codes: &[Code]) -> Value {
    let text: Vec<String> = codes.iter().map(|code| format!("`{}`: {}", code.name(), code.title())).collect();
    let names: Vec<&str> = codes.iter().map(|code| code.name()).collect();
    let schema = json!({ "allOf": [{ "$ref": "#/components/schemas/Problem" }, { "properties": { "code": { "enum": names } } }] });
    json!({ "description": text.join("\n\n"), "content": { "application/problem+json": { "schema": schema } } })
}

/// Everything a route may answer besides a success.
pub(crate) fn codes(policy: &Policy) -> Vec<Code> {
    let mut codes =
        vec![Code::Malformed, Code::ValidationFailed, Code::RequestTimeout, Code::RateLimited, Code::Internal, Code::Overloaded, Code::Unavailable];
    let public = policy.least == Least::Public;
    // An optional token that is given must be valid.
    if !public || policy.command_type().is_some() {
        codes.push(Code::Unauthenticated);
    }
    if matches!(policy.does, Does::Command(..) | Does::Operation) || public {
        codes.extend([Code::TooLarge, Code::UnsupportedMediaType]);
    }
    if matches!(policy.does, Does::Command(..)) {
        codes.extend([Code::IdempotencyKeyReused, Code::Failed, Code::NotAccepted, Code::OutcomeUnknown]);
        codes.extend(policy.refusals().into_iter().map(Code::Refused));
    } else if public {
        codes.push(Code::Refused(aggregates::Reason::InvalidToken));
    } else {
        codes.extend([aggregates::Reason::NotFound, aggregates::Reason::Forbidden].map(Code::Refused));
    }
    if policy.does == Does::Operation {
        codes.push(Code::Refused(aggregates::Reason::InvalidTransition));
    }
    codes
}

/// `POST /v1/tenants/{t}/users/{u}/suspend` → `post_tenants_users_suspend`.
fn operation_id(policy: &Policy) -> String {
    let words = policy.path.split('/').filter(|part| !part.is_empty() && *part != "v1").map(|part| part.trim_matches(['{', '}']));
    let words: Vec<&str> = words.collect();
    format!("{}_{}", policy.method.name().to_ascii_lowercase(), words.join("_"))
}

fn about(name: &str) -> &'static str {
    match name {
        "t" => "The tenant's id, `tenant_…`.",
        "u" => "The user's id, `user_…`.",
        "i" => "The invitation's id, `inv_…`.",
        "team" => "The team's id, `team_…`.",
        "id" => "The command's id, `cmd_…`.",
        "kind" => "What kind of thing: `users`, `members`, `invitations`, `teams` or `tenants`.",
        "thing" => "Its id.",
        "number" => "The dead letter's number.",
        "key" => "The attribute's key, `[A-Za-z0-9_.-]{1,64}`.",
        _ => "",
    }
}

fn least(least: Least) -> String {
    match least {
        Least::Public => "everybody".into(),
        Least::Caller => "whoever has a token".into(),
        Least::Operator => "operator".into(),
        Least::Role(role) => role.to_string(),
        Least::SelfOr(role) => format!("{role}, or oneself"),
        Least::Own => "oneself".into(),
        Least::Aggregate => "decided by the aggregate".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_document_has_every_route_and_no_other() {
        let document = openapi();
        let paths = document["paths"].as_object().unwrap();
        let written: BTreeSet<_> =
            paths.iter().flat_map(|(path, item)| item.as_object().unwrap().keys().map(move |method| (path.clone(), method.to_uppercase()))).collect();
        let routed = route::policies().into_iter().map(|policy| (policy.path.to_owned(), policy.method.name().to_owned())).collect();
        assert_eq!(written, routed);
    }

    #[test]
    fn every_refusal_of_a_command_is_written_under_its_status() {
        let document = openapi();
        for policy in route::policies() {
            let responses = &document["paths"][policy.path][policy.method.name().to_ascii_lowercase()]["responses"];
            for reason in policy.refusals() {
                let schema = &responses[reason.http_status().to_string()]["content"]["application/problem+json"]["schema"];
                let codes = schema["allOf"][1]["properties"]["code"]["enum"].as_array();
                assert!(codes.is_some_and(|codes| codes.contains(&reason.code().into())), "{} {}", policy.path, reason.code());
            }
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        assert!(crate::references::all_lead_somewhere(&openapi()) > 0);
    }

    #[test]
    fn every_answer_and_parameter_is_described() {
        let document = openapi();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                assert!(operation["summary"].is_string(), "{method} {path}");
                for parameter in operation["parameters"].as_array().into_iter().flatten().filter(|parameter| parameter["$ref"].is_null()) {
                    let described = parameter["description"].as_str().is_some_and(|text| !text.is_empty());
                    assert!(described || parameter["in"] != "path", "{method} {path} {}", parameter["name"]);
                }
                for (status, response) in operation["responses"].as_object().unwrap() {
                    assert!(response["description"].as_str().is_some_and(|text| !text.is_empty()), "{method} {path} {status}");
                }
            }
        }
    }

    #[test]
    fn one_of_many_invitations_may_be_wrong_in_itself() {
        let many = &openapi()["components"]["schemas"]["BulkInvitations"]["properties"]["invitations"];
        assert_eq!((&many["maxItems"], &many["items"]["anyOf"][0]["$ref"]), (&json!(100), &json!("#/components/schemas/CreateInvitation")));
        assert!(many["items"]["anyOf"][1].get("type").is_none(), "{many}");
    }

    #[test]
    fn the_page_of_documents_leads_to_the_events() {
        assert!(openapi()["info"]["description"].as_str().unwrap().contains("(/asyncapi.json)"));
    }

    #[test]
    fn operation_ids_are_unique() {
        let ids: BTreeSet<_> = route::policies().into_iter().map(operation_id).collect();
        assert_eq!(ids.len(), route::policies().len());
    }
}

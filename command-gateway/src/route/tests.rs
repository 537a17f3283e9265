//! The whole router without its servers: what it answers before a command would be sent, and when nothing can be.

use std::{collections::BTreeMap, net::SocketAddr};

use axum::{
    Router,
    body::Body,
    extract::ConnectInfo,
    http::{HeaderMap, Request, StatusCode},
};
use http_body_util::BodyExt as _;
use runtime::Config;
use serde_json::Value;
use tower::ServiceExt as _;

use super::*;
use crate::{
    auth::tests::{PRIVATE, PUBLIC},
    policy::Least,
};

const TENANT: &str = "tenant_01890a5d-ac96-774b-bcce-b302099a8057";
const USER: &str = "user_01890a5d-ac96-774b-bcce-b302099a8057";
const GOOD: &str = r#"{"slug":"acme","name":"Acme","owner":{"email":"ada@acme.example","fullName":"Ada"}}"#;

async fn gateway() -> Gateway {
    let settings = BTreeMap::from([
        // Nobody listens on these ports.
        ("CHANCERY_NATS_URL", "nats://127.0.0.1:1"),
        ("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none"),
        ("CHANCERY_TOKEN_PUBLIC_KEY", PUBLIC),
        ("CHANCERY_TOKEN_PRIVATE_KEY", PRIVATE),
        ("CHANCERY_LINK_KEY", "0123456789abcdef0123456789abcdef"),
        ("CHANCERY_FINGERPRINT_KEY", "abcdef0123456789abcdef0123456789"),
        ("CHANCERY_ACCEPT_DEADLINE_MS", "100"),
        ("CHANCERY_RATE_PER_SECOND", "0"),
        ("CHANCERY_PUBLIC_RATE_PER_MINUTE", "1000"),
        ("CHANCERY_BODY_LIMIT", "4096"),
    ]);
    let config = Config::from_lookup(&|name| settings.get(name).map(|value| (*value).to_owned())).unwrap();
    let client = async_nats::ConnectOptions::new().retry_on_initial_connect().connect("nats://127.0.0.1:1").await.unwrap();
    Gateway::new(config, client, runtime::Stop::new()).unwrap()
}

struct Client {
    router: Router,
    operator: String,
    user: String,
}

impl Client {
    async fn new() -> Self {
        let gateway = gateway().await;
        let operator = gateway.tokens.mint_for_tests(USER, subjects::PLATFORM, "operator");
        let user = gateway.tokens.mint_for_tests(USER, TENANT, "");
        Self { router: router(gateway), operator, user }
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> (StatusCode, HeaderMap, Value) {
        let mut request = Request::builder().method(method).uri(path).extension(ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 1))));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.router.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (parts.status, parts.headers, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    async fn post(&self, path: &str, content_type: &str, body: impl Into<Body>) -> (u16, String) {
        let authorization = format!("Bearer {}", self.operator);
        let (status, _, problem) = self.send("POST", path, &[("authorization", &authorization), ("content-type", content_type)], body).await;
        (status.as_u16(), problem["code"].as_str().unwrap_or_default().to_owned())
    }
}

fn problem(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

/// A path of a route, with one of its ids replaced.
fn concrete(policy: &Policy, replaced: Option<(&str, &str)>) -> String {
    let good = |name: &str| match name {
        "t" => TENANT.to_owned(),
        "i" => TENANT.replace("tenant", "inv"),
        "team" => TENANT.replace("tenant", "team"),
        "id" => TENANT.replace("tenant", "cmd"),
        "u" => USER.to_owned(),
        "key" => "key".to_owned(),
        "kind" => "users".to_owned(),
        "thing" => USER.to_owned(),
        "number" => "7".to_owned(),
        other => panic!("no value for {{{other}}} of {}", policy.path),
    };
    let part = |part: &str| match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
        Some(name) => replaced.filter(|(bad, _)| *bad == name).map_or_else(|| good(name), |(_, value)| value.to_owned()),
        None => part.to_owned(),
    };
    policy.path.split('/').map(part).collect::<Vec<_>>().join("/")
}

#[tokio::test]
async fn without_a_token_every_route_but_the_public_ones_says_401() {
    let client = Client::new().await;
    for policy in policies() {
        let (status, headers, body) = client.send(policy.method.name(), &concrete(policy, None), &[], "").await;
        assert_eq!(status == 401, policy.least != Least::Public, "{} {status}", policy.path);
        if status == 401 {
            assert!(headers.contains_key("www-authenticate") && headers["content-type"] == "application/problem+json");
            assert_eq!(body["code"], "unauthenticated");
        }
    }
}

#[tokio::test]
async fn an_id_that_is_none_names_nothing_and_sends_nothing() {
    let client = Client::new().await;
    let authorization = format!("Bearer {}", client.operator);
    let long = "x".repeat(10_000);
    let bad = ["a.b", "*", "%3E", "%F0%9F%98%80", "%00", "%ff", "%2e%2e", long.as_str(), "role_01890a5d-ac96-774b-bcce-b302099a8057"];
    for policy in policies() {
        let names = policy.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        // A key is a text of its own, and no id.
        for name in names.filter(|name| *name != "key") {
            for bad in bad {
                let headers = [("authorization", authorization.as_str()), ("content-type", "application/json")];
                let body = match policy.command_type().as_deref() {
                    Some("membership.assign_role" | "membership.revoke_role") => r#"{"role":"member"}"#,
                    Some("tenant.upgrade_plan") => r#"{"plan":"starter"}"#,
                    Some("user.create") => r#"{"email":"a@b.example","fullName":"A"}"#,
                    Some("membership.add") => r#"{"userId":"user_01890a5d-ac96-774b-bcce-b302099a8057","role":"member"}"#,
                    Some("invitation.create") if policy.path.ends_with("/bulk") => r#"{"invitations":[{}]}"#,
                    Some("invitation.create") => r#"{"email":"a@b.example"}"#,
                    Some("tenant.configure_sso") => r#"{"provider":"p","issuer":"https://a.example","clientId":"c"}"#,
                    Some("invitation.set_attribute") => r#"{"value":1}"#,
                    Some("team.create") => r#"{"name":"Design"}"#,
                    Some("team.add_members") => r#"{"userIds":["user_01890a5d-ac96-774b-bcce-b302099a8057"]}"#,
                    _ => "{}",
                };
                let (status, _, body) = client.send(policy.method.name(), &concrete(policy, Some((name, bad))), &headers, body).await;
                assert_eq!((status.as_u16(), body["code"].as_str()), (404, Some("not_found")), "{} {name}={bad}", policy.path);
            }
        }
    }
}

#[tokio::test]
async fn what_is_no_route_or_no_method_is_a_problem_too() {
    let client = Client::new().await;
    let (status, headers, body) = client.send("GET", "/v1/nothing", &[], "").await;
    assert_eq!((status.as_u16(), body["code"].as_str()), (404, Some("route_not_found")));
    assert_eq!(headers["content-type"], "application/problem+json");
    let (status, headers, body) = client.send("PUT", "/v1/tenants", &[], "").await;
    assert_eq!((status.as_u16(), body["code"].as_str()), (405, Some("method_not_allowed")));
    assert!(headers["allow"].to_str().unwrap().contains("POST"));
}

#[tokio::test]
async fn bad_bodies_are_clear_problems() {
    let client = Client::new().await;
    let json = "application/json";
    assert_eq!(client.post("/v1/tenants", json, "{").await, problem(400, "malformed"));
    assert_eq!(client.post("/v1/tenants", json, "").await, problem(400, "malformed"));
    assert_eq!(client.post("/v1/tenants", json, "{}").await, problem(422, "validation_failed"));
    assert_eq!(client.post("/v1/tenants", json, r#"{"nope":1}"#).await, problem(400, "malformed"));
    assert_eq!(client.post("/v1/tenants", "text/plain", GOOD).await, problem(415, "unsupported_media_type"));
    assert_eq!(client.post("/v1/tenants", json, vec![b' '; 5_000]).await, problem(413, "too_large"));
    // Without a declared length the limit holds all the same.
    let chunks = futures_util::stream::iter((0..10).map(|_| Ok::<_, std::io::Error>(vec![b' '; 1_000])));
    assert_eq!(client.post("/v1/tenants", json, Body::from_stream(chunks)).await, problem(413, "too_large"));
}

#[tokio::test]
async fn without_nats_a_command_is_not_accepted_and_says_when_to_come_back() {
    let client = Client::new().await;
    let headers = [("authorization", format!("Bearer {}", client.operator)), ("content-type", "application/json".into())];
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let (status, headers, body) = client.send("POST", "/v1/tenants", &headers, GOOD).await;
    assert_eq!((status.as_u16(), body["code"].as_str(), headers["retry-after"].to_str().unwrap()), (503, Some("not_accepted"), "1"));
    assert!(body["commandId"].as_str().unwrap().starts_with("cmd_"));
}

#[tokio::test]
async fn without_postgres_reads_say_unavailable_and_strangers_wait() {
    let client = Client::new().await;
    for (token, path) in [(&client.operator, "/v1/tenants".to_owned()), (&client.user, format!("/v1/tenants/{TENANT}/members"))] {
        let (status, _, body) = client.send("GET", &path, &[("authorization", &format!("Bearer {token}"))], "").await;
        assert_eq!((status.as_u16(), body["code"].as_str()), (503, Some("unavailable")), "{path}");
    }
    let (status, _, body) = client.send("POST", "/v1/invitations/lookup", &[("content-type", "application/json")], r#"{"token":"x"}"#).await;
    assert_eq!((status.as_u16(), body["code"].as_str()), (503, Some("unavailable")));
}

#[tokio::test]
async fn a_member_is_told_no_where_only_operators_may() {
    let client = Client::new().await;
    let authorization = format!("Bearer {}", client.user);
    for path in ["/v1/tenants".to_owned(), format!("/v1/tenants/{TENANT}/suspend"), "/v1/deadletters/7/redrive".to_owned()] {
        let (status, _, body) = client.send("POST", &path, &[("authorization", &authorization), ("content-type", "application/json")], GOOD).await;
        assert_eq!((status.as_u16(), body["code"].as_str()), (403, Some("forbidden")), "{path}");
    }
}

#[tokio::test]
async fn a_panic_is_an_answer() {
    static POLICY: Policy = Policy::query("/panic", "links:use");
    async fn panics() -> StatusCode {
        panic!("on purpose")
    }
    let gateway = gateway().await;
    let endpoint = Endpoint::new(&POLICY, panics);
    let handler = endpoint.handler.route_layer(middleware::from_fn_with_state((gateway.clone(), &POLICY), guard::guard));
    let router = Router::new().route("/panic", handler).with_state(gateway);
    let client = Client { router, operator: String::new(), user: String::new() };
    let (status, headers, body) = client.send("GET", "/panic", &[], "").await;
    assert_eq!((status.as_u16(), body["code"].as_str()), (500, Some("internal")));
    assert_eq!(headers["content-type"], "application/problem+json");
}

#[tokio::test]
async fn every_type_of_problem_is_served_and_the_documents_are_there_offline() {
    let client = Client::new().await;
    for code in Code::all() {
        let (status, headers, _) = client.send("GET", &format!("/problems/{}", code.name()), &[], "").await;
        assert_eq!((status.as_u16(), headers["content-type"].to_str().unwrap()), (200, "text/html; charset=utf-8"));
    }
    for path in ["/openapi.json", "/asyncapi.json", "/docs/", "/version", "/livez", "/metrics"] {
        assert_eq!(client.send("GET", path, &[], "").await.0, 200, "{path}");
    }
    let (status, _, body) = client.send("GET", "/readyz", &[], "").await;
    assert_eq!((status.as_u16(), &body["parts"]["nats"]), (503, &Value::from("not_ready")));
}

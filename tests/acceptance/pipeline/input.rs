//! Bad input: each a clear problem, and nothing published.

use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};

use super::load::{Client, fresh, person, tenant_body, tenants};
use crate::harness::{Answer, Stack};

async fn published(stack: &Stack) -> u64 {
    stack.jetstream().await.get_stream("COMMANDS").await.unwrap().cached_info().state.last_sequence
}

/// A problem as the contract describes one.
fn assert_problem(answer: &Answer, status: u16, code: &str, what: &str) {
    assert_eq!((answer.status, answer.body["code"].as_str()), (status, Some(code)), "{what}: {}", answer.text);
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{what}");
    assert_eq!(answer.body["type"], format!("/problems/{code}"), "{what}");
    assert!(answer.body["title"].as_str().is_some_and(|title| !title.is_empty()) && answer.body["status"] == status, "{what}: {}", answer.text);
    assert!(answer.text.len() < 4_096, "{what}: a problem repeats little of what was sent, this one has {} bytes", answer.text.len());
}

async fn raw(stack: &Stack, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
    let bearer = format!("Bearer {}", stack.operator_token());
    let mut all = vec![("authorization", bearer.as_str())];
    all.extend_from_slice(headers);
    stack.send(Method::POST, path, &all, body).await.unwrap()
}

const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_json_or_not_of_the_form_is_refused_and_nothing_is_published() {
    let stack = Stack::builder().start().await;
    let (tenants, _) = tenants(&stack, 1).await;
    let before = published(&stack).await;
    let users = format!("/v1/tenants/{}/users", tenants[0].id);
    let invitations = format!("/v1/tenants/{}/invitations", tenants[0].id);
    for path in ["/v1/tenants", &users, &invitations] {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        let cases: [&[u8]; 9] =
            [b"", b"{", b"nonsense", b"[]", b"null", b"\"text\"", b"{\"email\": \"\xff\xfe\"}", b"{\"email\": \"\\ud800\"}", deep.as_bytes()];
        for bytes in cases {
            let answer = raw(&stack, path, &[JSON], bytes.to_vec()).await;
            assert_problem(&answer, 400, "malformed", &format!("{path} {:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(40)])));
        }
        let good =
            if path == "/v1/tenants" { tenant_body() } else { json!({ "email": format!("{}@example.com", fresh("u")), "fullName": "Some One" }) };
        for content_type in ["text/plain", "application/xml", "application/x-www-form-urlencoded", "application/json; charset=latin1", "json", ""] {
            let answer = raw(&stack, path, &[("content-type", content_type)], good.to_string().into_bytes()).await;
            assert_problem(&answer, 415, "unsupported_media_type", content_type);
        }
        assert_problem(&raw(&stack, path, &[], good.to_string().into_bytes()).await, 415, "unsupported_media_type", "no content type");
        let mut more = good.clone();
        more["isAdmin"] = true.into();
        let answer = raw(&stack, path, &[JSON], more.to_string().into_bytes()).await;
        assert_problem(&answer, 400, "malformed", "an unknown field");
        assert!(answer.body["errors"].to_string().contains("/isAdmin"), "it is named: {}", answer.text);
        let twice = format!("{{\"email\":\"a@example.com\",{}", &good.to_string()[1..]);
        let answer = raw(&stack, path, &[JSON], twice.into_bytes()).await;
        assert_problem(&answer, 400, "malformed", "a field given twice, or unknown");
    }
    assert_eq!(published(&stack).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_ten_megabytes_is_refused_unread() {
    let stack = Stack::builder().start().await;
    let before = published(&stack).await;
    let mut body = tenant_body();
    body["name"] = "x".repeat(10 << 20).into();
    // The connection may be closed before all of it was sent: then there is no answer to read, and that is an answer too.
    let bearer = format!("Bearer {}", stack.operator_token());
    let headers = [("authorization", bearer.as_str()), JSON];
    if let Ok(answer) = stack.send(Method::POST, "/v1/tenants", &headers, body.to_string().into_bytes()).await {
        assert_problem(&answer, 413, "too_large", "10 MB");
    }
    body["name"] = "x".repeat(100 << 10).into();
    // Each over a connection of its own: the one before is being closed, which its client may not have seen yet.
    let token = stack.operator_token();
    let answer = Client::of(&stack).once(Method::POST, "/v1/tenants", &token, None, &body).await.unwrap();
    assert_problem(&answer, 413, "too_large", "100 KB");
    Client::of(&stack).once(Method::POST, "/v1/tenants", &token, None, &tenant_body()).await.unwrap().expect(201);
    assert_eq!(published(&stack).await, before + 1, "the good one only");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_missing_expired_or_forged_open_nothing() {
    let stack = Stack::builder().start().await;
    let (tenants, _) = tenants(&stack, 1).await;
    let before = published(&stack).await;
    let (other, _) = chancery::token::keygen().unwrap();
    let claims = |subject: &str, lifetime| chancery::token::Claims::new(subject, "platform", "operator", lifetime);
    let service = "svc_01890a5d-ac96-774b-bcce-b302099a8057";
    let forged = chancery::token::mint(&other, &claims(service, Duration::from_secs(60))).unwrap();
    let good = stack.operator_token();
    let (head, rest) = good.split_once('.').unwrap();
    let (body, signature) = rest.split_once('.').unwrap();
    // The claims of one token under the signature of another, no signature, and an algorithm that needs none.
    let member = stack.token(&tenants[0].owner, &tenants[0].id, "");
    let foreign = member.rsplit_once('.').unwrap().1;
    let cases = [
        forged.clone(),
        format!("{head}.{body}.{foreign}"),
        format!("{head}.{body}."),
        format!("{head}.{body}"),
        format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{body}."),
        format!("eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.{body}.{signature}"),
        "x".into(),
        "x".repeat(20_000),
    ];
    for token in &cases {
        let answer = stack.post("/v1/tenants", token, &tenant_body()).await;
        // A header can be too large to be read at all.
        assert!(answer.status == 431 || answer.status == 401, "{token}: {}", answer.text);
        if answer.status == 401 {
            assert_problem(&answer, 401, "unauthenticated", token);
            assert!(answer.header("www-authenticate").is_some_and(|challenge| challenge.starts_with("Bearer")), "{token}");
        }
    }
    let none = stack.send(Method::POST, "/v1/tenants", &[JSON], tenant_body().to_string().into_bytes()).await.unwrap();
    assert_problem(&none, 401, "unauthenticated", "no token");
    // Lives for a second: it is let in before and not after.
    let short = stack.short_token(&tenants[0].owner, &tenants[0].id, Duration::from_secs(1));
    let path = format!("/v1/tenants/{}", tenants[0].id);
    crate::harness::wait_until("the token expires", async || stack.get(&path, &short).await.status == 401).await;
    let late = stack.call(Method::PATCH, &path, &short, &[], &json!({ "name": "Late" })).await;
    assert_problem(&late, 401, "unauthenticated", "expired");
    assert_eq!(published(&stack).await, before);
}

/// Texts that mean something to a subject, to SQL, to a terminal or to nobody.
fn texts() -> Vec<String> {
    let mut texts: Vec<String> = [
        "a.b",
        "*",
        ">",
        "evt.>",
        "a\0b",
        "\u{0}",
        "\u{1b}[2J",
        "line\nbreak",
        "🦀🦀🦀",
        "\u{202e}gnirts",
        "'; DROP TABLE events; --",
        "${x}",
        "../../etc",
        " ",
    ]
    .map(str::to_owned)
    .into();
    texts.push("x".repeat(10_000));
    texts.push("🦀".repeat(10_000));
    texts
}

/// Sends it; what is refused is refused for a reason, and what is taken is taken as it is. Returns whether it was taken.
async fn try_text(stack: &Stack, path: &str, body: &Value, what: &str) -> bool {
    let answer = stack.post(path, &stack.operator_token(), body).await;
    match answer.status {
        201 => true,
        409 => panic!("{what}: a conflict means that it was published: {}", answer.text),
        _ => {
            assert_problem(&answer, 422, "validation_failed", what);
            let errors = answer.body["errors"].as_array().unwrap();
            assert!(
                errors.iter().all(|error| error["pointer"].as_str().unwrap().starts_with('/') && !error["detail"].as_str().unwrap().is_empty()),
                "{what}"
            );
            false
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strange_texts_in_every_field_are_refused_or_kept_as_they_are() {
    let stack = Stack::builder().start().await;
    let (tenants, _) = tenants(&stack, 1).await;
    let before = published(&stack).await;
    let (users, invitations) = (format!("/v1/tenants/{}/users", tenants[0].id), format!("/v1/tenants/{}/invitations", tenants[0].id));
    let invited = || json!({ "email": format!("{}@example.com", fresh("i")), "attributes": { "note": "text" }, "expiresAt": "2099-01-01T00:00:00Z" });
    type Field = (&'static str, fn() -> Value, &'static str);
    let fields: [Field; 5] = [
        ("/v1/tenants", tenant_body, "/slug"),
        ("/v1/tenants", tenant_body, "/name"),
        ("/v1/tenants", tenant_body, "/plan"),
        ("/v1/tenants", tenant_body, "/owner/email"),
        ("/v1/tenants", tenant_body, "/owner/fullName"),
    ];
    let mut taken = 0;
    for text in texts() {
        let short: String = text.chars().take(20).collect();
        for (path, make, pointer) in fields {
            let mut body = make();
            *body.pointer_mut(pointer).unwrap() = text.clone().into();
            taken += u64::from(try_text(&stack, path, &body, &format!("{path} {pointer} {short:?}")).await);
        }
        for pointer in ["/email", "/fullName", "/role"] {
            let mut body = person(1);
            body["role"] = "member".into();
            *body.pointer_mut(pointer).unwrap() = text.clone().into();
            taken += u64::from(try_text(&stack, &users, &body, &format!("users {pointer} {short:?}")).await);
        }
        for pointer in ["/email", "/role", "/invitationType", "/expiresAt", "/attributes/note"] {
            let mut body = invited();
            body["role"] = "member".into();
            body["invitationType"] = "link".into();
            body.as_object_mut().unwrap().remove("expiresAt");
            if pointer == "/expiresAt" {
                body["expiresAt"] = Value::Null;
            }
            *body.pointer_mut(pointer).unwrap() = text.clone().into();
            taken += u64::from(try_text(&stack, &invitations, &body, &format!("invitations {pointer} {short:?}")).await);
        }
        // As a key, where the key has rules and the value has none.
        let mut body = invited();
        body["attributes"] = json!({ text.clone(): 1 });
        body.as_object_mut().unwrap().remove("expiresAt");
        taken += u64::from(try_text(&stack, &invitations, &body, &format!("an attribute's key {short:?}")).await);
    }
    assert_eq!(published(&stack).await, before + taken, "what is refused here is not published");
    // What was taken is what is read back.
    let crab = stack
        .post(&users, &stack.operator_token(), &json!({ "email": format!("{}@example.com", fresh("u")), "fullName": "🦀 '; -- ${x}" }))
        .await
        .expect(201);
    let read = stack.get(&format!("{users}/{}", crab.text_at("/aggregateId")), &stack.operator_token()).await.expect(200);
    assert_eq!(read.body["fullName"], "🦀 '; -- ${x}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_in_paths_that_are_none_are_404_and_reach_no_subject() {
    let stack = Stack::builder().start().await;
    let (tenants, _) = tenants(&stack, 1).await;
    let before = published(&stack).await;
    let uuid = "01890a5d-ac96-774b-bcce-b302099a8057";
    let ids = [
        "*".into(),
        "%3E".into(),
        "a.b".into(),
        "tenant_".into(),
        "..%2F..".into(),
        "%00".into(),
        "%F0%9F%A6%80".into(),
        "%FF".into(),
        format!("tenant_{}", uuid.to_uppercase()),
        format!("tenant_{uuid}.x"),
        format!("user_{uuid}"),
        format!("TENANT_{uuid}"),
        "x".repeat(5_000),
    ];
    let token = stack.operator_token();
    for id in ids {
        for (method, path, body) in [
            (Method::PATCH, format!("/v1/tenants/{id}"), json!({ "name": "New" })),
            (Method::POST, format!("/v1/tenants/{id}/users"), person(1)),
            (Method::POST, format!("/v1/tenants/{id}/suspend"), Value::Null),
            (Method::PATCH, format!("/v1/tenants/{}/users/x{id}", tenants[0].id), json!({ "fullName": "New" })),
            (Method::DELETE, format!("/v1/tenants/{}/members/x{id}", tenants[0].id), Value::Null),
            (Method::DELETE, format!("/v1/tenants/{}/invitations/x{id}", tenants[0].id), Value::Null),
            (Method::GET, format!("/v1/commands/{id}"), Value::Null),
        ] {
            let answer = stack.call(method.clone(), &path, &token, &[], &body).await;
            assert_eq!(answer.status, 404, "{method} {path}: {}", answer.text);
            assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{method} {path}");
        }
    }
    assert_eq!(published(&stack).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_cannot_be_meant_are_refused() {
    let stack = Stack::builder().start().await;
    let (tenants, _) = tenants(&stack, 1).await;
    let before = published(&stack).await;
    let path = format!("/v1/tenants/{}", tenants[0].id);
    let long = "k".repeat(256);
    for header in
        [("idempotency-key", ""), ("idempotency-key", long.as_str()), ("idempotency-key", "a b"), ("if-match", "7"), ("if-match", "W/\"1\"")]
    {
        let answer = stack.call(Method::PATCH, &path, &stack.operator_token(), &[header], &json!({ "name": "New" })).await;
        assert_problem(&answer, 400, "malformed", &format!("{header:?}"));
    }
    for header in [("if-match", "\"99\"")] {
        let answer = stack.call(Method::PATCH, &path, &stack.operator_token(), &[header], &json!({ "name": "New" })).await;
        assert_problem(&answer, 412, "version_conflict", &format!("{header:?}"));
    }
    assert_eq!(published(&stack).await, before + 1, "a version is compared by who knows it");
}

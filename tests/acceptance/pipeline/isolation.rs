//! No tenant sees another's: by no route, under no id. The routes come from the served description, so that a new one is tried too.

use hyper::Method;
use serde_json::{Value, json};

use super::load::{Client, Tenant, fresh, person, tenants};
use crate::harness::{Answer, Stack};

/// What there is in a tenant to be found.
struct Things {
    tenant: Tenant,
    user: String,
    invitation: String,
    team: String,
    command: String,
}

async fn things(stack: &Stack, tenant: &Tenant) -> Things {
    let token = stack.operator_token();
    let user = stack.post(&format!("/v1/tenants/{}/users", tenant.id), &token, &person(1)).await.expect(201);
    let address = json!({ "email": format!("{}@example.com", fresh("i")) });
    let invitation = stack.post(&format!("/v1/tenants/{}/invitations", tenant.id), &token, &address).await.expect(201);
    let team = stack.post(&format!("/v1/tenants/{}/teams", tenant.id), &token, &json!({ "name": "Design" })).await.expect(201);
    Things {
        tenant: tenant.clone(),
        user: user.text_at("/aggregateId"),
        invitation: invitation.text_at("/aggregateId"),
        team: team.text_at("/aggregateId"),
        command: user.text_at("/commandId"),
    }
}

/// Ids as well-formed as any, of nothing.
fn nothing() -> Things {
    let uuid = uuid::Uuid::now_v7();
    Things {
        tenant: Tenant { id: format!("tenant_{uuid}"), owner: format!("user_{uuid}") },
        user: format!("user_{uuid}"),
        invitation: format!("inv_{uuid}"),
        team: format!("team_{uuid}"),
        command: format!("cmd_{uuid}"),
    }
}

/// Every route with a tenant in its path: method and path.
async fn routes(stack: &Stack) -> Vec<(Method, String)> {
    let description = stack.get("/openapi.json", &stack.operator_token()).await.expect(200).body;
    let mut routes = Vec::new();
    for (path, methods) in description["paths"].as_object().unwrap() {
        if path.contains("{t}") {
            let methods = methods.as_object().unwrap().keys().filter(|name| ["get", "post", "put", "patch", "delete"].contains(&name.as_str()));
            // One path stands for the things of every kind.
            let kinds = ["users/{u}", "members/{u}", "invitations/{i}", "teams/{team}", "tenants/{t}"];
            let paths: Vec<String> = match path.contains("{kind}") {
                true => kinds.into_iter().map(|kind| path.replace("{kind}/{thing}", kind)).collect(),
                false => vec![path.clone()],
            };
            for name in methods {
                routes.extend(paths.iter().map(|path| (name.to_uppercase().parse().unwrap(), path.clone())));
            }
        }
    }
    assert!(routes.len() >= 25, "the description names {} routes only", routes.len());
    routes
}

/// A body that is right for the route.
fn body(method: &Method, path: &str, things: &Things) -> Value {
    let end = path.rsplit('/').next().unwrap();
    match (method.as_str(), end) {
        ("PATCH", "{t}") => json!({ "name": "Taken over" }),
        ("PATCH", "{u}") => json!({ "fullName": "Taken Over" }),
        ("PATCH", "{i}") => json!({ "attributes": {} }),
        ("PATCH", "{team}") | ("POST", "teams") => json!({ "name": "Taken over" }),
        ("PUT", "{key}") => json!({ "value": 1 }),
        ("PUT", "sso") => json!({ "provider": "okta", "issuer": "https://login.example.com", "clientId": "c" }),
        ("POST", "bulk") => json!({ "invitations": [{ "email": format!("{}@example.com", fresh("i")) }] }),
        ("POST", "plan") => json!({ "plan": "enterprise" }),
        ("POST", "role") => json!({ "role": "admin" }),
        ("POST", "revoke") => json!({ "role": "member" }),
        ("POST", "users") => person(7),
        ("POST", "members") if path.contains("{team}") => json!({ "userIds": [things.user] }),
        ("POST", "members") => json!({ "userId": things.user, "role": "member" }),
        ("POST", "invitations") => json!({ "email": format!("{}@example.com", fresh("i")) }),
        _ => Value::Null,
    }
}

async fn ask(stack: &Stack, token: &str, (method, path): &(Method, String), tenant: &str, things: &Things) -> Answer {
    let concrete = path.replace("{t}", tenant).replace("{u}", &things.user).replace("{i}", &things.invitation).replace("{key}", "a.b");
    let concrete = concrete.replace("{team}", &things.team);
    assert!(!concrete.contains('{'), "this test has nothing for {path}");
    let body = body(method, path, things);
    Client::of(stack).once(method.clone(), &concrete, token, None, &body).await.unwrap()
}

async fn published(stack: &Stack) -> u64 {
    stack.jetstream().await.get_stream("COMMANDS").await.unwrap().cached_info().state.last_sequence
}

fn code(answer: &Answer) -> (u16, String) {
    (answer.status, answer.text_at("/code"))
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenants_id_is_404_on_every_route_and_nothing_is_published() {
    let stack = Stack::builder().start().await;
    let (tenants, _) = tenants(&stack, 2).await;
    let theirs = things(&stack, &tenants[1]).await;
    let routes = routes(&stack).await;
    let before = published(&stack).await;
    let owner = stack.token(&tenants[0].owner, &tenants[0].id, "");
    let service = stack.token("svc_01890a5d-ac96-774b-bcce-b302099a8057", &tenants[0].id, "");
    for token in [&owner, &service] {
        for route in &routes {
            let answer = ask(&stack, token, route, &theirs.tenant.id, &theirs).await;
            assert_eq!(code(&answer), (404, "not_found".into()), "{route:?}: {}", answer.text);
            assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{route:?}");
            let made_up = nothing();
            let same = ask(&stack, token, route, &made_up.tenant.id, &made_up).await;
            assert_eq!((same.status, same.text), (answer.status, answer.text), "{route:?}: what is another's must look like what is not there");
        }
    }
    assert_eq!(published(&stack).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenants_users_and_invitations_are_not_there_in_ones_own() {
    let stack = Stack::builder().start().await;
    let (tenants, _) = tenants(&stack, 2).await;
    let theirs = things(&stack, &tenants[1]).await;
    let token = stack.token(&tenants[0].owner, &tenants[0].id, "");
    let events = "SELECT count(*) FROM events WHERE tenant_id = $1";
    let tenant: subjects::TenantId = theirs.tenant.id.parse().unwrap();
    let count = async || stack.db().await.query_one(events, &[&tenant.uuid()]).await.unwrap().get::<_, i64>(0);
    let before = count().await;
    for route in routes(&stack).await {
        let path = &route.1;
        if !path.contains("{u}") && !path.contains("{i}") && !path.contains("{team}") && !path.ends_with("/members")
            || path.ends_with("/members") && route.0 == Method::GET
        {
            continue;
        }
        let answer = ask(&stack, &token, &route, &tenants[0].id, &theirs).await;
        let same = ask(&stack, &token, &route, &tenants[0].id, &nothing()).await;
        // Adding and assigning tell whose home is elsewhere from nobody: the contract names both refusals. All others must not.
        let workflow = path.ends_with("/role") || path.ends_with("{t}/members");
        let told = ["invitation_required", "user_not_found", "not_found"];
        if workflow {
            assert!([&answer, &same].iter().all(|answer| told.contains(&code(answer).1.as_str())), "{route:?}: {} {}", answer.text, same.text);
            continue;
        }
        assert_eq!(code(&answer), code(&same), "{route:?}: {} {}", answer.text, same.text);
        let revocation = path.ends_with("/revoke");
        assert!(answer.status == 404 || (revocation && answer.status == 409), "{route:?}: {} {}", answer.status, answer.text);
    }
    assert_eq!(count().await, before, "nothing has happened to the other tenant");

    let made_up = nothing();
    let theirs_asked = stack.get(&format!("/v1/commands/{}", theirs.command), &token).await;
    let nothing_asked = stack.get(&format!("/v1/commands/{}", made_up.command), &token).await;
    assert_eq!(theirs_asked.text.replace(&theirs.command, ""), nothing_asked.text.replace(&made_up.command, ""));
    for list in ["users", "members", "invitations", "teams", "audit", "notifications"] {
        let items = stack.get(&format!("/v1/tenants/{}/{list}?pageSize=100", tenants[0].id), &token).await.expect(200);
        for id in [&theirs.tenant.id, &theirs.tenant.owner, &theirs.user, &theirs.invitation, &theirs.team] {
            assert!(!items.text.contains(id.as_str()), "{list} shows {id}: {}", items.text);
        }
    }
    let all = stack.get("/v1/tenants", &token).await;
    assert_eq!(code(&all), (403, "forbidden".into()), "the list of tenants is for operators");
}

/// The same key under another tenant, another caller or another path is another key.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_one_tenant_says_nothing_to_another() {
    let stack = Stack::builder().start().await;
    let (tenants, _) = tenants(&stack, 2).await;
    let client = Client::of(&stack);
    let mut commands = std::collections::BTreeSet::new();
    for tenant in &tenants {
        let token = stack.token(&tenant.owner, &tenant.id, "");
        let path = format!("/v1/tenants/{}", tenant.id);
        for token in [token, stack.operator_token()] {
            let body = json!({ "name": "The same" });
            let answer = client.insist(Method::PATCH, &path, &token, "the-same-key", &body).await.answer.expect(200);
            commands.insert(answer.text_at("/commandId"));
        }
    }
    assert_eq!(commands.len(), 4);
}

//! The three examples of the notification catalogue that others built on, and how one of ours is compared with them: each of its fields is
//! there, under the same name and in the same shape; ours may have more.

use serde_json::{Value, json};
use subjects::timestamp;

/// As the catalogue has them. Only `source` is another: ours is `chancery`.
pub(super) fn all() -> [Value; 3] {
    [
        json!({ "id": "evt_12345678-1234-1234-1234-123456789abc", "type": "tenant.member_joined", "timestamp": "2025-01-22T10:00:00Z", "version": "1.0",
            "source": "user-management", "tenantId": "tenant_78901234-3456-3456-3456-345678901ghi", "userId": "user_90123456-4567-4567-4567-456789012jkl",
            "data": { "tenantId": "tenant_78901234-3456-3456-3456-345678901ghi", "userId": "user_90123456-4567-4567-4567-456789012jkl",
                "email": "user@example.com", "roleId": "role_12345678-1234-1234-1234-123456789abc", "roleName": "member" } }),
        json!({ "id": "evt_…", "type": "tenant.member_role_changed", "timestamp": "2025-01-22T10:00:00Z", "version": "1.0", "source": "user-management",
            "tenantId": "tenant_…", "userId": "admin_…", "data": { "tenantId": "tenant_…", "userId": "user_…", "oldRoleId": "role_12345678-…",
                "oldRoleName": "member", "newRoleId": "role_98765432-…", "newRoleName": "admin", "changedBy": "admin_…" } }),
        json!({ "id": "evt_…", "type": "invitation.created", "timestamp": "2025-01-22T10:00:00Z", "version": "1.0", "source": "user-management",
            "tenantId": "tenant_…", "userId": "admin_…", "data": { "invitationId": "inv_…", "tenantId": "tenant_…", "email": "newuser@example.com",
                "invitationType": "email", "expiresAt": "2025-01-29T10:00:00Z", "createdBy": "admin_…" } }),
    ]
}

/// How an event of ours differs from an example; nothing when it is recognisable field by field.
pub(super) fn differences(example: &Value, ours: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare("", example, ours, &mut found);
    // What is the same thing in the example is the same thing in ours: who did it, the tenant.
    let fields = |value: &Value| value.as_object().cloned().unwrap_or_default();
    for (name, value) in fields(&example["data"]) {
        for (outer, same) in fields(example) {
            if value == same && ours["data"][&name] != ours[&outer] {
                found.push(format!("data.{name} is not {outer}"));
            }
        }
    }
    if let (Some(from), Some(to)) = (time(&example["timestamp"]), time(&example["data"]["expiresAt"])) {
        let lasts = time(&ours["data"]["expiresAt"]).zip(time(&ours["timestamp"])).map(|(to, from)| to - from);
        if lasts != Some(to - from) {
            found.push(format!("it lasts {lasts:?}, not {}", to - from));
        }
    }
    found
}

fn time(value: &Value) -> Option<time::OffsetDateTime> {
    value.as_str().and_then(timestamp::parse)
}

fn compare(at: &str, example: &Value, ours: &Value, found: &mut Vec<String>) {
    match example {
        Value::Object(fields) => {
            for (name, value) in fields {
                compare(&format!("{at}/{name}"), value, &ours[name], found);
            }
        }
        Value::String(text) => {
            let is_alike = ours.as_str().is_some_and(|ours| alike(at, text, ours));
            if !is_alike {
                found.push(format!("{at} is {ours}, and {text} in the example"));
            }
        }
        other => found.push(format!("{at}: {other} is nothing the examples have")),
    }
}

/// The same value, or one of the same shape: an id of the same kind, a time, an address.
fn alike(at: &str, example: &str, ours: &str) -> bool {
    if at == "/source" {
        return ours == "chancery";
    }
    if example.contains('@') {
        return ours.contains('@');
    }
    if timestamp::parse(example).is_some() {
        return timestamp::parse(ours).is_some() && ours.ends_with('Z');
    }
    let kinds = ["evt", "tenant", "user", "admin", "inv", "role"];
    match example.split_once('_').filter(|(kind, _)| kinds.contains(kind)) {
        // An admin of ours is a user.
        Some((kind, _)) => {
            let kind = if kind == "admin" { "user" } else { kind };
            ours.split_once('_').is_some_and(|(ours, id)| ours == kind && id.parse::<uuid::Uuid>().is_ok())
        }
        None => example == ours,
    }
}

#[test]
fn an_event_that_lost_or_renamed_a_field_is_not_recognised() {
    let ours = json!({ "id": "evt_00000000-0000-7000-8000-000000000001", "type": "tenant.member_joined", "timestamp": "2026-11-22T10:00:00.123Z",
        "version": "1.0", "source": "chancery", "tenantId": "tenant_00000000-0000-7000-8000-000000000002",
        "userId": "user_00000000-0000-7000-8000-000000000003", "data": { "tenantId": "tenant_00000000-0000-7000-8000-000000000002",
            "userId": "user_00000000-0000-7000-8000-000000000003", "email": "a@b.example",
            "roleId": "role_00000000-0000-7000-8000-000000000004", "roleName": "member", "more": 1 } });
    let example = &all()[0];
    assert_eq!(differences(example, &ours), Vec::<String>::new());
    for (pointer, value) in [
        ("/data/email", Value::Null),
        ("/data/roleName", json!("Member")),
        ("/data/roleId", json!("member")),
        ("/data/userId", json!("user_00000000-0000-7000-8000-000000000009")),
        ("/timestamp", json!("yesterday")),
        ("/version", json!("2.0")),
    ] {
        let mut broken = ours.clone();
        *broken.pointer_mut(pointer).unwrap() = value;
        assert_eq!(differences(example, &broken).len(), 1, "{pointer}");
    }
}

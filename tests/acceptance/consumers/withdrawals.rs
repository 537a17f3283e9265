//! The reactor that ends pending invitations: of a cancelled tenant, and to a deleted user's address.

use chancery::role::Consumer;
use futures_util::{StreamExt as _, stream};
use hyper::Method;
use serde_json::{Value, json};

use super::{Tenant, address, count, dead_letters, events_of, followed, forget_position, invite, tenant};
use crate::{
    harness::{Stack, wait_until},
    pipeline::without_duplicate_window,
};

const REACTOR: &str = "withdrawals";

async fn state(stack: &Stack, tenant: &Tenant, invitation: &str) -> String {
    stack.get(&tenant.path(&format!("/invitations/{invitation}")), &stack.operator_token()).await.expect(200).text_at("/state")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_tenant_has_no_pending_invitation_left_though_its_reactor_is_killed_in_the_middle() {
    let mut stack = Stack::builder().consumers(&[Consumer::Withdrawals]).env("CHANCERY_REACTION_PAGE", 64).start().await;
    without_duplicate_window(&stack).await;
    let (doomed, other) = (tenant(&stack).await, tenant(&stack).await);
    let invited: Vec<String> =
        stream::iter(0..300).map(|_| async { invite(&stack, &doomed, &address("guest")).await }).buffer_unordered(16).collect().await;
    let elsewhere = invite(&stack, &other, &address("guest")).await;
    let link = json!({ "email": address("guest"), "invitationType": "link" });
    let link = stack.post(&doomed.path("/invitations"), &stack.operator_token(), &link).await.expect(201).text_at("/link");
    let token = json!({ "token": link.split_once("#token=").unwrap().1 });
    let answer = async |what: &str| {
        let json = [("content-type", "application/json")];
        stack.send(Method::POST, &format!("/v1/invitations/{what}"), &json, token.to_string().into_bytes()).await.unwrap()
    };
    stack.post(&doomed.path("/suspend"), &stack.operator_token(), &json!({})).await.expect(200);
    assert_eq!(answer("accept").await.expect(409).text_at("/code"), "tenant_not_active");
    assert_eq!(count(&stack, "SELECT count(*) FROM events WHERE type = 'invitation.removed'").await, 0, "a suspended tenant may come back");

    let pending = "SELECT count(*) FROM aggregates WHERE kind = 'invitation' AND status IN ('created', 'sent')";
    stack.process(REACTOR).stop();
    stack.post(&doomed.path("/cancel"), &stack.operator_token(), &json!({})).await.expect(200);
    for (n, point) in ["reaction_decided=abort@30", "reaction_decided=abort@100"].into_iter().enumerate() {
        let reactor = stack.process(REACTOR);
        reactor.set("CHANCERY_FAILPOINT", point);
        reactor.start();
        wait_until("the reactor dies", async || stack.process(REACTOR).ended().is_some()).await;
        let left = count(&stack, pending).await;
        assert!(left > 1 && left < 302, "{n}: {left} are left, it was not in the middle");
    }
    stack.start_again(REACTOR, &[("CHANCERY_FAILPOINT", "")]);
    wait_until("the other tenant's alone is left", async || count(&stack, pending).await == 1).await;
    followed(&stack, Consumer::Withdrawals).await;
    assert_eq!(state(&stack, &other, &elsewhere).await, "created");
    assert_eq!(count(&stack, "SELECT count(*) FROM events WHERE type = 'invitation.removed'").await, 301);
    assert_eq!((state(&stack, &doomed, &invited[0]).await.as_str(), events_of(&stack, &invited[0], "invitation.removed").await), ("removed", 1));
    let token = json!({ "token": link.split_once("#token=").unwrap().1 }).to_string().into_bytes();
    let late = stack.send(Method::POST, "/v1/invitations/accept", &[("content-type", "application/json")], token).await.unwrap();
    assert_eq!(late.expect(409).text_at("/code"), "invalid_state");
    assert_eq!(dead_letters(&stack).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_user_is_invited_nowhere_and_whoever_has_the_address_next_is_left_alone() {
    let mut stack =
        Stack::builder().consumers(&[Consumer::Withdrawals]).env("CHANCERY_SOFT_DELETION_S", 0).env("CHANCERY_REACTION_PAGE", 2).start().await;
    let home = tenant(&stack).await;
    let email = address("gone");
    let body = json!({ "email": email, "fullName": "Gone Guest", "role": "member" });
    let user = stack.post(&home.path("/users"), &stack.operator_token(), &body).await.expect(201).text_at("/aggregateId");
    let mut theirs = Vec::new();
    let mut others = Vec::new();
    for _ in 0..5 {
        let tenant = tenant(&stack).await;
        let invitation = invite(&stack, &tenant, &email).await;
        others.push((invite(&stack, &tenant, &address("other")).await, tenant.id.clone()));
        theirs.push((tenant, invitation));
    }
    stack.post(&home.path(&format!("/users/{user}/deactivate")), &stack.operator_token(), &json!({})).await.expect(200);
    stack.call(Method::DELETE, &home.path(&format!("/users/{user}")), &stack.operator_token(), &[], &Value::Null).await.expect(200);
    for (tenant, invitation) in &theirs {
        wait_until("it is ended", async || state(&stack, tenant, invitation).await == "removed").await;
    }
    // The address is free; what is made out to it from now on is for somebody else.
    let next = invite(&stack, &theirs[0].0, &email).await;
    followed(&stack, Consumer::Withdrawals).await;
    assert!(stack.stop(REACTOR));
    forget_position(&stack, Consumer::Withdrawals).await;
    stack.start_again(REACTOR, &[]);
    followed(&stack, Consumer::Withdrawals).await;
    assert_eq!(state(&stack, &theirs[0].0, &next).await, "created");
    assert_eq!(count(&stack, "SELECT count(*) FROM events WHERE type = 'invitation.removed'").await, 5);
    for (invitation, tenant) in &others {
        let path = format!("/v1/tenants/{tenant}/invitations/{invitation}");
        assert_eq!(stack.get(&path, &stack.operator_token()).await.expect(200).text_at("/state"), "created");
    }
    assert_eq!(dead_letters(&stack).await, 0);
}

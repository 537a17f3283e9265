//! Time as a cause: an invitation ends by itself.

use serde_json::json;
use subjects::timestamp;
use time::{Duration, OffsetDateTime};

use super::{accept, address, audited, events_of, tenant};
use crate::harness::{Stack, wait_until};

/// When the worker dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// As the deadline comes: nothing is sent yet.
    Deadline,
    /// As the first invitation has expired: its successor finds some of them done, and some sent and not decided.
    Deciding,
    /// As the deadline comes, and the broker with it: what was sent is not acknowledged.
    WithTheBroker,
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_expires_exactly_once_though_whoever_watches_the_clock_and_the_broker_are_killed() {
    let mut stack = Stack::builder().workers(2).consumers(&[chancery::role::Consumer::Audit]).start().await;
    let tenant = tenant(&stack).await;
    for moment in [Moment::Deadline, Moment::Deciding, Moment::WithTheBroker] {
        let soon = OffsetDateTime::now_utc() + Duration::seconds(5);
        let mut invitations = Vec::new();
        for _ in 0..8 {
            // A link's answer carries its token.
            let body = json!({ "email": address("guest"), "invitationType": "link", "expiresAt": timestamp::format(soon) });
            let answer = stack.post(&tenant.path("/invitations"), &stack.operator_token(), &body).await.expect(201);
            let token = answer.text_at("/link").split_once("#token=").unwrap().1.to_owned();
            invitations.push((answer.text_at("/aggregateId"), token));
        }
        // The owner of partition 0 looks for what is due.
        let sql = "SELECT w.name FROM partitions p JOIN workers w ON w.id = p.owner WHERE p.partition = 0";
        wait_until("partition 0 has an owner", async || stack.db().await.query_opt(sql, &[]).await.unwrap().is_some()).await;
        let watcher: String = stack.db().await.query_one(sql, &[]).await.unwrap().get(0);
        wait_until("the moment", async || match moment {
            Moment::Deadline | Moment::WithTheBroker => OffsetDateTime::now_utc() >= soon,
            Moment::Deciding => events_of(&stack, &invitations[0].0, "invitation.expired").await > 0,
        })
        .await;
        if moment == Moment::WithTheBroker {
            stack.kill_nats();
            stack.restart_nats();
        }
        stack.kill9(&watcher);
        for (invitation, _) in &invitations {
            wait_until("it has expired", async || events_of(&stack, invitation, "invitation.expired").await > 0).await;
        }
        stack.start_again(&watcher, &[]);
        for (invitation, token) in &invitations {
            assert_eq!(accept(&stack, token).await.expect(410).text_at("/code"), "expired");
            let view = stack.get(&tenant.path(&format!("/invitations/{invitation}")), &stack.operator_token()).await.expect(200);
            assert_eq!(view.text_at("/state"), "expired");
        }
        // Whatever was sent twice stands before this command in the partition, and is decided when it is answered.
        super::rename(&stack, &tenant, "Later").await;
        audited(&stack).await;
        for (invitation, _) in &invitations {
            assert_eq!(events_of(&stack, invitation, "invitation.expired").await, 1, "{invitation}");
        }
    }
}

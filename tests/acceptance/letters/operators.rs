//! The same over HTTP, with the rights of the gateway: for platform operators, and for nobody else.

use hyper::Method;
use serde_json::{Value, json};

use super::{Consumer, PICKY, history, letters, queues::follower, renamed};
use crate::{
    consumers::{count, tenant},
    harness::{Answer, Stack, wait_until},
};

/// Who does it.
const OPERATOR: &str = "svc_01890a5d-ac96-774b-bcce-b302099a8057";

async fn act(stack: &Stack, number: u64, what: &str, body: &Value) -> Answer {
    stack.post(&format!("/v1/deadletters/{number}/{what}"), &stack.operator_token(), body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_list_redrive_and_discard_over_http_and_nobody_else_does() {
    let stack = Stack::builder().start().await;
    let tenant = tenant(&stack).await;
    let picky = Consumer::start(&stack, PICKY).await;
    let (follower, sick) = follower(&stack).await;
    let operator = stack.operator_token();
    picky.breaks(true);
    *sick.lock().unwrap() = "Sick";
    let (_, event) = renamed(&stack, &tenant, "Sick").await;
    renamed(&stack, &tenant, "Behind").await;
    letters(&stack, 3).await;

    let asked = |query: &str| format!("/v1/deadletters{query}");
    let page = stack.get(&asked("?limit=2"), &operator).await.expect(200).body;
    assert_eq!((page["items"].as_array().unwrap().len(), page["next"].is_u64()), (2, true), "{page}");
    let rest = stack.get(&asked(&format!("?after={}", page["next"])), &operator).await.expect(200).body;
    assert_eq!((rest["items"].as_array().unwrap().len(), &rest["next"]), (1, &Value::Null), "{rest}");
    assert_eq!(page["counts"][0]["consumer"], "picky", "{page}");
    let of = async |consumer: &str| {
        let query = format!("?consumer={consumer}&type=tenant.updated&tenant={}", tenant.id);
        let page = stack.get(&asked(&query), &operator).await.expect(200).body;
        let numbers = page["items"].as_array().unwrap().iter().map(|item| item["number"].as_u64().unwrap());
        numbers.collect::<Vec<u64>>()
    };
    let (in_order, without) = (of("follower").await, of("picky").await);
    assert_eq!((in_order.len(), without.len()), (1, 2));
    let number = in_order[0];
    let whole = stack.get(&format!("/v1/deadletters/{number}"), &operator).await.expect(200).body;
    assert_eq!((&whole["body"]["id"], &whole["standing"]["behind"]), (&json!(event), &json!(1)), "{whole}");

    // An owner of the tenant whose event it is.
    let owner = stack.token(&tenant.owner, &tenant.id, "");
    for (method, path) in [
        (Method::GET, asked("")),
        (Method::GET, format!("/v1/deadletters/{number}")),
        (Method::POST, format!("/v1/deadletters/{number}/redrive")),
        (Method::POST, format!("/v1/deadletters/{number}/discard")),
    ] {
        let body = if method == Method::GET { Value::Null } else { json!({}) };
        let answer = stack.call(method, &path, &owner, &[], &body).await.expect(403);
        assert_eq!(answer.body["code"], "forbidden", "{path}");
    }
    for (query, status) in [("?limit=101", 422), ("?consumer=a.b", 422), ("?type=a.b.c", 422), ("?nothing=1", 400), ("?limit=1&limit=2", 422)] {
        stack.get(&asked(query), &operator).await.expect(status);
    }
    for number in ["0", "999", "x"] {
        stack.get(&format!("/v1/deadletters/{number}"), &operator).await.expect(404);
    }
    letters(&stack, 3).await;

    picky.breaks(false);
    for number in &without {
        let done = act(&stack, *number, "redrive", &Value::Null).await.expect(200).body;
        assert_eq!(done["what"], "picky has it again");
    }
    wait_until("both are handled", async || picky.handled().len() == 2).await;
    act(&stack, without[0], "redrive", &Value::Null).await.expect(404);
    // Tried anew and given up again, then discarded: what waited behind it goes on.
    act(&stack, number, "redrive", &json!({})).await.expect(200);
    wait_until("it is a letter again", async || of("follower").await.iter().any(|again| *again != number)).await;
    let number = of("follower").await[0];
    act(&stack, number, "discard", &json!({})).await.expect(422);
    act(&stack, number, "discard", &json!({ "reason": "nobody needs it" })).await.expect(200);
    wait_until("nothing waits any more", async || count(&stack, "SELECT count(*) FROM consumer_parked").await == 0).await;
    letters(&stack, 0).await;
    // A command's letter is no event, and its body is not shown.
    let subject = format!("cmd.{}.{}.tenant.update", subjects::partition(&tenant.id, 64), tenant.id);
    stack.jetstream().await.publish(subject, r#"{"secret":1}"#.into()).await.unwrap().await.unwrap();
    letters(&stack, 1).await;
    let number = of_worker(&stack).await;
    let whole = stack.get(&format!("/v1/deadletters/{number}"), &operator).await.expect(200).body;
    assert_eq!((&whole["body"], &whole["standing"]["kind"]), (&Value::Null, &json!("command")), "{whole}");
    let refused = act(&stack, number, "redrive", &Value::Null).await.expect(409).body;
    assert!(refused["detail"].as_str().unwrap().contains("exactly one outcome"), "{refused}");
    act(&stack, number, "discard", &json!({ "reason": "a test" })).await.expect(200);

    let done: Vec<(String, Value)> = history(&stack).await.into_iter().map(|(actor, action, reason)| (format!("{actor} {action}"), reason)).collect();
    let (redriven, discarded) = (format!("{OPERATOR} redrive"), format!("{OPERATOR} discard"));
    let why = |reason: &str| (discarded.clone(), json!(reason));
    let again = (redriven, Value::Null);
    assert_eq!(done, [again.clone(), again.clone(), again, why("nobody needs it"), why("a test")]);
    follower.end();
}

async fn of_worker(stack: &Stack) -> u64 {
    let page = stack.get("/v1/deadletters?consumer=worker", &stack.operator_token()).await.expect(200).body;
    page["items"][0]["number"].as_u64().unwrap()
}

//! Lists of many invitations: every question of [`stock`] again and again, how long the answers take, and how PostgreSQL reads them.

use anyhow::bail;
use futures_util::future::join_all;
use hyper::Method;
use serde_json::{Value, json};
use subjects::{TenantId, UserId};
use uuid::Uuid;

use super::{
    Options,
    contender::Contender,
    reading::{Caller, latencies, ms},
    stock,
};

/// Connections that ask at the same time.
const ASKING: usize = 4;
/// How often each of them asks each question, after some that do not count.
const TIMES: usize = 250;
/// Answers that do not count: connections are made and statements prepared.
const WARM_UP: usize = 25;

/// Fills a tenant, asks and prints; true when no question was read without an index.
///
/// # Errors
/// The database refuses, or an answer is no list.
pub(super) async fn run(contender: &Contender, tenant: Uuid, count: usize, options: &Options) -> anyhow::Result<bool> {
    eprintln!("writing {count} invitations …");
    let id = TenantId::new(tenant);
    stock::fill(&contender.database, id, UserId::new(Uuid::now_v7()), count).await?;
    eprintln!("asking …");
    let mut callers = join_all((0..ASKING).map(|_| Caller::connect(contender))).await.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let mut rows = Vec::new();
    let mut sound = true;
    for question in stock::QUESTIONS {
        let query: Vec<String> = question.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let query = query.join("&");
        let path = format!("/v1/tenants/tenant_{tenant}/invitations?{query}");
        let answers = callers.iter_mut().map(|caller| async {
            let mut found = Vec::with_capacity(TIMES);
            for number in 0..WARM_UP + TIMES {
                let (status, answer, micros) = caller.call(Method::GET, &path, &Value::Null).await?;
                if status != 200 {
                    bail!("{path}: {status} {answer}");
                }
                if number >= WARM_UP {
                    found.push(micros);
                }
            }
            anyhow::Ok(found)
        });
        let mut spread = latencies()?;
        for found in join_all(answers).await {
            found?.into_iter().for_each(|micros| spread.saturating_record(micros));
        }
        let plans = stock::plans(&contender.database, id, question).await?;
        sound &= !plans.iter().any(|plan| plan.contains("Seq Scan"));
        rows.push((query, spread, plans));
    }
    if options.json {
        let rows =
            rows.iter().map(|(query, spread, plans)| json!({ "query": query, "p50Ms": ms(spread, 0.5), "p99Ms": ms(spread, 0.99), "plans": plans }));
        println!("{}", json!({ "invitations": count, "connections": ASKING, "lists": rows.collect::<Vec<_>>() }));
    } else {
        println!("{count} invitations in one tenant, {ASKING} connections, {} answers each\n", ASKING * TIMES);
        println!("| asked for | p50/p99 ms | page read by | counted by |");
        println!("|---|---|---|---|");
        for (query, spread, plans) in &rows {
            println!("| `{query}` | {:.1} / {:.1} | {} |", ms(spread, 0.5), ms(spread, 0.99), plans.join(" | "));
        }
    }
    Ok(sound)
}

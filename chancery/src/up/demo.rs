//! `up --demo`: a small real scenario over HTTP with a crash in the middle of it, and the proof that nothing was lost and nothing
//! happened twice.

pub(crate) mod client;
mod proof;
mod scenario;

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use runtime::config::Secret;
use tokio::{runtime::Runtime, task::JoinHandle};
use tokio_postgres::NoTls;

use self::{client::Client, proof::Proof};
use super::Stack;

/// How long the tables, the stream and the audit may take to agree once every command is answered.
const CONVERGENCE: Duration = Duration::from_secs(60);

/// A demonstration under way.
#[derive(Debug)]
pub(super) struct Demo {
    wishes: Receiver<String>,
    task: JoinHandle<anyhow::Result<bool>>,
}

impl Demo {
    /// Starts it beside the thread that watches the stack.
    pub(super) fn start(side: &Runtime, stack: &Stack) -> Self {
        let (wish, wishes) = channel();
        let places = Places {
            gateway: stack.gateway.clone(),
            token: stack.token.clone(),
            nats: Secret::new(stack.nats_url()),
            database: Secret::new(stack.database_url()),
        };
        Self { wishes, task: side.spawn(run(places, wish)) }
    }

    /// The name of a process to kill, when there is one to be killed now; waits a little for it.
    pub(super) fn wish(&self, limit: Duration) -> Option<String> {
        match self.wishes.recv_timeout(limit) {
            Ok(name) => Some(name),
            Err(RecvTimeoutError::Timeout) => None,
            // Over: whoever asks in a loop is not to turn in circles.
            Err(RecvTimeoutError::Disconnected) => {
                std::thread::sleep(limit);
                None
            }
        }
    }

    /// Whether there is a result.
    pub(super) fn is_over(&self) -> bool {
        self.task.is_finished()
    }

    /// True when nothing was lost and nothing happened twice.
    ///
    /// # Errors
    /// What kept the scenario from its end.
    pub(super) fn result(self, side: &Runtime) -> anyhow::Result<bool> {
        side.block_on(self.task).context("the demo ended early")?
    }
}

/// How to reach the parts of the stack.
#[derive(Debug)]
struct Places {
    gateway: String,
    token: Secret,
    nats: Secret,
    database: Secret,
}

async fn run(places: Places, wish: Sender<String>) -> anyhow::Result<bool> {
    let (database, connection) = tokio_postgres::connect(places.database.expose(), NoTls).await.context("connecting to the database")?;
    tokio::spawn(connection);
    let client = Arc::new(Client::new(&places.gateway, places.token.expose()));
    say!("Demo: {} commands for {} tenants, each under an Idempotency-Key, every fifth posted twice at once", scenario::COMMANDS, scenario::TENANTS);
    let begin = Instant::now();
    let (tenants, ()) = tokio::try_join!(scenario::play(&client), crash(&client, &database, &wish))?;
    let answers = client.answers();
    say!(
        " {} answered in {:.1} s: {} succeeded, {} refused as they should be; asked again under the same key {} times",
        answers.len(),
        begin.elapsed().as_secs_f64(),
        answers.iter().filter(|answer| answer.events.is_some()).count(),
        answers.iter().filter(|answer| answer.events.is_none()).count(),
        client.repeats(),
    );
    let proof = converged(&places, &database, &answers, &tenants).await?;
    proof.print(client.differing());
    Ok(proof.holds(client.differing()))
}

/// When half of the commands are answered: kill -9 for the worker that decides for most of the demo's tenants.
async fn crash(client: &Client, database: &tokio_postgres::Client, wish: &Sender<String>) -> anyhow::Result<()> {
    while client.answered() < scenario::COMMANDS / 2 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let busiest = "SELECT w.name FROM events e JOIN partitions p USING (partition) JOIN workers w ON w.id = p.owner
        WHERE e.occurred_at > now() - interval '1 minute' GROUP BY w.name ORDER BY count(*) DESC LIMIT 1";
    let row = database.query_opt(busiest, &[]).await?.context("no worker owns a partition of the demo")?;
    let name: String = row.try_get(0)?;
    say!(" {} answered: {name} is killed with -9", client.answered());
    wish.send(name).context("nobody is there to kill a worker")
}

/// Looks until everything has arrived, or the time is up; the last look counts.
async fn converged(
    places: &Places,
    database: &tokio_postgres::Client,
    answers: &[client::Answered],
    tenants: &[subjects::TenantId],
) -> anyhow::Result<Proof> {
    let deadline = Instant::now() + CONVERGENCE;
    loop {
        let proof = Proof::look(places.nats.expose(), places.database.expose(), database, answers, tenants).await?;
        if proof.holds(0) || Instant::now() > deadline {
            return Ok(proof);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

//! `chancery cluster`: the cluster of `compose.yaml`, for people who do not want to remember how Docker Compose is called.
//!
//! `docker compose up -d` is enough. This only finds the program, makes the image from this very program when there is none, waits until
//! everything is healthy, and says what to try; and it checks that a cluster takes commands, also after a nats-server was killed.

mod check;
pub(crate) mod docker;
pub(crate) mod environment;
pub(crate) mod image;
pub(crate) mod services;
mod status;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::bail;
use tokio::signal::unix::{SignalKind, signal};

use self::{
    docker::{Compose, Docker},
    services::Service,
};
use crate::servers::port;

/// How long everything together may take to become healthy.
const HEALTHY_LIMIT: Duration = Duration::from_secs(180);
/// How often the containers are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// When waiting says what it waits for.
const NOTICE: Duration = Duration::from_secs(10);
/// Both gateways: the service, the variable that chooses its port on this machine, and the port it has otherwise.
const GATEWAYS: [(&str, &str, u16); 2] = [("gateway-1", "CHANCERY_GATEWAY_1_PORT", 8080), ("gateway-2", "CHANCERY_GATEWAY_2_PORT", 8081)];

/// What the command line says.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Compose files, as for Docker Compose itself.
    #[arg(long = "file", short, global = true)]
    files: Vec<String>,
    /// The project's name, as for Docker Compose itself.
    #[arg(long = "project-name", short, global = true)]
    project: Option<String>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Action {
    /// Brings the cluster up and waits until everything is healthy.
    Up {
        /// Profiles besides: mail, observability.
        #[arg(long)]
        profile: Vec<String>,
        /// Makes the image anew from this program.
        #[arg(long)]
        build: bool,
    },
    /// Stops the cluster and removes its containers; data stays.
    Down {
        /// Removes all data, too: events, users, certificates, credentials.
        #[arg(long)]
        volumes: bool,
    },
    /// Shows services, their health, and where streams have their leaders; the exit code is 1 unless all are healthy.
    Status,
    /// Posts through both gateways and looks for the events in the audit.
    Check {
        /// Then kills the nats-server that leads the stream of commands, and posts again.
        #[arg(long)]
        crash: bool,
        /// Does both on a cluster of its own, and removes it; where that is not possible, says so and succeeds.
        #[arg(long)]
        fresh: bool,
    },
}

/// Does what is asked. Blocking: makes a runtime.
///
/// # Errors
/// Docker does not answer, or the cluster does not become what it should; the text says what to do.
pub fn run(options: Options) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(act(options));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn act(options: Options) -> anyhow::Result<ExitCode> {
    if let Action::Check { fresh: true, .. } = options.action {
        return check::fresh(options.project).await;
    }
    let docker = Docker::find().await?;
    let compose = Compose::find(&docker, options.files, options.project).await?;
    match options.action {
        Action::Up { profile, build } => tokio::select! {
            result = up(&docker, &compose, &profile, build) => result,
            () = interrupted() => bail!("interrupted: what was started goes on; `chancery cluster status` shows it, `chancery cluster down` ends it"),
        },
        Action::Down { volumes } => down(&compose, volumes).await,
        Action::Status => status::show(&docker, &compose).await,
        Action::Check { crash, .. } => check::run(&docker, &compose, crash).await.map(|()| ExitCode::SUCCESS),
    }
}

/// Returns with the first SIGINT or SIGTERM.
async fn interrupted() {
    let (Ok(mut int), Ok(mut term)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else { return };
    tokio::select! { _ = int.recv() => {}, _ = term.recv() => {} }
}

async fn up(docker: &Docker, compose: &Compose, profiles: &[String], build: bool) -> anyhow::Result<ExitCode> {
    let begin = Instant::now();
    let environment = compose.environment()?;
    image::ensure(docker, compose, &environment.image(), build).await?;
    ports_are_free(&Service::all(docker, compose).await?, &environment)?;
    start(docker, compose, profiles).await?;
    println!("the cluster is up and healthy after {:.1} s", begin.elapsed().as_secs_f64());
    guide(compose).await;
    Ok(ExitCode::SUCCESS)
}

/// Brings the services up and waits for their health.
async fn start(docker: &Docker, compose: &Compose, profiles: &[String]) -> anyhow::Result<()> {
    let mut arguments: Vec<&str> = profiles.iter().flat_map(|profile| ["--profile", profile]).collect();
    arguments.extend(["up", "-d"]);
    if let Err(error) = compose.show(&arguments).await {
        let services = Service::all(docker, compose).await?;
        if !services.iter().any(Service::failed) {
            bail!("{error}; if a port is taken, CHANCERY_GATEWAY_1_PORT and CHANCERY_GATEWAY_2_PORT choose others");
        }
        explain(docker, services.iter().filter(|service| service.failed())).await;
        bail!("{error}");
    }
    healthy(docker, compose).await
}

/// Waits until nothing has failed and everything that has a health check is healthy.
async fn healthy(docker: &Docker, compose: &Compose) -> anyhow::Result<()> {
    let begin = Instant::now();
    let mut notice = Some(NOTICE);
    loop {
        let services = Service::all(docker, compose).await?;
        let waiting: Vec<&Service> = services.iter().filter(|service| !service.fine()).collect();
        if waiting.is_empty() && !services.is_empty() {
            return Ok(());
        }
        if begin.elapsed() > HEALTHY_LIMIT {
            explain(docker, waiting.iter().copied()).await;
            bail!("not healthy after {} s: {}", HEALTHY_LIMIT.as_secs(), names(&waiting));
        }
        if notice.is_some_and(|after| begin.elapsed() > after) {
            notice = None;
            println!("still waiting for {}", names(&waiting));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// How services are, and what they said last.
async fn explain(docker: &Docker, services: impl Iterator<Item = &Service>) {
    for service in services {
        println!("{}:\n{}", service.describe(), docker.tail(&service.id).await);
    }
}

fn names(services: &[&Service]) -> String {
    services.iter().map(|service| service.describe()).collect::<Vec<_>>().join(", ")
}

/// Docker says it later, and less clearly.
fn ports_are_free(running: &[Service], environment: &environment::Environment) -> anyhow::Result<()> {
    for (service, variable, default) in GATEWAYS {
        let published = running.iter().any(|one| one.name == service && one.running());
        let wanted = environment.get(variable).and_then(|text| text.parse().ok()).unwrap_or(default);
        if !published && port::free(Some(wanted))? != wanted {
            bail!("port {wanted} of this machine is taken: set {variable} to another, in the environment or in .env");
        }
    }
    Ok(())
}

async fn down(compose: &Compose, volumes: bool) -> anyhow::Result<ExitCode> {
    let mut arguments = vec!["--profile", "mail", "--profile", "observability", "down", "--remove-orphans"];
    arguments.extend(volumes.then_some("--volumes"));
    compose.show(&arguments).await?;
    println!("{}", if volumes { "the cluster and all of its data are gone" } else { "the cluster is down; its data stays (`--volumes` removes it)" });
    Ok(ExitCode::SUCCESS)
}

/// What to try.
async fn guide(compose: &Compose) {
    let mut gateways = Vec::new();
    for (service, _, _) in GATEWAYS {
        gateways.extend(compose.port(service, 8080).await.ok().map(|address| format!("http://{address}")));
    }
    let first = gateways.first().map_or("http://127.0.0.1:8080", String::as_str);
    println!(
        r#"gateways: {all}     documentation: {first}/docs
Try it:
  CHANCERY={first}
  TOKEN=$({compose} exec -T gateway-1 chancery token operator)
  TENANT=$(curl -sS $CHANCERY/v1/tenants -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' \
    -d '{{"slug":"acme","name":"Acme","plan":"starter","owner":{{"email":"ada@acme.example","fullName":"Ada Lovelace"}}}}' \
    | tee /dev/stderr | sed 's/.*"aggregateId":"\([^"]*\)".*/\1/')
  curl -sS $CHANCERY/v1/tenants/$TENANT/audit -H "Authorization: Bearer $TOKEN"
Look at it with `chancery cluster status`; end it with `chancery cluster down`."#,
        all = gateways.join("  "),
    );
}

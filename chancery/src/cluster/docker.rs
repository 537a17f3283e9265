//! Docker and Docker Compose, by their command lines: what people use is what is used here.

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use tokio::process::Command;

use super::environment::Environment;

/// How long Docker may take to say that it is there.
const ANSWER: Duration = Duration::from_secs(10);
/// How long one question may take.
const QUESTION: Duration = Duration::from_secs(60);
/// How long a command that builds, pulls, starts or stops containers may take.
const WORK: Duration = Duration::from_secs(900);
/// The first docker-compose with conditions on services that must have completed.
const LEAST: (u32, u32) = (1, 29);

/// A Docker engine that answers.
#[derive(Debug)]
pub(crate) struct Docker {
    /// What it runs, `linux/amd64`.
    pub(crate) platform: String,
}

impl Docker {
    /// Asks the engine.
    pub(crate) async fn find() -> anyhow::Result<Self> {
        let command = docker(&["version", "--format", "{{.Server.Os}}/{{.Server.Arch}}"]);
        let instead = "`chancery up` runs the same roles without Docker";
        match ask(command, ANSWER).await {
            Ok(platform) => Ok(Self { platform: platform.trim().to_owned() }),
            Err(error)
                if error.chain().any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == std::io::ErrorKind::NotFound)) =>
            {
                bail!("Docker is not installed: there is no `docker` on the PATH; {instead}")
            }
            Err(error) => bail!("Docker does not answer ({error:#}); {instead}"),
        }
    }

    /// What `docker …` prints.
    pub(crate) async fn ask(&self, arguments: &[&str]) -> anyhow::Result<String> {
        ask(docker(arguments), QUESTION).await
    }

    /// Runs `docker …` that may take long; what it prints is told only when it fails.
    pub(crate) async fn work(&self, arguments: &[&str]) -> anyhow::Result<String> {
        ask(docker(arguments), WORK).await
    }

    /// The last lines a container wrote.
    pub(crate) async fn tail(&self, container: &str) -> String {
        match output(docker(&["logs", "--tail", "12", container]), QUESTION).await {
            Ok(output) => format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)),
            Err(error) => format!("{error:#}\n"),
        }
    }
}

fn docker(arguments: &[&str]) -> Command {
    let mut command = Command::new("docker");
    // The builder that every engine has; nothing here needs the other one.
    command.args(arguments).env("DOCKER_CLI_HINTS", "false");
    command
}

/// Docker Compose, of version 2 or 1.29, and the project it works on.
#[derive(Debug)]
pub(crate) struct Compose {
    program: Vec<&'static str>,
    options: Vec<String>,
    /// The folder of `compose.yaml`.
    pub(crate) folder: PathBuf,
    /// Variables that hold for this project only.
    pub(crate) variables: Vec<(String, String)>,
}

impl Compose {
    /// Finds the program, and the project in the working folder or above it.
    pub(crate) async fn find(docker: &Docker, files: Vec<String>, project: Option<String>) -> anyhow::Result<Self> {
        let program = program(docker).await?;
        let folder = project_folder(&std::env::current_dir()?)?;
        let mut options = Vec::new();
        for file in files {
            options.extend(["-f".to_owned(), std::path::absolute(&file)?.display().to_string()]);
        }
        options.extend(project.into_iter().flat_map(|name| ["-p".to_owned(), name]));
        Ok(Self { program, options, folder, variables: Vec::new() })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.program.first().copied().unwrap_or("docker-compose"));
        command.args(self.program.iter().skip(1)).args(&self.options).args(arguments).current_dir(&self.folder);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs it for people to see what it does.
    pub(crate) async fn show(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let mut command = self.command(arguments);
        command.stdin(Stdio::null());
        let mut child = command.spawn().with_context(|| format!("starting {self}"))?;
        let status = tokio::time::timeout(WORK, child.wait()).await.map_err(|_| anyhow!("{self} takes longer than {} s", WORK.as_secs()))??;
        if status.success() { Ok(()) } else { Err(anyhow!("`{self} {}` failed", arguments.join(" "))) }
    }

    /// What it prints.
    pub(crate) async fn ask(&self, arguments: &[&str]) -> anyhow::Result<String> {
        ask(self.command(arguments), QUESTION).await
    }

    /// Runs it where it may take long; what it prints is told only when it fails.
    pub(crate) async fn work(&self, arguments: &[&str]) -> anyhow::Result<String> {
        ask(self.command(arguments), WORK).await
    }

    /// Where a service's port is published on this machine, as host:port.
    pub(crate) async fn port(&self, service: &str, port: u16) -> anyhow::Result<String> {
        let text = self.ask(&["port", service, &port.to_string()]).await?;
        let address = text.lines().next().unwrap_or_default().trim().replace("0.0.0.0:", "127.0.0.1:");
        if address.is_empty() { Err(anyhow!("{service} is not published: is the cluster up?")) } else { Ok(address) }
    }

    /// The variables that Compose puts into `compose.yaml`.
    pub(crate) fn environment(&self) -> anyhow::Result<Environment> {
        Environment::read(&self.folder, &self.variables)
    }
}

/// As people type it.
impl std::fmt::Display for Compose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words: Vec<&str> = self.program.iter().copied().chain(self.options.iter().map(String::as_str)).collect();
        f.write_str(&words.join(" "))
    }
}

/// `docker compose` when there is one, else `docker-compose`.
async fn program(docker: &Docker) -> anyhow::Result<Vec<&'static str>> {
    if docker.ask(&["compose", "version", "--short"]).await.is_ok() {
        return Ok(vec!["docker", "compose"]);
    }
    let mut command = Command::new("docker-compose");
    command.args(["version", "--short"]);
    let version =
        ask(command, ANSWER).await.map_err(|_| anyhow!("there is neither `docker compose` nor `docker-compose`: install Docker Compose"))?;
    let mut numbers = version.trim().trim_start_matches('v').split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    if (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < LEAST {
        bail!("docker-compose {} is too old: {}.{} or Docker Compose 2 is needed", version.trim(), LEAST.0, LEAST.1);
    }
    Ok(vec!["docker-compose"])
}

/// The nearest folder with our `compose.yaml`.
pub(crate) fn project_folder(from: &Path) -> anyhow::Result<PathBuf> {
    let ours = |folder: &&Path| folder.join("compose.yaml").is_file() && folder.join("Dockerfile").is_file();
    let found = from.ancestors().find(ours).map(Path::to_owned);
    found.context("there is no compose.yaml here or above: run this in a checkout of Chancery")
}

/// Standard output of a command that succeeds; else an error with what it said last.
async fn ask(command: Command, limit: Duration) -> anyhow::Result<String> {
    let output = output(command, limit).await?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(if output.stderr.is_empty() { &output.stdout } else { &output.stderr });
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    Err(anyhow!("{}", last.trim()))
}

async fn output(mut command: Command, limit: Duration) -> anyhow::Result<Output> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let work = command.stdin(Stdio::null()).kill_on_drop(true).output();
    Ok(tokio::time::timeout(limit, work).await.map_err(|_| anyhow!("{name} does not answer within {} s", limit.as_secs()))??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_project_is_found_from_below_and_nothing_is_taken_for_it_elsewhere() -> anyhow::Result<()> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
        assert_eq!(project_folder(&root.join("chancery/src"))?, root);
        assert!(project_folder(Path::new("/")).is_err_and(|error| error.to_string().contains("compose.yaml")));
        Ok(())
    }
}

//! The project of a run: its name, and its end with everything in it.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use nix::{sys::signal, unistd::Pid};

/// What the names of projects of runs begin with; the rest is the process that runs.
const PREFIX: &str = "chy-chaos-";
/// The label that Compose puts on everything it makes.
const LABEL: &str = "com.docker.compose.project";

/// A project with its containers, networks, volumes, its image and a folder for credentials; all of it is gone with the value.
#[derive(Debug)]
pub(super) struct Project {
    pub(super) name: String,
    /// For this user alone.
    pub(super) folder: PathBuf,
}

impl Project {
    /// Names it after this process, and removes what runs that were killed have left. Blocking.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub(super) fn make() -> anyhow::Result<Self> {
        let projects = docker(&["ps", "-a", "--filter", &format!("label={LABEL}"), "--format", &format!("{{{{ .Label {LABEL:?} }}}}")]);
        let volumes = docker(&["volume", "ls", "--filter", &format!("label={LABEL}"), "--format", &format!("{{{{ .Label {LABEL:?} }}}}")]);
        let mut names: Vec<&String> = projects.iter().chain(&volumes).filter(|name| is_stale(name)).collect();
        names.sort();
        names.dedup();
        for name in names {
            eprintln!("removing {name}, which a run that was killed has left");
            remove(name);
        }
        let name = format!("{PREFIX}{}", std::process::id());
        let folder = folder(&name);
        let _ = std::fs::remove_dir_all(&folder);
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(&folder)?;
        Ok(Self { name, folder })
    }

    /// The image of the roles, this run's own.
    pub(super) fn image(&self) -> String {
        image(&self.name)
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

fn image(project: &str) -> String {
    format!("chancery:{project}")
}

/// Where a project's credentials are copied to.
fn folder(project: &str) -> PathBuf {
    std::env::temp_dir().join(project)
}

/// Whether a project is of a run that is no more.
fn is_stale(project: &str) -> bool {
    let pid = project.strip_prefix(PREFIX).and_then(|pid| pid.parse::<i32>().ok()).filter(|pid| *pid > 0);
    pid.is_some_and(|pid| signal::kill(Pid::from_raw(pid), None) == Err(nix::errno::Errno::ESRCH))
}

/// Ends a project, in whatever state it is. What is missing is missing.
fn remove(project: &str) {
    let label = format!("label={LABEL}={project}");
    let all = |list: &[&str], remove: &[&str]| {
        let ids = docker(&[list, &["-q", "--filter", &label]].concat());
        if !ids.is_empty() {
            docker(&[remove, &ids.iter().map(String::as_str).collect::<Vec<_>>()].concat());
        }
    };
    all(&["ps", "-a"], &["rm", "-f", "-v"]);
    all(&["network", "ls"], &["network", "rm"]);
    all(&["volume", "ls"], &["volume", "rm"]);
    docker(&["rmi", "-f", &image(project)]);
    let _ = std::fs::remove_dir_all(folder(project));
}

/// The lines that `docker …` prints; none when it fails. In a group of its own, so that a second Ctrl-C does not end it half-way.
fn docker(arguments: &[&str]) -> Vec<String> {
    let mut command = Command::new("docker");
    command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null());
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_project_of_a_process_that_is_gone_is_stale() {
        assert!(!is_stale(&format!("{PREFIX}{}", std::process::id())));
        assert!(!is_stale("chancery") && !is_stale(PREFIX) && !is_stale("chy-chaos-one") && !is_stale("chy-chaos-0"));
        let mut child = Command::new("true").spawn().unwrap();
        let gone = format!("{PREFIX}{}", child.id());
        child.wait().unwrap();
        assert!(is_stale(&gone));
    }
}

//! The compose files: each process runs as itself and reads its own credentials, nothing is published but on loopback, and what can be set
//! is documented. Whether the cluster works is shown by `chancery cluster check`, where a Docker engine answers.

#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected must fail at once")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use chancery::{
    init::{
        self, Renew,
        reader::{OWNER, Reader, roles},
    },
    role::Role,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The entries of a top-level key, or of the anchors before it, with their indented lines.
fn blocks(text: &str, section: &str) -> BTreeMap<String, String> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    let (mut within, mut current) = (false, None);
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#') && !line.trim().is_empty()) {
        if !line.starts_with(' ') {
            within = line.trim_end() == format!("{section}:");
        } else if within && line.starts_with("  ") && !line.starts_with("   ") {
            current = line.trim().split(':').next().map(str::to_owned);
        }
        if let Some(name) = current.as_ref().filter(|_| within) {
            let block = found.entry(name.clone()).or_default();
            block.push_str(line);
            block.push('\n');
        }
    }
    found
}

/// The service of `compose.yaml` with what its anchors add, as text.
fn service(name: &str) -> String {
    let text = read("compose.yaml");
    let mut block = blocks(&text, "services").remove(name).unwrap_or_else(|| panic!("compose.yaml has no service {name}"));
    for anchor in ["gateway", "worker-environment", "worker", "role", "nats-access", "environment", "nats", "once", "confined", "health", "logging"] {
        if block.contains(&format!("*{anchor}\n")) {
            let start = text.find(&format!("x-{anchor}: &{anchor}")).or_else(|| text.find(&format!("&{anchor}\n"))).unwrap();
            let rest = text[start..].split_once('\n').unwrap().1;
            let body: String = rest.lines().take_while(|line| line.starts_with(' ')).map(|line| format!("{line}\n")).collect();
            block.push_str(&body);
        }
    }
    block
}

/// Every service that a role runs in, with the role.
fn role_services() -> Vec<(String, Role)> {
    let names = |role: Role| match role {
        Role::Consumer(consumer) => vec![consumer.name().to_owned()],
        other => (1..=2).map(|number| format!("{}-{number}", other.name())).collect(),
    };
    roles().flat_map(|role| names(role).into_iter().map(move |name| (name, role))).collect()
}

#[test]
fn every_process_runs_as_itself_and_is_told_its_own_credentials_alone() {
    let mut expected: Vec<(String, Reader)> = role_services().into_iter().map(|(name, role)| (name, Reader::Role(role))).collect();
    expected.extend([("migrate".to_owned(), Reader::Migrate), ("provision".to_owned(), Reader::Provisioner)]);
    for (name, reader) in expected {
        let service = service(&name);
        let user = format!("user: \"{0}:{0}\"", reader.group());
        assert!(service.contains(&user), "{name} should have {user}:\n{service}");
        let told: BTreeSet<&str> = service.split("/run/chancery/credentials/").skip(1).filter_map(|rest| rest.split('/').next()).collect();
        assert_eq!(told, [reader.name()].into(), "{name} is told of others' credentials, or of none");
        if let Reader::Role(role) = reader {
            let command = format!("command: [{}]", role.arguments().join(", "));
            assert!(service.contains(&command), "{name} should have {command}");
            assert!(service.contains(&format!("CHANCERY_NATS_USER: {}\n", role.name())), "{name} should be NATS user {}", role.name());
        }
    }
    for node in ["nats-1", "nats-2", "nats-3"] {
        assert!(service(node).contains(&format!("user: \"{0}:{0}\"", Reader::Nats.group())), "{node}");
    }
    assert!(service("postgres").contains(&format!("group_add: [\"{}\"]", Reader::Postgres.group())));
    let init = service("init");
    assert!(init.contains(&format!("user: \"{OWNER}:{OWNER}\"")));
    for reader in Reader::all() {
        assert!(
            init.contains(&format!("\"{}\"", reader.group())),
            "init cannot give {} its files: it is not in group {}",
            reader.name(),
            reader.group()
        );
    }
}

#[test]
fn every_container_is_confined_and_published_on_loopback_alone() {
    let text = read("compose.yaml");
    assert!(!text.contains("\nname:"), "the project's name is the operator's");
    for name in blocks(&text, "services").keys() {
        let service = service(name);
        for wanted in ["read_only: true", "cap_drop: [ALL]", "no-new-privileges:true", "driver: json-file", "mem_limit:", "restart:"] {
            assert!(service.contains(wanted), "{name} has no {wanted}");
        }
        assert!(name == "prometheus" || service.contains("user: "), "{name} runs as its image's user");
        let ends = service.contains("restart: \"no\"");
        let others = ["mail", "collector", "prometheus", "grafana"].contains(&name.as_str());
        assert!(ends || others || service.contains("healthcheck:"), "{name} has no health check");
        assert!(ends || others || service.contains("stop_grace_period:"), "{name} has no time to end");
    }
    for file in ["compose.yaml", "compose.chaos.yaml", "compose.disks.yaml"] {
        for line in read(file).lines().filter(|line| line.contains("ports:")) {
            let ports = line.split('"').skip(1).step_by(2);
            ports.for_each(|port| assert!(port.starts_with("127.0.0.1:${"), "{file} publishes {port}"));
        }
    }
    let inside = blocks(&text, "networks").remove("inside").expect("a network inside");
    assert!(inside.contains("internal: true"), "{inside}");
}

#[test]
fn what_can_be_set_is_documented() {
    let (example, page) = (read(".env.example"), read("docs/compose.md"));
    for file in ["compose.yaml", "compose.chaos.yaml", "compose.disks.yaml"] {
        for rest in read(file).split("${").skip(1) {
            let (name, default) = rest.split_once('}').unwrap().0.split_once(":-").expect("every variable has a default");
            assert!(page.contains(&format!("`{name}`")), "docs/compose.md does not know {name} of {file}");
            if file == "compose.yaml" {
                assert!(example.contains(&format!("#{name}={default}\n")), ".env.example has no line #{name}={default}");
            }
        }
    }
}

#[test]
fn prometheus_asks_every_role() {
    let text = read("deploy/prometheus.yaml");
    for (name, role) in role_services() {
        let target = format!("{name}:{}", if role == Role::Gateway { 8080 } else { 9090 });
        assert!(text.contains(&target), "deploy/prometheus.yaml does not ask {target}");
    }
}

/// A file of YAML as a value.
fn yaml(name: &str) -> serde_json::Value {
    serde_norway::from_str(&read(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn what_the_profile_observability_mounts_is_there_and_names_each_other() {
    let compose = yaml("compose.yaml");
    let mounts = |service: &str| -> BTreeMap<String, String> {
        let volumes = compose["services"][service]["volumes"].as_array().unwrap().iter().map(|volume| volume.as_str().unwrap().to_owned());
        let mounts = volumes.filter_map(|volume| volume.strip_prefix("./")?.strip_suffix(":ro").map(str::to_owned));
        mounts.map(|mount| mount.split_once(':').map(|(from, to)| (to.to_owned(), from.to_owned())).unwrap()).collect()
    };
    for service in ["collector", "prometheus", "grafana"] {
        assert_eq!(compose["services"][service]["profiles"][0], "observability");
        assert!(!mounts(service).is_empty(), "{service} has no file of ours");
        for file in mounts(service).values() {
            assert!(root().join(file).exists(), "{service} mounts {file}, which is not there");
        }
    }

    let collector = yaml("deploy/collector.yaml");
    for signal in ["traces", "metrics"] {
        for (part, section) in [("receivers", "receivers"), ("processors", "processors"), ("exporters", "exporters")] {
            let names = collector["service"]["pipelines"][signal][part].as_array().unwrap();
            assert!(!names.is_empty() && names.iter().all(|name| collector[section].get(name.as_str().unwrap()).is_some()), "{signal} {part}");
        }
    }

    let rule_files = yaml("deploy/prometheus.yaml")["rule_files"].as_array().unwrap().clone();
    for file in &rule_files {
        let mounts = mounts("prometheus");
        let rules = yaml(mounts.get(file.as_str().unwrap()).expect("a rule file is mounted where Prometheus looks for it"));
        let page = read("docs/observability.md");
        for rule in rules["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap()) {
            let name = rule["alert"].as_str().unwrap();
            assert!(["warning", "critical"].contains(&rule["labels"]["severity"].as_str().unwrap()), "{name}");
            assert!(rule["for"].as_str().is_some_and(|time| time.ends_with('m')) && rule["annotations"]["summary"].is_string(), "{name}");
            assert!(page.contains(&format!("\n### {name}\n")), "docs/observability.md does not say what to do about {name}");
            let link = format!("docs/observability.md#{}", name.to_lowercase());
            assert_eq!(rule["annotations"]["description"], link.as_str());
        }
        let names = page.lines().filter_map(|line| line.strip_prefix("### Chancery")).count();
        assert_eq!(names, read("deploy/alerts.yaml").matches("- alert: ").count(), "docs/observability.md has an alarm that is none");
    }
    assert_eq!(rule_files.len(), 1);

    let source = yaml("deploy/grafana/provisioning/datasources/prometheus.yaml")["datasources"][0].clone();
    assert_eq!(source["url"], "http://prometheus:9090");
    let folder = yaml("deploy/grafana/provisioning/dashboards/chancery.yaml")["providers"][0]["options"]["path"].as_str().unwrap().to_owned();
    let board = format!("{}/chancery.json", mounts("grafana").get(&folder).expect("the dashboards are mounted where Grafana looks for them"));
    let board: serde_json::Value = serde_json::from_str(&read(&board)).unwrap();
    let panels = board["panels"].as_array().unwrap();
    let ids: BTreeSet<i64> = panels.iter().map(|panel| panel["id"].as_i64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "each panel has an id of its own");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert_eq!(panel["datasource"]["uid"], source["uid"], "{}", panel["title"]);
        let grid = &panel["gridPos"];
        assert!(grid["x"].as_i64().unwrap() + grid["w"].as_i64().unwrap() <= 24, "{}", panel["title"]);
    }
}

#[test]
fn the_image_is_built_without_what_is_not_delivered() {
    let text = read("Dockerfile");
    assert!(!text.contains("--all-features") && !text.contains("--features"), "a delivered image has no feature of tests");
    let ignored = read(".dockerignore");
    assert!(ignored.lines().any(|line| line == "*"), "the context names what goes in, not what stays out");
}

/// A folder that is gone with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(what: &str) -> Self {
        let path = std::env::temp_dir().join(format!("chancery-init-{what}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    fn options(&self, groups: bool, renew: Vec<Renew>) -> init::Options {
        init::Options {
            out: self.0.clone(),
            groups,
            folders: Vec::new(),
            nats_store: "20GB".into(),
            nats_monitor: std::net::Ipv4Addr::LOCALHOST.into(),
            manifest: None,
            renew,
        }
    }

    /// Every file with what is in it and when it was written.
    fn files(&self) -> BTreeMap<PathBuf, (Vec<u8>, i64, i64)> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.0.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let meta = fs::metadata(&path).unwrap();
                    found.insert(path.strip_prefix(&self.0).unwrap().to_owned(), (fs::read(&path).unwrap(), meta.mtime(), meta.mtime_nsec()));
                }
            }
        }
        found
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_second_init_changes_nothing_and_renewing_changes_what_is_renewed() {
    let folder = Folder::new("again");
    assert!(!init::run(&folder.options(false, Vec::new())).unwrap().is_empty());
    let first = folder.files();
    assert_eq!(init::run(&folder.options(false, Vec::new())).unwrap(), Vec::<PathBuf>::new());
    assert_eq!(folder.files(), first);

    init::run(&folder.options(false, vec![Renew::DatabasePasswords])).unwrap();
    let changed: BTreeSet<String> = folder
        .files()
        .iter()
        .filter(|(path, file)| first.get(*path).is_none_or(|old| old.0 != file.0))
        .map(|(path, _)| path.display().to_string())
        .collect();
    assert!(changed.contains("credentials/worker/database-url") && changed.contains("credentials/migrate/passwords/chancery_worker"), "{changed:?}");
    let others: Vec<&String> = changed.iter().filter(|path| path.contains("nats") || path.contains("token") || path.contains("postgres/")).collect();
    assert!(others.is_empty(), "{others:?}");

    init::run(&folder.options(false, vec![Renew::Certificates])).unwrap();
    let renewed = folder.files();
    let differs = |name: &str| renewed[Path::new(name)].0 != first[Path::new(name)].0;
    assert!(differs("nats/server.pem") && differs("nats/server.key"));
    assert!(!differs("ca.pem"), "the authority stays, so that nobody has to be told of a new one");
}

#[test]
fn an_interrupted_init_is_finished_by_the_next() {
    let folder = Folder::new("interrupted");
    init::run(&folder.options(false, Vec::new())).unwrap();
    let whole: BTreeMap<PathBuf, Vec<u8>> = folder.files().into_iter().map(|(path, (text, _, _))| (path, text)).collect();
    // Whatever follows from the secrets may be missing: it is the same again.
    for path in whole.keys().filter(|path| !path.starts_with("private")) {
        fs::remove_file(folder.0.join(path)).unwrap();
    }
    init::run(&folder.options(false, Vec::new())).unwrap();
    assert_eq!(folder.files().into_iter().map(|(path, (text, _, _))| (path, text)).collect::<BTreeMap<_, _>>(), whole);
}

#[test]
fn every_process_is_given_its_files_and_nobody_elses() {
    let folder = Folder::new("groups");
    if let Err(error) = init::run(&folder.options(true, Vec::new())) {
        // Only who is in all groups may give files to them; in the cluster that is `init`, here it is root.
        assert!(format!("{error:#}").contains("cannot be given to"), "{error:#}");
        println!("skipped: {error:#}");
        return;
    }
    for (path, _) in folder.files() {
        let meta = fs::metadata(folder.0.join(&path)).unwrap();
        let mode = meta.permissions().mode() & 0o777;
        let mut parts = path.iter().map(|part| part.to_str().unwrap());
        let owner = match (parts.next().unwrap(), parts.next()) {
            ("private", _) => None,
            ("credentials", Some(name)) | (name, Some(_)) => {
                Some(Reader::all().find(|reader| reader.name() == name).expect("a folder belongs to a reader"))
            }
            _ => {
                assert_eq!((path.to_str().unwrap(), mode), ("ca.pem", 0o644), "only the authority's certificate is everybody's");
                continue;
            }
        };
        let wanted = owner.map_or((0o600, meta.gid()), |reader| (0o640, reader.group()));
        assert_eq!((mode, meta.gid()), wanted, "{}", path.display());
    }
}

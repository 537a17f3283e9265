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
        let others = ["mail", "collector", "prometheus"].contains(&name.as_str());
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

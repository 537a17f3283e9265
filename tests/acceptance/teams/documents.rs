//! The documents of the gateway, tried by programs that are not ours, and the gateway by a program that reads them.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::LazyLock,
};

use aggregates::registry;
use serde_json::json;

use crate::harness::{Stack, blocking, fresh_folder, packages};

const REQUIREMENTS: &str = include_str!("requirements.txt");
/// Where the packages lie; fetched by the first test that needs them.
static PACKAGES: LazyLock<PathBuf> = LazyLock::new(|| packages("documents", REQUIREMENTS));
/// Reads a document as AsyncAPI 3 and prints how many channels, operations and messages it found.
const ASYNCAPI: &str = "\
import json, sys
from asyncapi3.models.asyncapi import AsyncAPI3
document = AsyncAPI3.model_validate(json.load(open(sys.argv[1])))
print(len(document.channels.root), len(document.operations.root), len(document.components.messages.root))
";
/// What Schemathesis draws its requests from. A failure is repeated with the same one.
const SEED: &str = "7";
/// The longest it may take, in seconds: what it has not tried by then, it does not try.
const LIMIT: &str = "75";

/// Runs a program in Python; what it says, and whether it ended well.
fn python(arguments: &[&str], folder: &Path) -> (bool, String) {
    let packages = blocking(|| PACKAGES.clone());
    let mut command = Command::new("python3");
    command.args(arguments).current_dir(folder).env("PYTHONPATH", packages).env("PYTHONDONTWRITEBYTECODE", "1");
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

/// A document as the gateway serves it, in a file.
async fn served(stack: &Stack, folder: &Path, name: &str) -> String {
    let text = stack.get(&format!("/{name}"), "").await.expect(200).text;
    std::fs::write(folder.join(name), &text).unwrap();
    name.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documents_are_read_by_programs_that_are_not_ours() {
    let stack = Stack::builder().start().await;
    let folder = fresh_folder("documents");
    let openapi = served(&stack, &folder, "openapi.json").await;
    let (is_valid, text) = python(&["-m", "openapi_spec_validator", &openapi], &folder);
    assert!(is_valid, "openapi-spec-validator says: {text}");

    let asyncapi = served(&stack, &folder, "asyncapi.json").await;
    let (is_valid, text) = python(&["-W", "ignore", "-c", ASYNCAPI, &asyncapi], &folder);
    assert!(is_valid, "asyncapi3 says: {text}");
    // The events, and the dead letters.
    let count = registry::EVENTS.len() + 1;
    assert_eq!(text.trim(), format!("{count} {count} {count}"));

    // A reader that finds nothing wrong with anything would be no proof.
    for (name, broken) in [("openapi.json", "\"responses\":"), ("asyncapi.json", "\"action\":")] {
        let path = folder.join(name);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(broken));
        std::fs::write(&path, text.replace(broken, "\"bogus\":")).unwrap();
    }
    assert!(!python(&["-m", "openapi_spec_validator", &openapi], &folder).0, "a document without answers is none");
    assert!(!python(&["-W", "ignore", "-c", ASYNCAPI, &asyncapi], &folder).0, "an operation without an action is none");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_answers_whatever_is_asked_as_its_document_says() {
    // An outcome that is late on a busy machine is no fault of the gateway's.
    let stack = Stack::builder().env("CHANCERY_WAIT_MS", 20_000).env("CHANCERY_REQUEST_TIMEOUT_MS", 30_000).start().await;
    let token = stack.operator_token();
    let owner = json!({ "email": "ada@acme.example", "fullName": "Ada" });
    let tenant = json!({ "slug": "acme", "name": "Acme", "plan": "enterprise", "owner": owner });
    let tenant = stack.post("/v1/tenants", &token, &tenant).await.expect(201).text_at("/aggregateId");
    let folder = fresh_folder("requests");
    // Requests find something there: a tenant of its own. Other ids are drawn, or follow from answers.
    std::fs::write(folder.join("schemathesis.toml"), format!("[parameters]\n\"path.t\" = \"{tenant}\"\n")).unwrap();
    let url = format!("{}/openapi.json", stack.gateway_url());
    let bearer = format!("Authorization: Bearer {token}");
    let arguments = [
        "-c",
        "from schemathesis.cli import schemathesis; schemathesis()",
        "run",
        &url,
        "--header",
        &bearer,
        "--seed",
        SEED,
        "--max-time",
        LIMIT,
        "--max-examples",
        "8",
        "--checks",
        "all",
        // That everything the document allows is accepted, it cannot know: commands are refused for what is so.
        "--exclude-checks",
        "positive_data_acceptance",
        // It never ends, so there is no answer to look at; `pipeline/streams.rs` looks at it.
        "--exclude-path",
        "/v1/tenants/{t}/events",
        "--generation-database",
        "none",
        "--request-timeout",
        "60",
        // In two threads Python 3.11 may trip over its own parser ("AST constructor recursion depth mismatch").
        "--workers",
        "1",
        "--warnings",
        "off",
        "--no-shrink",
        "--no-color",
    ];
    let (is_sound, text) = tokio::task::spawn_blocking({
        let (arguments, folder) = (arguments.map(str::to_owned), folder.clone());
        move || python(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), &folder)
    })
    .await
    .unwrap();
    assert!(is_sound, "schemathesis says: {text}");
    assert!(text.contains("No issues found"), "{text}");
    let operations = command_gateway::policies().len();
    assert!(text.contains(&format!("Selected: {}/{operations}", operations - 1)), "every route but one is tried: {text}");
    std::fs::remove_dir_all(&folder).unwrap();
}

//! What `up` prints for people: where things are, and commands that work as printed.

use std::time::Duration;

use super::{Stack, stack::WORKERS};
use crate::role::Consumer;

/// The lines that say where everything is.
pub(super) fn ready(stack: &Stack, took: Duration) {
    say!(" {:<21} {}{}", "gateway", stack.gateway, stack.port_note.as_deref().unwrap_or_default());
    let held = stack.partitions();
    let shares: Vec<String> = held.iter().map(ToString::to_string).collect();
    let text = if held.is_empty() { String::new() } else { format!("{} partitions: {}", held.iter().sum::<i64>(), shares.join(" + ")) };
    say!(" {:<21} {text}", format!("worker ×{WORKERS}"));
    let names: Vec<&str> = Consumer::ALL.iter().map(|consumer| consumer.name()).collect();
    say!(" {:<21} {}     ready in {:.1} s", "consumers", names.join(" "), took.as_secs_f64());
    for team in stack.teams() {
        say!(" {:<21} . {}", format!("for {team}"), relative(&stack.files.team(team)));
    }
    say!(" {:<21} {}/docs", "docs", stack.gateway);
    say!(" {:<21} {}/", "mail lands in", relative(&stack.files.root.join("mail")));
}

/// The walk through the main job.
pub(super) fn try_it(stack: &Stack) {
    let env = relative(&stack.files.root.join("env"));
    // Sourcing a path without a slash would search the PATH.
    let env = if env.contains('/') { env } else { format!("./{env}") };
    // For this one command only: other programs keep their configuration.
    let nats = relative(&stack.files.nats_config());
    say!(
        r#"Try it in another shell:
  . {env}                                    # CHANCERY, TOKEN, DATABASE_URL, NATS_URL
  TENANT=$(curl -sS $CHANCERY/v1/tenants -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' \
    -d '{{"slug":"acme","name":"Acme","plan":"starter","owner":{{"email":"ada@acme.example","fullName":"Ada Lovelace"}}}}' \
    | tee /dev/stderr | sed 's/.*"aggregateId":"\([^"]*\)".*/\1/')
  curl -sS $CHANCERY/v1/tenants/$TENANT/invitations -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' \
    -d '{{"email":"bob@acme.example","role":"member"}}'
  cargo run -q -- mail latest --to bob@acme.example            # the invitation
  curl -sS $CHANCERY/v1/invitations/accept -H 'Content-Type: application/json' \
    -d '{{"token":"'$(cargo run -q -- mail latest --to bob@acme.example --token)'","fullName":"Bob Boole"}}'
  curl -sS $CHANCERY/v1/tenants/$TENANT/audit -H "Authorization: Bearer $TOKEN"
  cargo run -q -- audit verify
Look inside:  XDG_CONFIG_HOME={nats} nats --context chancery sub 'evt.>'    psql "$DATABASE_URL""#
    );
}

/// A path as seen from the working folder, when it lies in it.
fn relative(path: &std::path::Path) -> String {
    let here = std::env::current_dir().and_then(|here| here.canonicalize()).ok();
    here.and_then(|here| path.strip_prefix(here).ok()).unwrap_or(path).display().to_string()
}

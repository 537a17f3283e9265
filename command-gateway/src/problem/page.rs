//! The page of a problem's type: what it means, who answers it, what the caller can do. Served as HTML, and kept as `docs/problems/`.

use std::fmt::Write as _;

use aggregates::Reason;

use super::Code;
use crate::{openapi, policy::Policy, route};

impl Code {
    /// What the caller can do.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Malformed | Self::ValidationFailed | Self::UnsupportedMediaType | Self::TooLarge => {
                "Correct the request; `errors` names each place as a JSON pointer."
            }
            Self::Unauthenticated => "Send `Authorization: Bearer <token>` with a token that has not expired.",
            Self::RouteNotFound | Self::MethodNotAllowed => "See /docs for the routes.",
            Self::IdempotencyKeyReused => "Use a fresh key for another request; keys are remembered for ever.",
            Self::RateLimited | Self::Overloaded | Self::NotAccepted | Self::Unavailable => "Send it again after the time in Retry-After.",
            Self::OutcomeUnknown => "Read the resource in Location, or send the same request with the same Idempotency-Key again.",
            Self::RequestTimeout => "Send it again.",
            Self::Failed | Self::Internal => "Tell the operator, with `commandId` if there is one.",
            Self::Refused(reason) => advice(reason),
        }
    }

    /// Which routes may answer it, in words, for a Markdown list.
    pub fn answered_by(self) -> Vec<String> {
        let all = route::policies();
        let answering: Vec<&Policy> = all.iter().copied().filter(|policy| openapi::codes(policy).contains(&self)).collect();
        let is_command = |policy: &&Policy| policy.command_type().is_some();
        let (commands, queries): (Vec<&Policy>, Vec<&Policy>) = answering.iter().partition(|policy| is_command(policy));
        let every_command = commands.len() == all.iter().filter(|policy| is_command(policy)).count();
        let every_query = queries.len() == all.len() - all.iter().filter(|policy| is_command(policy)).count();
        let mut lines = Vec::new();
        match self {
            Self::RouteNotFound => lines.push("every path without a route".into()),
            Self::MethodNotAllowed => lines.push("every route, for other methods".into()),
            _ if every_command && every_query => lines.push("every route".into()),
            _ => {
                if every_command {
                    lines.push("every command".into());
                }
                let listed = if every_command { &queries } else { &answering };
                lines.extend(listed.iter().map(|policy| named(policy)));
            }
        }
        lines
    }

    /// The page as a file of the repository.
    pub fn markdown(self) -> String {
        let (name, title, status, advice) = (self.name(), self.title(), self.status(), self.advice());
        let mut text = format!(
            "# `{name}`\n\n{title} HTTP status {status}, `type` is `/problems/{name}`.\n\n## What you can do\n\n{advice}\n\n## Who answers it\n\n"
        );
        for line in self.answered_by() {
            let _ = writeln!(text, "- {line}");
        }
        text
    }

    /// The same as it is served.
    pub fn html(self) -> String {
        let (name, title, status) = (self.name(), self.title(), self.status());
        let mut list = String::new();
        for line in self.answered_by() {
            let _ = write!(list, "<li>{}", html(&line));
        }
        format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{name}</title><h1><code>{name}</code></h1><p>{title} HTTP status {status}, \
             <code>type</code> is <code>/problems/{name}</code>.</p><h2>What you can do</h2><p>{}</p><h2>Who answers it</h2><ul>{list}</ul></html>\n",
            html(self.advice())
        )
    }
}

fn named(policy: &Policy) -> String {
    let route = format!("`{} {}`", policy.method.name(), policy.path);
    policy.command_type().map_or_else(|| route.clone(), |command| format!("`{command}`: {route}"))
}

/// Markdown of ours, which knows no more than backticks, as HTML.
fn html(text: &str) -> String {
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let parts = escaped.split('`').enumerate();
    parts.map(|(place, part)| if place % 2 == 1 { format!("<code>{part}</code>") } else { part.to_owned() }).collect()
}

/// What the caller can do about a refusal. Sending it again unchanged gives the same answer until something else has changed.
const fn advice(reason: Reason) -> &'static str {
    match reason {
        Reason::NotFound => "Check the ids: what belongs to another tenant looks like what is not there.",
        Reason::Forbidden => "Ask somebody of the tenant with a higher role.",
        Reason::VersionConflict => "Read it again and repeat the change with the new ETag.",
        Reason::SlugTaken => "Choose another slug. That of a cancelled tenant stays taken.",
        Reason::InvalidTransition => "Read the present state; another step must come first, or none is left.",
        Reason::SamePlan => "Nothing needs to be done.",
        Reason::NotAnUpgrade => "Choose a higher plan; `free` < `starter` < `professional` < `enterprise`.",
        Reason::EmailTaken => "Invite the person instead, or use another address.",
        Reason::LastOwner => "Make somebody else an owner first.",
        Reason::SoftDeletionPeriod => "Wait: deletion is allowed some time after the deactivation, 90 days unless the operator set another.",
        Reason::SeatLimit => "Upgrade the plan, or remove a member first.",
        Reason::UserNotFound => "Check the id, or create the user first.",
        Reason::AlreadyHasRole => "Nothing needs to be done.",
        Reason::DoesNotHaveRole => "Read the member's present role.",
        Reason::AlreadyAMember => "Change the member's role instead.",
        Reason::OwnerRequired => "Ask an owner of the tenant.",
        Reason::OwnRole => "Ask another member with a higher role.",
        Reason::TenantNotActive => "Wait until a platform operator has activated the tenant.",
        Reason::InvitationRequired => "Create an invitation to the person's address.",
        Reason::Expired => "Ask for a new invitation, or send it again with a later end.",
        Reason::InvalidToken => "Use the link of the newest mail; each one ends those before it.",
        Reason::NameTaken => "Choose another name; the case of its letters makes no difference.",
        Reason::NotAMember => "Make the person a member of the tenant first.",
        Reason::HasSubteams => "Delete the teams below it, or put them elsewhere.",
        Reason::ParentCycle => "Choose another team above it: not the team itself, none below it, and not too deep.",
        Reason::TeamFull => "Use another team, or remove somebody or something first; the limits are the operator's.",
        Reason::InvalidState => "Read the invitation's state; create a new one if it has ended.",
        Reason::EmailMismatch => "Sign in with the address the invitation was sent to.",
        Reason::TooManyResends => "Create a new invitation, which ends this one.",
        Reason::SignInRequired => "Sign in with the account of this address, then accept.",
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn every_code_is_answered_by_some_route_and_says_what_to_do() {
        for code in Code::all() {
            assert!(!code.answered_by().is_empty(), "no route answers {}", code.name());
            assert!(code.advice().ends_with('.'), "{}", code.name());
        }
    }

    #[test]
    fn what_is_served_is_what_the_file_says() {
        for code in Code::all() {
            let (markdown, served) = (code.markdown(), code.html());
            for line in code.answered_by().iter().map(String::as_str).chain([code.title(), code.advice()]) {
                assert!(markdown.contains(line) && served.contains(&html(line)), "{}: {line}", code.name());
            }
        }
    }

    /// The text of every source file below a folder, but for this one's folder, which lists all codes.
    fn sources(folder: &Path, text: &mut String) {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                sources(&entry, text);
            } else if !entry.ends_with("problem.rs") && !entry.ends_with("problem/page.rs") && !entry.ends_with("openapi.rs") {
                text.push_str(&fs::read_to_string(entry).unwrap());
            }
        }
    }

    #[test]
    fn every_code_of_ours_is_used_somewhere() {
        let mut text = String::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut text);
        for code in Code::OWN {
            assert!(text.contains(&format!("Code::{code:?}")), "nothing answers {}", code.name());
        }
    }
}

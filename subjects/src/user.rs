//! The users at NATS: each process has its own, named as its role; a consumer's is its durable's name.

/// The HTTP gateways.
pub const GATEWAY: &str = "gateway";
/// The workers.
pub const WORKER: &str = "worker";
/// Who makes the streams, the bucket and the durables, and nobody else does.
pub const PROVISIONER: &str = "provisioner";
/// Who may do everything in the account, and is no process: repair, and looking around.
pub const OPERATOR: &str = "operator";

/// What every inbox of a user begins with.
const INBOX: &str = "_INBOX_";

/// The prefix of a user's inboxes. Nobody else may listen there.
pub fn inbox(user: &str) -> String {
    format!("{INBOX}{user}")
}

/// Whether a subject is some user's inbox: answers go nowhere else, and least of all into a stream.
pub fn is_inbox(subject: &str) -> bool {
    subject.starts_with(INBOX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stream_stores_is_nobodys_inbox() {
        assert!(is_inbox(&format!("{}.abc", inbox(GATEWAY))));
        for subject in ["evt.t.user.created", "cmd.7.t.user.create", "fence.7", "_INBOX.abc", ""] {
            assert!(!is_inbox(subject), "{subject}");
        }
    }
}

//! The users at NATS: each process has its own, named as its role; a consumer's is its durable's name.

/// The HTTP gateways.
pub const GATEWAY: &str = "gateway";
/// The workers.
pub const WORKER: &str = "worker";
/// Who makes the streams, the bucket and the durables, and nobody else does.
pub const PROVISIONER: &str = "provisioner";
/// Who may do everything in the account, and is no process: repair, and looking around.
pub const OPERATOR: &str = "operator";

/// The prefix of a user's inboxes. Nobody else may listen there.
pub fn inbox(user: &str) -> String {
    format!("_INBOX_{user}")
}

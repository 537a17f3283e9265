//! The mails' texts: for each effect a text whose first line is the subject, and the same as HTML.

use std::collections::BTreeMap;

use minijinja::{AutoEscape, Environment, Error, ErrorKind};
use serde_json::{Map, Value};

/// Every template, by name, with its text.
macro_rules! templates {
    ($($effect:literal),* $(,)?) => {
        const TEMPLATES: &[(&str, &str)] = &[
            ("base.html", include_str!("../templates/base.html")),
            $(
                (concat!($effect, ".txt"), include_str!(concat!("../templates/", $effect, ".txt"))),
                (concat!($effect, ".html"), include_str!(concat!("../templates/", $effect, ".html"))),
            )*
        ];
        /// Every effect.
        #[cfg(test)]
        const EFFECTS: &[&str] = &[$($effect),*];
    };
}
templates![
    "user_welcome",
    "profile_updated",
    "user_deactivated",
    "user_deactivated_alert",
    "user_suspended",
    "user_reactivated",
    "user_deleted",
    "tenant_welcome",
    "tenant_suspended",
    "tenant_activated",
    "tenant_cancelled",
    "tenant_plan_upgraded",
    "tenant_sso_configured",
    "tenant_sso_disabled",
    "member_welcome",
    "member_role_changed",
    "member_removed",
    "member_left",
    "team_welcome",
    "invitation",
    "invitation_accepted",
    "invitation_expired",
];

/// How urgently a mail wants to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Criticality {
    Low,
    Medium,
    High,
}

impl Criticality {
    /// As the ledger and the log write it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

/// What a notice is worth.
pub(crate) fn criticality(effect: &str) -> Criticality {
    match effect {
        "user_deactivated_alert"
        | "tenant_suspended"
        | "tenant_cancelled"
        | "tenant_sso_configured"
        | "tenant_sso_disabled"
        | "user_suspended"
        | "user_deleted" => Criticality::High,
        "user_welcome" | "member_welcome" | "tenant_welcome" | "team_welcome" | "profile_updated" | "member_left" => Criticality::Low,
        _ => Criticality::Medium,
    }
}

/// A mail's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rendered {
    pub(crate) subject: String,
    pub(crate) text: String,
    pub(crate) html: String,
}

/// The templates, read once.
pub(crate) struct Templates(Environment<'static>);

impl Templates {
    /// Reads them.
    pub(crate) fn new() -> Result<Self, Error> {
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(|name| if name.ends_with(".html") { AutoEscape::Html } else { AutoEscape::None });
        for (name, text) in TEMPLATES {
            environment.add_template(name, text)?;
        }
        Ok(Self(environment))
    }

    /// Fills in both forms.
    pub(crate) fn render(&self, effect: &str, context: &Map<String, Value>) -> Result<Rendered, Error> {
        let context: BTreeMap<String, minijinja::Value> = context.iter().map(|(name, value)| (name.clone(), plain(value))).collect();
        let whole = self.0.get_template(&format!("{effect}.txt"))?.render(context.clone())?;
        let html = self.0.get_template(&format!("{effect}.html"))?.render(context)?;
        let (subject, text) = whole
            .strip_prefix("Subject: ")
            .and_then(|rest| rest.split_once('\n'))
            .ok_or_else(|| Error::new(ErrorKind::BadSerialization, "the first line is no subject"))?;
        Ok(Rendered { subject: subject.trim().to_owned(), text: text.trim_start().to_owned(), html })
    }
}

/// Contexts are flat: texts, and nothing.
fn plain(value: &Value) -> minijinja::Value {
    match value {
        Value::Null => minijinja::Value::from(()),
        Value::String(text) => minijinja::Value::from(text.as_str()),
        other => minijinja::Value::from(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn context(name: &str) -> Map<String, Value> {
        let Value::Object(context) = json!({
            "service": "Chancery", "name": name, "tenant": "Acme & Sons", "role": "member", "old": "free", "new": "starter", "by": "Bob",
            "reason": "unpaid", "team": "Design", "provider": "Keycloak", "issuer": "https://login.example", "email": "ann@example.com", "expires": "2026-11-29", "link": "https://id.example/invite#token=abc"
        }) else {
            unreachable!()
        };
        context
    }

    #[test]
    fn every_template_fills_in_and_begins_with_a_subject() {
        let templates = Templates::new().unwrap();
        for effect in EFFECTS {
            let mail = templates.render(effect, &context("Ann")).unwrap();
            assert!(!mail.subject.is_empty() && !mail.subject.contains("{{"), "{effect}: {}", mail.subject);
            assert!(mail.text.starts_with("Hello Ann,\n") && mail.html.starts_with("<!doctype html>"), "{effect}: {}", mail.text);
        }
    }

    #[test]
    fn names_are_escaped_in_html_and_only_there() {
        let mail = Templates::new().unwrap().render("member_welcome", &context("<script>")).unwrap();
        assert!(mail.html.contains("Hello &lt;script&gt;,") && mail.html.contains("Acme &amp; Sons"));
        assert!(mail.text.contains("Hello <script>,") && mail.subject == "Welcome to Acme & Sons");
    }

    #[test]
    fn somebody_without_a_known_name_is_greeted_all_the_same() {
        let mut context = context("");
        context.insert("name".into(), Value::Null);
        assert!(Templates::new().unwrap().render("invitation", &context).unwrap().text.starts_with("Hello,\n"));
    }

    #[test]
    fn an_invitation_has_its_link_in_both_forms() {
        let mail = Templates::new().unwrap().render("invitation", &context("Ann")).unwrap();
        assert!(mail.text.contains("\n  https://id.example/invite#token=abc\n"), "{}", mail.text);
        assert!(mail.html.contains("href=\"https:&#x2f;&#x2f;id.example&#x2f;invite#token=abc\""), "{}", mail.html);
    }
}

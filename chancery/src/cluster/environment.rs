//! What Compose puts for variables: the environment, then the file `.env` beside `compose.yaml`.

use std::{collections::BTreeMap, fs, io, path::Path};

use anyhow::Context as _;

/// The variables, as far as they are ours to know.
#[derive(Debug)]
pub(crate) struct Environment {
    file: BTreeMap<String, String>,
    own: Vec<(String, String)>,
}

impl Environment {
    /// Reads `.env` in `folder`; `own` comes before everything else.
    pub(crate) fn read(folder: &Path, own: &[(String, String)]) -> anyhow::Result<Self> {
        let path = folder.join(".env");
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            result => result.with_context(|| format!("reading {}", path.display()))?,
        };
        Ok(Self { file: parse(&text), own: own.to_vec() })
    }

    /// A variable that is set and not empty.
    pub(crate) fn get(&self, name: &str) -> Option<String> {
        let own = self.own.iter().find(|(own, _)| *own == name).map(|(_, value)| value.clone());
        own.or_else(|| std::env::var(name).ok()).or_else(|| self.file.get(name).cloned()).filter(|value| !value.is_empty())
    }

    /// The image of every role.
    pub(crate) fn image(&self) -> String {
        self.get("CHANCERY_IMAGE").unwrap_or_else(|| "chancery:local".into())
    }

    /// The images that Docker must have or be able to fetch.
    pub(crate) fn public_images(&self) -> [String; 3] {
        let or = |name: &str, default: &str| self.get(name).unwrap_or_else(|| default.to_owned());
        ["debian:bookworm-slim".into(), or("CHANCERY_NATS_IMAGE", "nats:2.15-alpine"), or("CHANCERY_POSTGRES_IMAGE", "postgres:17-alpine")]
    }
}

/// `NAME=value` lines; comments and quotes as Compose reads them.
fn parse(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let pairs = lines.filter_map(|line| line.strip_prefix("export ").unwrap_or(line).split_once('='));
    pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().trim_matches(['"', '\'']).to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_variables_is_read_as_compose_reads_it() {
        let read = parse("# ports\nCHANCERY_GATEWAY_1_PORT=9080\nexport A = \"b c\"\n\n#X=1\nE=\n");
        let wanted = [("CHANCERY_GATEWAY_1_PORT", "9080"), ("A", "b c"), ("E", "")];
        assert_eq!(read, wanted.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect());
    }
}

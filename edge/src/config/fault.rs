//! What is wrong with a configuration: all of it, each fault with its place and what would have
//! been right.

use std::fmt;
use std::io;
use std::ops::Range;

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What would have been right; may be empty.
    pub help: String,
    text: String,
    width: usize,
}

/// All faults of one file, in their order there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    /// The file, as it was named.
    pub file: String,
    /// Its faults; never empty.
    pub list: Vec<Fault>,
}

impl Fault {
    pub(super) fn new(source: &str, span: &Range<usize>, message: String, help: String) -> Self {
        let start = floor(source, span.start);
        let before = source.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let text = source
            .get(line_start..)
            .unwrap_or_default()
            .lines()
            .next()
            .unwrap_or_default();
        let marked = source
            .get(start..floor(source, span.end))
            .unwrap_or_default();
        Self {
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
            message,
            help,
            text: text.replace('\t', " "),
            width: marked
                .lines()
                .next()
                .unwrap_or_default()
                .chars()
                .count()
                .max(1),
        }
    }

    /// Nothing of what stands there is shown: it may be a secret.
    pub(super) fn hide(&mut self) {
        self.text = "(not shown: it may hold a secret)".to_owned();
        self.width = 1;
    }
}

fn floor(source: &str, at: usize) -> usize {
    (0..=at.min(source.len()))
        .rev()
        .find(|&at| source.is_char_boundary(at))
        .unwrap_or(0)
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, fault) in self.list.iter().enumerate() {
            let Fault {
                line,
                column,
                message,
                help,
                text,
                width,
            } = fault;
            if place > 0 {
                writeln!(f)?;
            }
            writeln!(f, "{}:{line}:{column}: {message}", self.file)?;
            writeln!(f, "{line:5} | {text}")?;
            // Not by width and precision: those end at 65,535.
            let (indent, mark) = (" ".repeat(column - 1), "^".repeat(*width));
            write!(f, "      | {indent}{mark}")?;
            if !help.is_empty() {
                write!(f, " {help}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Why a file gave no configuration.
#[derive(Debug)]
pub enum Unread {
    /// It could not be read: the file, as it was named, and why.
    File(String, io::Error),
    /// It is at fault.
    Faults(Faults),
}

impl Unread {
    /// Says so in the log: each fault under one name, and what came of them under the other.
    pub(crate) fn tell(&self, each: &'static str, all: &'static str) {
        match self {
            Self::File(file, error) => tracing::error!(file, %error, "{all}"),
            Self::Faults(faults) => {
                let file = &faults.file;
                for fault in &faults.list {
                    let (line, column) = (fault.line, fault.column);
                    let (fault, help) = (&fault.message, &fault.help);
                    tracing::error!(file, line, column, fault, help, "{each}");
                }
                tracing::error!(file, faults = faults.list.len(), "{all}");
            }
        }
    }
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file, error) => write!(f, "{file}: {error}"),
            Self::Faults(faults) => faults.fmt(f),
        }
    }
}

impl std::error::Error for Unread {}

/// The one of `known` that `word` was probably meant to be.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |word: &str| word.to_ascii_lowercase().replace(['-', ' '], "_");
    let word = plain(word);
    let distance = |known: &str| {
        let known = plain(known);
        let whole_part = word.len() >= 3 && (known.contains(&word) || word.contains(&known));
        let edits = strsim::damerau_levenshtein(&word, &known);
        // A word that is part of the other is near, however long the rest.
        if whole_part { edits.min(2) } else { edits }
    };
    let far = (word.chars().count() / 2).clamp(1, 3);
    let near = known.into_iter().map(|known| (distance(known), known));
    near.filter(|&(edits, _)| edits <= far)
        .min_by_key(|&(edits, _)| edits)
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_stands_under_the_word_even_behind_wide_characters() {
        let source = "a = 1\nö = \"ü\" # x\n";
        let start = source.find("\"ü").unwrap();
        let fault = Fault::new(
            source,
            &(start..start + 4),
            "wrong".to_owned(),
            "right".to_owned(),
        );
        let faults = Faults {
            file: "f.toml".to_owned(),
            list: vec![fault],
        };
        assert_eq!(
            faults.to_string(),
            "f.toml:2:5: wrong\n    2 | ö = \"ü\" # x\n      |     ^^^ right"
        );
    }

    #[test]
    fn a_place_outside_the_file_does_no_harm() {
        let fault = Fault::new("ü", &(1..99), String::new(), String::new());
        assert_eq!((fault.line, fault.column), (1, 1));
    }

    #[test]
    fn the_nearest_word_is_found_and_a_far_one_is_not() {
        assert_eq!(nearest("conect", ["connect", "response"]), Some("connect"));
        assert_eq!(
            nearest("per-client", ["per_client", "global"]),
            Some("per_client")
        );
        assert_eq!(
            nearest("client", ["per_client", "global"]),
            Some("per_client")
        );
        assert_eq!(nearest("xyz", ["per_client", "global"]), None);
    }
}

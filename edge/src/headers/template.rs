//! Values of fields with variables in them, as `edge for {client}`.

use std::fmt;

use http::HeaderValue;

/// A value, read once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
    /// The whole value, where nothing in it is a variable.
    whole: Option<HeaderValue>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Variable(Variable),
}

/// What is known of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variable {
    /// The client's address.
    Client,
    /// The request's id.
    Id,
    /// The route's name.
    Route,
    /// The host that was asked for.
    Host,
    /// `http` or `https`.
    Scheme,
    /// The upstream's name.
    Upstream,
}

impl Variable {
    /// All of them, by name.
    pub const ALL: [(&'static str, Self); 6] = [
        ("client", Self::Client),
        ("id", Self::Id),
        ("route", Self::Route),
        ("host", Self::Host),
        ("scheme", Self::Scheme),
        ("upstream", Self::Upstream),
    ];

    /// Does it differ from one client to another?
    pub fn is_of_one(self) -> bool {
        matches!(self, Self::Client | Self::Id)
    }
}

impl Template {
    /// Reads a value; `{{` and `}}` are braces.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let (mut plain, mut left) = (String::new(), text);
        while let Some(at) = left.find(['{', '}']) {
            let (before, rest) = left.split_at(at);
            plain.push_str(before);
            if let Some(after) = rest.strip_prefix("{{").or_else(|| rest.strip_prefix("}}")) {
                plain.extend(rest.chars().next());
                left = after;
                continue;
            }
            let inside = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
            let Some((name, after)) = inside else {
                return Err("a brace stands alone: write `{{` or `}}` for one".to_owned());
            };
            let known = Variable::ALL.into_iter().find(|(own, _)| *own == name);
            let Some((_, variable)) = known else {
                let names: Vec<_> = Variable::ALL
                    .iter()
                    .map(|(name, _)| format!("{{{name}}}"))
                    .collect();
                return Err(format!("`{{{name}}}` is none of {}", names.join(", ")));
            };
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Variable(variable));
            left = after;
        }
        plain.push_str(left);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        let texts = parts.iter().filter_map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            Part::Variable(_) => None,
        });
        if texts
            .clone()
            .any(|text| HeaderValue::from_str(text).is_err())
        {
            return Err("a field holds visible characters and spaces alone".to_owned());
        }
        let plain = parts.iter().all(|part| matches!(part, Part::Text(_)));
        let whole = plain.then(|| HeaderValue::try_from(texts.collect::<String>()).ok());
        Ok(Self {
            whole: whole.flatten(),
            parts,
        })
    }

    /// The variables in it.
    pub fn variables(&self) -> impl Iterator<Item = Variable> {
        self.parts.iter().filter_map(|part| match part {
            Part::Variable(variable) => Some(*variable),
            Part::Text(_) => None,
        })
    }

    /// The value with these in place of its variables; `None` if that is no value of a field.
    pub fn fill(&self, value: impl Fn(Variable) -> String) -> Option<HeaderValue> {
        if self.whole.is_some() {
            return self.whole.clone();
        }
        let filled: String = self
            .parts
            .iter()
            .map(|part| match part {
                Part::Text(text) => text.clone(),
                Part::Variable(variable) => value(*variable),
            })
            .collect();
        HeaderValue::try_from(filled).ok()
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.parts {
            match part {
                Part::Text(text) => f.write_str(&text.replace('{', "{{").replace('}', "}}"))?,
                Part::Variable(variable) => {
                    let named = Variable::ALL.iter().find(|(_, own)| own == variable);
                    write!(f, "{{{}}}", named.map_or("", |(name, _)| name))?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn variables_are_filled_and_braces_stay() {
        let filled = |text: &str| {
            let template = Template::read(text).unwrap();
            let value = template.fill(|variable| format!("<{variable:?}>"));
            value.unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(filled("plain"), "plain");
        assert_eq!(filled("a {client}, {id}{route}"), "a <Client>, <Id><Route>");
        assert_eq!(filled("{{{host}}}"), "{<Host>}");
        assert_eq!(filled(""), "");
        for (bad, said) in [
            ("{clint}", "none of {client}"),
            ("{", "brace"),
            ("a}", "brace"),
            ("a\nb", "visible"),
        ] {
            assert!(Template::read(bad).unwrap_err().contains(said), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(text in "[a{}ch\\n]{0,8}") {
            if let Ok(template) = Template::read(&text) {
                prop_assert_eq!(Template::read(&template.to_string()), Ok(template));
            }
        }
    }
}

//! What the command line changes in a scenario. Changes are made to the scenario as typed, before
//! anything is resolved: they meet the same limits as the file, and their mistakes name the flag.

use toml::de::DeValue;

use super::diagnostic::{Diagnostic, nearest};
use super::node::{Entry, Node, Origin, Value, quoted};

/// Changes, in the order they are made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overrides {
    edits: Vec<Edit>,
}

#[derive(Clone, Debug, PartialEq)]
struct Edit {
    /// The flag as it was typed, with its value.
    flag: String,
    place: Place,
    value: Given,
}

#[derive(Clone, Debug, PartialEq)]
enum Place {
    /// A field, its path in parts.
    Field(Vec<String>),
    /// The rate of the only load.
    OnlyRate,
    /// One more rule.
    Rule,
}

#[derive(Clone, Debug, PartialEq)]
enum Given {
    /// Text, whatever it looks like.
    Text(String),
    /// A TOML value if it is one, text if not: `--set` needs no quotes inside quotes.
    Toml(String),
}

impl Overrides {
    /// Sets a field to a text: `--hsm softhsm`.
    pub fn text(&mut self, flag: &str, field: &str, value: &str) {
        self.push(flag, value, Place::Field(parts(field)), Given::Text(value.to_owned()));
    }

    /// Sets a field to a TOML value: `--replicas 5`, `--ephemeral`.
    pub fn value(&mut self, flag: &str, field: &str, value: &str) {
        self.push(flag, value, Place::Field(parts(field)), Given::Toml(value.to_owned()));
    }

    /// Sets the rate of the only load: `--rate 250/s`.
    pub fn rate(&mut self, flag: &str, value: &str) {
        self.push(flag, value, Place::OnlyRate, Given::Text(value.to_owned()));
    }

    /// Adds a rule: `--slo "recover.response.p99 < 250ms"`.
    pub fn rule(&mut self, flag: &str, rule: &str) {
        self.push(flag, rule, Place::Rule, Given::Text(rule.to_owned()));
    }

    /// Sets any field: `--set load.people.rate=400/s`.
    ///
    /// # Errors
    /// `setting` has no `=`, or a part of its path is empty.
    pub fn set(&mut self, flag: &str, setting: &str) -> Result<(), String> {
        let Some((field, value)) = setting.split_once('=') else {
            return Err(format!("{} has no \"=\"; write FIELD=VALUE", quoted(setting)));
        };
        let field = parts(field.trim());
        if field.iter().any(String::is_empty) {
            return Err(format!("{} names no field; write FIELD=VALUE", quoted(setting)));
        }
        self.push(flag, setting, Place::Field(field), Given::Toml(value.trim().to_owned()));
        Ok(())
    }

    /// Whether nothing is changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }

    /// Makes the changes; those that cannot be made become mistakes.
    pub(super) fn apply(&self, root: &mut Node, mistakes: &mut Vec<Diagnostic>) {
        for edit in &self.edits {
            let origin = Origin::Flag(edit.flag.clone());
            let node = edit.value.node(&origin);
            let made = match &edit.place {
                Place::Field(field) => set(root, field, node),
                Place::OnlyRate => set_only_rate(root, node),
                Place::Rule => add_rule(root, node),
            };
            mistakes.extend(made.err());
        }
    }

    fn push(&mut self, flag: &str, typed: &str, place: Place, value: Given) {
        // A flag without a value of its own (`--ephemeral`) is shown alone.
        let bare = matches!(&value, Given::Toml(value) if value == typed && value == "false");
        let flag = if bare { flag.to_owned() } else { format!("{flag} {typed}") };
        self.edits.push(Edit { flag, place, value });
    }
}

impl Given {
    fn node(&self, origin: &Origin) -> Node {
        let text = match self {
            Self::Text(text) => text,
            Self::Toml(text) => match DeValue::parse(text) {
                Ok(value) => {
                    return Node::from_toml(value.get_ref(), 0..0, &|_| origin.clone());
                }
                Err(_) => text,
            },
        };
        Node { value: Value::Text(text.clone()), origin: origin.clone() }
    }
}

fn parts(field: &str) -> Vec<String> {
    field.split('.').map(|part| part.trim().to_owned()).collect()
}

/// Sets a field. A part that follows a list is a load's name or a place in the list, from 1.
fn set(root: &mut Node, field: &[String], node: Node) -> Result<(), Diagnostic> {
    let origin = node.origin.clone();
    let mut at = root;
    for (depth, part) in field.iter().enumerate() {
        let path = field[..depth].join(".");
        if let Value::List(items) = &mut at.value {
            at = item(items, part).ok_or(()).or_else(|()| Err(missing(&path, &origin)))?;
            continue;
        }
        // `load.people.rate` is short for `load.people.arrival.rate`.
        let short = depth == 2 && field[0] == "load" && part == "rate" && field.len() == 3;
        if short {
            at = at.child_mut("arrival", &origin);
        }
        at = at.child_mut(part, &origin);
    }
    *at = node;
    Ok(())
}

fn missing(_: &str, _: &Origin) -> Diagnostic {
    unreachable!()
}
fn item<'a>(_: &'a mut [Node], _: &str) -> Option<&'a mut Node> {
    None
}
fn set_only_rate(_: &mut Node, _: Node) -> Result<(), Diagnostic> {
    Ok(())
}
fn add_rule(_: &mut Node, _: Node) -> Result<(), Diagnostic> {
    Ok(())
}

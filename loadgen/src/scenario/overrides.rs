//! What the command line changes in a scenario. Changes are made to the scenario as typed, before
//! anything is resolved: they meet the same limits as the file, and their mistakes name the flag.

use std::str::FromStr;

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
    /// A field of a target that is a fleet of processes, whatever the file's target is.
    Fleet(&'static str),
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

/// A field and its new value, as typed: `load.people.rate=400/s`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    typed: String,
    field: Vec<String>,
    value: String,
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(typed: &str) -> Result<Self, String> {
        let Some((field, value)) = typed.split_once('=') else {
            return Err("no \"=\" in it; write FIELD=VALUE".to_owned());
        };
        let field = parts(field);
        if field.iter().any(String::is_empty) {
            return Err("no field before \"=\", or a part of it is empty".to_owned());
        }
        Ok(Self { typed: typed.to_owned(), field, value: value.trim().to_owned() })
    }
}

impl Setting {
    /// The field, its parts joined.
    #[must_use]
    pub fn field(&self) -> String {
        self.field.join(".")
    }

    /// The value as typed.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }

    /// One for each value of a list, `replicas=1,3,5`. Commas inside brackets, braces and quotes are part of a
    /// value.
    #[must_use]
    pub fn each(&self) -> Vec<Self> {
        let (mut depth, mut quoted) = (0_u32, false);
        let parts = self.value.split(|c| {
            match c {
                '"' => quoted = !quoted,
                '[' | '{' if !quoted => depth += 1,
                ']' | '}' if !quoted => depth = depth.saturating_sub(1),
                _ => {}
            }
            c == ',' && depth == 0 && !quoted
        });
        let one = |value: &str| {
            let value = value.trim().to_owned();
            let typed = format!("{}={value}", self.field());
            Self { typed, field: self.field.clone(), value }
        };
        parts.map(one).collect()
    }
}

impl Overrides {
    /// Sets a field to a text: `--hsm softhsm`.
    pub fn text(&mut self, flag: &str, field: &str, value: &str) {
        let place = Place::Field(parts(field));
        self.push(format!("{flag} {value}"), place, Given::Text(value.to_owned()));
    }

    /// Sets a field to a number: `--replicas 5`.
    pub fn number(&mut self, flag: &str, field: &str, value: u64) {
        let place = Place::Field(parts(field));
        self.push(format!("{flag} {value}"), place, Given::Toml(value.to_string()));
    }

    /// Sets a field to false: `--ephemeral`.
    pub fn off(&mut self, flag: &str, field: &str) {
        self.push(flag.to_owned(), Place::Field(parts(field)), Given::Toml("false".to_owned()));
    }

    /// Sets the rate of the only load: `--rate 250/s`.
    pub fn rate(&mut self, flag: &str, value: &str) {
        self.push(format!("{flag} {value}"), Place::OnlyRate, Given::Text(value.to_owned()));
    }

    /// Aims the scenario at a fleet of processes: `--url https://127.0.0.1:8443`. What the file says
    /// of another kind of target no longer holds.
    pub fn url(&mut self, flag: &str, value: &str) {
        self.push(format!("{flag} {value}"), Place::Fleet("url"), Given::Text(value.to_owned()));
    }

    /// The same by the fleet's client file: `--fleet fleet/client.toml`.
    pub fn fleet(&mut self, flag: &str, value: &str) {
        self.push(format!("{flag} {value}"), Place::Fleet("fleet"), Given::Text(value.to_owned()));
    }

    /// Adds a rule: `--slo "recover.response.p99 < 250ms"`.
    pub fn rule(&mut self, flag: &str, rule: &str) {
        self.push(format!("{flag} {rule}"), Place::Rule, Given::Text(rule.to_owned()));
    }

    /// Sets any field: `--set load.people.rate=400/s`.
    pub fn set(&mut self, flag: &str, setting: &Setting) {
        let place = Place::Field(setting.field.clone());
        self.push(format!("{flag} {}", setting.typed), place, Given::Toml(setting.value.clone()));
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
                Place::Fleet(key) => {
                    set_fleet(root, key, node);
                    Ok(())
                }
                Place::Rule => add_rule(root, node),
            };
            mistakes.extend(made.err().map(|mistake| *mistake));
        }
    }

    fn push(&mut self, flag: String, place: Place, value: Given) {
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
fn set(root: &mut Node, field: &[String], node: Node) -> Result<(), Box<Diagnostic>> {
    let origin = node.origin.clone();
    let mut at = root;
    for (depth, part) in field.iter().enumerate() {
        if matches!(at.value, Value::List(_)) {
            at = item(at, &field[..depth], part, &origin)?;
            continue;
        }
        // `load.people.rate` is short for `load.people.arrival.rate`.
        if depth == 2 && field.len() == 3 && field[0] == "load" && part == "rate" {
            at = at.child_mut("arrival", &origin);
        }
        at = at.child_mut(part, &origin);
    }
    *at = node;
    Ok(())
}

/// The item of a list that `part` names.
fn item<'a>(
    list: &'a mut Node,
    path: &[String],
    part: &str,
    origin: &Origin,
) -> Result<&'a mut Node, Box<Diagnostic>> {
    let path = path.join(".");
    let Value::List(items) = &mut list.value else { unreachable!("asked only of lists") };
    let names: Vec<String> = items
        .iter()
        .enumerate()
        .map(|(index, item)| match item.child("name").map(|name| &name.value) {
            Some(Value::Text(name)) => name.clone(),
            _ => (index + 1).to_string(),
        })
        .collect();
    let named = names.iter().position(|name| name == part);
    let numbered = || part.parse::<usize>().ok()?.checked_sub(1);
    let Some(index) = named.or_else(numbered).filter(|index| *index < items.len()) else {
        let message = format!("there is no {} in {path}", quoted(part));
        let mut mistake = Diagnostic::new(Some(origin.clone()), &path, message);
        mistake.seen = Some(quoted(part));
        mistake.suggestion = nearest(part, names.iter().map(String::as_str));
        mistake.allowed = Some(names.join(", "));
        return Err(Box::new(mistake));
    };
    Ok(&mut items[index])
}

fn set_only_rate(root: &mut Node, node: Node) -> Result<(), Box<Diagnostic>> {
    let origin = node.origin.clone();
    // Without a list of loads `resolve` tells what is missing, or what is there in its place.
    let Some(Node { value: Value::List(loads), .. }) = root.child("load") else { return Ok(()) };
    if loads.len() > 1 {
        let names = loads.iter().filter_map(|load| match &load.child("name")?.value {
            Value::Text(name) => Some(format!("--set load.{name}.rate=…")),
            _ => None,
        });
        let message = format!("there are {} loads: which of them?", loads.len());
        let mut mistake = Diagnostic::new(Some(origin), "load", message);
        mistake.allowed = Some(names.collect::<Vec<_>>().join(", "));
        return Err(Box::new(mistake));
    }
    set(root, &parts("load.1.rate"), node)
}

fn set_fleet(root: &mut Node, key: &str, node: Node) {
    let origin = node.origin.clone();
    let target = root.child_mut("target", &origin);
    if let Value::Table(entries) = &mut target.value {
        entries.retain(|entry| matches!(entry.key.as_str(), "url" | "fleet" | "elsewhere"));
    }
    *target.child_mut(key, &origin) = node;
}

fn add_rule(root: &mut Node, node: Node) -> Result<(), Box<Diagnostic>> {
    let origin = node.origin.clone();
    let entry = Entry { key: "rule".to_owned(), origin: origin.clone(), node };
    let rule = Node { value: Value::Table(vec![entry]), origin: origin.clone() };
    if root.child("slo").is_none() {
        *root.child_mut("slo", &origin) =
            Node { value: Value::List(Vec::new()), origin: origin.clone() };
    }
    // Where the file has something else than a list, `resolve` tells of that.
    if let Value::List(rules) = &mut root.child_mut("slo", &origin).value {
        rules.push(rule);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_parted_at_its_own_commas() {
        let check = |typed: &str, expected: &[&str]| {
            let setting: Setting = typed.parse().unwrap();
            let each = setting.each();
            assert_eq!(each.iter().map(Setting::value).collect::<Vec<_>>(), expected);
            assert!(each.iter().all(|one| one.field() == setting.field()));
        };
        check("target.replicas=1, 3,5", &["1", "3", "5"]);
        check("a.b=7", &["7"]);
        check("a=[1,2],[3]", &["[1,2]", "[3]"]);
        check(
            "a={ zipf = 1.1, b = \"]\" },\"uniform,\"",
            &["{ zipf = 1.1, b = \"]\" }", "\"uniform,\""],
        );
        check("a=1,", &["1", ""]);
    }
}

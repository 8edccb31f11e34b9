//! As much of JSON Schema as the server's OpenAPI document uses. A keyword that is not known here fails the test.

use std::collections::BTreeSet;

use serde_json::Value;

/// A document, and which properties of its schemas were seen in values.
pub struct Schemas {
    pub document: Value,
    /// `Schema.property`.
    pub seen: BTreeSet<String>,
}

impl Schemas {
    pub fn new(document: Value) -> Self {
        Schemas { document, seen: BTreeSet::new() }
    }

    /// Every property of every schema that has a name.
    pub fn all_properties(&self) -> BTreeSet<String> {
        let schemas = self.document["components"]["schemas"].as_object().unwrap();
        let of = |(name, schema): (&String, &Value)| -> Vec<String> {
            let properties = schema["properties"].as_object();
            properties.into_iter().flatten().map(|(property, _)| format!("{name}.{property}")).collect()
        };
        schemas.iter().flat_map(of).collect()
    }

    /// What `{"$ref": …}` stands for, or the value itself.
    pub fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(reference) => {
                let found = self.document.pointer(reference.strip_prefix('#').unwrap());
                found.unwrap_or_else(|| panic!("{reference} leads nowhere"))
            }
            None => value,
        }
    }

    /// Holds a value to a schema. Objects may have no other properties than the schema's: a type and its schema have
    /// the same fields.
    pub fn check(&mut self, schema: &Value, value: &Value, place: &str) -> Result<(), String> {
        let name = schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next());
        let name = name.unwrap_or("").to_owned();
        let schema = self.resolve(schema).clone();
        let fail = |what: String| Err(format!("{place}: {value} {what}"));
        if let Some(kind) = schema["type"].as_str()
            && !kinds(value).contains(&kind)
        {
            return fail(format!("is no {kind}"));
        }
        for (keyword, rule) in schema.as_object().unwrap() {
            match keyword.as_str() {
                "type" | "description" | "format" | "properties" => {}
                "enum" if rule.as_array().unwrap().contains(value) => {}
                "enum" => return fail(format!("is none of {rule}")),
                "minimum" if value.as_u64() >= rule.as_u64() => {}
                "maximum" if value.as_u64() <= rule.as_u64() => {}
                "maxLength" if value.as_str().unwrap().chars().count() as u64 <= rule.as_u64().unwrap() => {}
                "maxProperties" if value.as_object().unwrap().len() as u64 <= rule.as_u64().unwrap() => {}
                "minimum" | "maximum" | "maxLength" | "maxProperties" => {
                    return fail(format!("is beyond {keyword} {rule}"));
                }
                "required" => {
                    let missing = rule
                        .as_array()
                        .unwrap()
                        .iter()
                        .find(|key| value.get(key.as_str().unwrap()).is_none());
                    if let Some(missing) = missing {
                        return fail(format!("has no {missing}"));
                    }
                }
                "items" => {
                    for (index, item) in value.as_array().unwrap().iter().enumerate() {
                        self.check(rule, item, &format!("{place}[{index}]"))?;
                    }
                }
                "oneOf" => {
                    let fitting = rule.as_array().unwrap().iter();
                    let fitting = fitting.filter(|rule| self.check(rule, value, place).is_ok()).count();
                    if fitting != 1 {
                        return fail(format!("fits {fitting} of {rule}"));
                    }
                }
                "additionalProperties" => {}
                other => panic!("{place}: the keyword {other} is not known here"),
            }
        }
        let closed = schema["properties"].is_object() || schema["maxProperties"] == 0;
        for (key, member) in value.as_object().into_iter().flatten() {
            let place = format!("{place}.{key}");
            if let Some(rule) = schema["properties"].get(key) {
                self.seen.insert(format!("{name}.{key}"));
                self.check(rule, member, &place)?;
            } else if let Some(rule) = schema.get("additionalProperties") {
                self.check(rule, member, &place)?;
            } else if closed {
                return Err(format!("{place} is not in the schema {name}"));
            }
        }
        Ok(())
    }
}

fn kinds(value: &Value) -> &'static [&'static str] {
    match value {
        Value::Null => &["null"],
        Value::Bool(_) => &["boolean"],
        Value::Number(number) if number.is_f64() => &["number"],
        Value::Number(_) => &["integer", "number"],
        Value::String(_) => &["string"],
        Value::Array(_) => &["array"],
        Value::Object(_) => &["object"],
    }
}

//! Typed reading of a JSON object.
use std::path::Path;

use serde_json::{Map, Value};

use super::error::FileError;

/// A JSON object with errors that name the file and the key. A null is an absent key.
pub struct Fields<'a> {
    pub map: &'a Map<String, Value>,
    pub path: &'a Path,
}

impl<'a> Fields<'a> {
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub fn wrong(&self, key: &str, expected: &str) -> FileError {
        let found: String = self
            .map
            .get(key)
            .map_or(String::new(), Value::to_string)
            .chars()
            .take(60)
            .collect();
        FileError::malformed(
            self.path,
            format!("`{key}` is {found}; expected {expected}"),
        )
    }

    fn absent(&self, key: &str) -> FileError {
        FileError::malformed(self.path, format!("`{key}` is missing"))
    }

    pub fn count(&self, key: &str) -> Result<Option<usize>, FileError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let count = value.as_u64().and_then(|n| usize::try_from(n).ok());
        count
            .map(Some)
            .ok_or_else(|| self.wrong(key, "a whole number >= 0"))
    }

    pub fn required(&self, key: &str) -> Result<usize, FileError> {
        self.count(key)?.ok_or_else(|| self.absent(key))
    }

    pub fn number(&self, key: &str) -> Result<Option<f64>, FileError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        value
            .as_f64()
            .map(Some)
            .ok_or_else(|| self.wrong(key, "a number"))
    }

    pub fn required_number(&self, key: &str) -> Result<f64, FileError> {
        self.number(key)?.ok_or_else(|| self.absent(key))
    }

    pub fn text(&self, key: &str) -> Result<Option<&'a str>, FileError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        value
            .as_str()
            .map(Some)
            .ok_or_else(|| self.wrong(key, "a string"))
    }

    pub fn flag(&self, key: &str) -> Result<bool, FileError> {
        let Some(value) = self.get(key) else {
            return Ok(false);
        };
        value
            .as_bool()
            .ok_or_else(|| self.wrong(key, "true or false"))
    }
}

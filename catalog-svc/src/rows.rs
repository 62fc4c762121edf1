//! The catalogue's shared rows: how they are named, and what they mean to the index.
//!
//! | row | value | who writes it |
//! |---|---|---|
//! | `title/{id}` | [`TitleRow`] | the catalogue that first meets a film |
//! | `name/{id}` | the name | an admin |
//! | `tag/{id}/{user}␟{tag}` | `true` | that user |
//!
//! Neither user names nor tags have control characters, so the unit separator (`␟`, U+001F) is
//! in none of them.

use crate::{
    index::{Index, TitleRow},
    text,
};
use iceflix_core::api::MediaId;
use serde_json::Value;
use std::fmt;

/// Stands between a user and a tag.
const SEPARATOR: char = '\u{1f}';

/// A row's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowKey {
    /// What was first learned of a film.
    Title(MediaId),
    /// What an admin named it.
    Name(MediaId),
    /// That a user put a tag on it.
    Tag {
        /// The film.
        id: MediaId,
        /// Whose tag.
        user: String,
        /// Which.
        tag: String,
    },
}

impl fmt::Display for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Title(id) => write!(f, "title/{id}"),
            Self::Name(id) => write!(f, "name/{id}"),
            Self::Tag { id, user, tag } => write!(f, "tag/{id}/{user}{SEPARATOR}{tag}"),
        }
    }
}

impl RowKey {
    /// Reads a row's name; `None` when it is malformed or a later version's.
    pub fn parse(key: &str) -> Option<Self> {
        let (what, rest) = key.split_once('/')?;
        match what {
            "title" => Some(Self::Title(rest.parse().ok()?)),
            "name" => Some(Self::Name(rest.parse().ok()?)),
            "tag" => {
                let (id, rest) = rest.split_once('/')?;
                let (user, tag) = rest.split_once(SEPARATOR)?;
                // A tag that we would have refused came from elsewhere than a catalogue.
                let (user, tag) = (user.to_owned(), text::tag(tag).filter(|t| t == tag)?);
                let id = id.parse().ok()?;
                Some(Self::Tag { id, user, tag })
            }
            _ => None,
        }
    }
}

/// Tells the index what a row says now (`None`: it was removed). What is malformed is as good as
/// removed.
pub fn apply(index: &mut Index, key: &str, value: Option<Value>) {
    match RowKey::parse(key) {
        Some(RowKey::Title(id)) => {
            let row = value.and_then(|value| serde_json::from_value(value).ok());
            index.title_row(id, row.map(TitleRow::bounded));
        }
        Some(RowKey::Name(id)) => {
            let name = value.as_ref().and_then(Value::as_str);
            index.name_row(id, name.and_then(text::name));
        }
        Some(RowKey::Tag { id, user, tag }) => {
            index.tag_row(&user, id, &tag, value == Some(Value::Bool(true)));
        }
        None => tracing::debug!(key, "a row of another version was passed over"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iceflix_core::api::{PageRequest, catalog::Query};
    use proptest::prelude::*;
    use serde_json::json;

    const ID: MediaId = MediaId::from_bytes([7; 32]);

    #[test]
    fn rows_make_the_catalogue_and_malformed_ones_do_no_harm() {
        let mut index = Index::default();
        let title = json!({ "name": "a\n", "duration_s": 1.5, "size": 3, "format": "MP4" });
        apply(&mut index, &format!("title/{ID}"), Some(title));
        apply(
            &mut index,
            &format!("tag/{ID}/eva\u{1f}x/y"),
            Some(json!(true)),
        );
        for (key, value) in [
            (format!("tag/{ID}/eva\u{1f} "), json!(true)),
            (format!("tag/{ID}/eva\u{1f}z"), json!("yes")),
            (format!("tag/{ID}/eva"), json!(true)),
            (format!("name/{ID}"), json!("\n")),
            (format!("name/{ID}"), json!({ "later": "version" })),
            ("title/7".to_owned(), json!(1)),
            ("rating/7".to_owned(), json!(1)),
            (String::new(), Value::Null),
        ] {
            apply(&mut index, &key, Some(value));
        }
        let all = index.find(&Query::default(), Some("eva"), &PageRequest::first());
        assert_eq!(all.items.len(), 1);
        assert_eq!(all.items[0].name, "a\u{fffd}");
        assert_eq!(all.items[0].tags, ["x/y"]);
        apply(&mut index, &format!("tag/{ID}/eva\u{1f}x/y"), None);
        apply(&mut index, &format!("title/{ID}"), None);
        assert!(index.is_empty());
    }

    proptest! {
        #[test]
        fn names_of_rows_read_back(user in "[^\\p{Cc}]{1,64}", tag in "[^\\p{Cc}]{1,64}") {
            let keys = [RowKey::Title(ID), RowKey::Name(ID)];
            let tag = text::tag(&tag).map(|tag| RowKey::Tag { id: ID, user, tag });
            for key in keys.into_iter().chain(tag) {
                prop_assert_eq!(RowKey::parse(&key.to_string()), Some(key));
            }
        }

        #[test]
        fn no_name_makes_the_parser_panic(key in ".*") {
            let _ = RowKey::parse(&key);
        }
    }
}

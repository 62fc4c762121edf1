//! A typed line taken apart into words, as shells do: quotes group, a backslash takes the next
//! character as it is.

/// A word of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// What it says, without quotes.
    pub text: String,
    /// Where it begins in the line, in bytes; at the quote if it has one.
    pub start: usize,
}

/// Why a line is not words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a quote is not closed")]
pub struct OpenQuote;

/// The words of a whole line.
pub fn split(line: &str) -> Result<Vec<String>, OpenQuote> {
    let (words, open) = scan(line);
    match open {
        true => Err(OpenQuote),
        false => Ok(words.into_iter().map(|word| word.text).collect()),
    }
}

/// The words before the cursor, the last of them being typed and perhaps empty; a quote may
/// still be open.
pub fn before_cursor(line: &str) -> Vec<Word> {
    let (mut words, open) = scan(line);
    let between = line.ends_with(char::is_whitespace) && !line.ends_with("\\ ") && !open;
    if words.is_empty() || between {
        words.push(Word {
            text: String::new(),
            start: line.len(),
        });
    }
    words
}

fn scan(line: &str) -> (Vec<Word>, bool) {
    let mut words = Vec::new();
    let mut word: Option<Word> = None;
    let mut quote = None;
    let mut chars = line.char_indices();
    while let Some((at, c)) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            words.extend(word.take());
            continue;
        }
        let word = word.get_or_insert_with(|| Word {
            text: String::new(),
            start: at,
        });
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            // A backslash means itself between single quotes, and at the line's end.
            (None | Some('"'), '\\') => word.text.push(chars.next().map_or('\\', |(_, next)| next)),
            (_, c) => word.text.push(c),
        }
    }
    words.extend(word);
    (words, quote.is_some())
}

/// A text as one word of a line.
pub fn quote(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_.,:/+@%=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quotes_group() {
        let words = |line| split(line).unwrap();
        assert_eq!(
            words("  rename 1  'Big  Buck' "),
            ["rename", "1", "Big  Buck"]
        );
        assert_eq!(
            words(r#"a"b c"d 'e"f' "g\"h" i\ j '\'"#),
            ["ab cd", "e\"f", "g\"h", "i j", "\\"]
        );
        assert_eq!(words("''"), [""]);
        assert_eq!(words("   "), Vec::<String>::new());
        assert_eq!(
            words("l'\u{e9}t\u{e9}' \u{e9}"),
            ["l\u{e9}t\u{e9}", "\u{e9}"]
        );
        assert_eq!(split("say 'it"), Err(OpenQuote));
        assert_eq!(split("it's"), Err(OpenQuote));
    }

    #[test]
    fn the_word_at_the_cursor_is_the_last() {
        let last = |line| before_cursor(line).pop().unwrap();
        assert_eq!(
            (last("show ab").start, last("show ab").text),
            (5, "ab".into())
        );
        assert_eq!(
            (last("show ").start, last("show ").text),
            (5, String::new())
        );
        let open = last("show \"big b");
        assert_eq!((open.start, open.text), (5, "big b".into()));
        assert_eq!(last("").start, 0);
    }

    proptest! {
        #[test]
        fn what_is_quoted_reads_back(texts in prop::collection::vec("\\PC{0,12}", 0..5)) {
            let line: Vec<String> = texts.iter().map(|text| quote(text)).collect();
            prop_assert_eq!(split(&line.join(" ")).unwrap(), texts);
        }

        #[test]
        fn no_line_upsets_the_splitter(line in ".{0,40}") {
            let _ = split(&line);
            for word in before_cursor(&line) {
                prop_assert!(line.is_char_boundary(word.start));
            }
        }
    }
}

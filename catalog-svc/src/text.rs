//! Texts as people give them: names and tags made valid, and names folded for matching.

use unicode_normalization::UnicodeNormalization;

/// The longest name of a film, in characters.
pub const MAX_NAME: usize = 255;
/// The longest tag, in characters.
pub const MAX_TAG: usize = 64;
/// The most tags in one request.
pub const MAX_TAGS: usize = 100;

/// The form in which names are compared: case, accents and compatibility forms (ligatures, full
/// width) are gone. Folding a folded text changes nothing.
///
/// Only accents of the general kind and the optional vowel points of Hebrew and Arabic are
/// dropped. Other scripts write letters as marks (Devanagari's vowels, the voicing of kana):
/// without those the words would be others.
pub fn fold(text: &str) -> String {
    let mut folded = String::with_capacity(text.len());
    for c in text.nfkd().flat_map(char::to_lowercase) {
        match c {
            _ if is_accent(c) => {}
            // Letters of their own to Unicode, yet typed without when the keyboard lacks them.
            'œ' => folded.push_str("oe"),
            'æ' => folded.push_str("ae"),
            'ß' => folded.push_str("ss"),
            'þ' => folded.push_str("th"),
            'ø' => folded.push('o'),
            'ł' => folded.push('l'),
            'đ' | 'ð' => folded.push('d'),
            'ħ' => folded.push('h'),
            'ŧ' => folded.push('t'),
            'ı' => folded.push('i'),
            // The same letter, at a word's end.
            'ς' => folded.push('σ'),
            _ => folded.push(c),
        }
    }
    folded
}

fn is_accent(c: char) -> bool {
    matches!(c,
        '\u{300}'..='\u{36f}' | '\u{1ab0}'..='\u{1aff}' | '\u{1dc0}'..='\u{1dff}'
        | '\u{20d0}'..='\u{20ff}' | '\u{fe20}'..='\u{fe2f}'
        // Hebrew points, without the punctuation between them.
        | '\u{591}'..='\u{5bd}' | '\u{5bf}' | '\u{5c1}' | '\u{5c2}' | '\u{5c4}' | '\u{5c5}' | '\u{5c7}'
        // Arabic vowels.
        | '\u{64b}'..='\u{65f}' | '\u{670}')
}

/// A name that an admin gives: NFC, without white space at its ends. `None` when it is not 1 to
/// [`MAX_NAME`] characters or has control characters.
pub fn name(text: &str) -> Option<String> {
    normal(text, MAX_NAME)
}

/// A tag: NFC, without white space at its ends. Otherwise tags are kept and compared as they were
/// typed, upper and lower case being different. `None` when it is not 1 to [`MAX_TAG`] characters
/// or has control characters.
pub fn tag(text: &str) -> Option<String> {
    normal(text, MAX_TAG)
}

/// The tags of a request, each once. `None` when one is not a tag or there are over [`MAX_TAGS`].
pub fn tags(texts: &[String]) -> Option<Vec<String>> {
    if texts.len() > MAX_TAGS {
        return None;
    }
    let mut tags: Vec<String> = texts.iter().map(|text| tag(text)).collect::<Option<_>>()?;
    tags.sort_unstable();
    tags.dedup();
    Some(tags)
}

fn normal(text: &str, most: usize) -> Option<String> {
    // Composing makes a text shorter by a small factor at most: do no work for what is absurd.
    if text.len() > 64 * most {
        return None;
    }
    let normal: String = text.trim().nfc().collect();
    let fits = !normal.is_empty() && normal.chars().count() <= most;
    (fits && !normal.contains(char::is_control)).then_some(normal)
}

/// A text that a node announced, fit to be shown: at most `most` characters, control characters
/// replaced. What people gave is refused instead; a file's name cannot be.
pub fn shown(text: &str, most: usize) -> String {
    let plain = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().take(most).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn case_and_accents_do_not_matter() {
        for (a, b) in [
            ("Amélie", "AMELIE"),
            ("Cœur", "coeur"),
            ("Łódź", "lodz"),
            ("Smørrebrød", "SMORREBROD"),
            ("Straße", "STRASSE"),
            ("GROẞ", "gross"),
            ("Ænima", "aenima"),
            ("Đorđe", "dorde"),
            ("Þór", "thor"),
            ("Iğdır", "igdir"),
            ("İstanbul", "istanbul"),
            ("Ὀδυσσεύς", "ΟΔΥΣΣΕΥΣ"),
            ("ﬁlm", "film"),
            ("Ｆｉｌｍ", "film"),
            ("e\u{301}te\u{301}", "été"),
        ] {
            assert_eq!(fold(a), fold(b), "{a} {b}");
        }
    }

    #[test]
    fn letters_written_as_marks_stay() {
        assert_ne!(fold("कि"), fold("का"));
        assert_ne!(fold("が"), fold("か"));
    }

    #[test]
    fn names_and_tags_are_made_normal_or_refused() {
        assert_eq!(name(" e\u{301}te\u{301} "), Some("été".to_owned()));
        assert_eq!(name(" "), None);
        assert_eq!(name("a\nb"), None);
        assert_eq!(name(&"é".repeat(255)), Some("é".repeat(255)));
        assert_eq!(name(&"é".repeat(256)), None);
        assert_eq!(name(&" ".repeat(1 << 20)), None);
        assert_eq!(tag(&"x".repeat(65)), None);
        assert_eq!(tag("Sci-Fi"), Some("Sci-Fi".to_owned()));
        let text = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        assert_eq!(tags(&text(&["b", "a", " b"])), Some(text(&["a", "b"])));
        assert_eq!(tags(&text(&["b", ""])), None);
        assert!(tags(&vec!["a".to_owned(); 100]).is_some());
        assert_eq!(tags(&vec!["a".to_owned(); 101]), None);
    }

    #[test]
    fn shown_texts_have_no_control_characters_and_an_end() {
        assert_eq!(shown("a\u{1b}[2J", 255), "a\u{fffd}[2J");
        assert_eq!(shown("äöü", 2), "äö");
    }

    proptest! {
        #[test]
        fn folding_twice_is_folding_once(text in "\\PC{0,40}") {
            let once = fold(&text);
            prop_assert_eq!(fold(&once), once);
        }

        #[test]
        fn a_normal_text_is_normal(text in "\\PC{0,300}") {
            if let Some(once) = name(&text) {
                prop_assert_eq!(name(&once), Some(once));
            }
        }
    }

    #[test]
    fn every_character_folds_for_good() {
        for c in '\0'..=char::MAX {
            let once = fold(&c.to_string());
            assert_eq!(fold(&once), once, "{c:?}");
        }
    }
}

//! Decoding of text files whose encoding is undeclared or declared inside: as Python (PEP 263) and pip read them.

use std::borrow::Cow;

/// Returns the bytes of a Python file that arrived as text. If it declares another encoding than UTF-8, with which
/// Python would then decode the bytes, the declaration becomes `utf-8`; nothing else changes.
pub fn python_from_text(text: String) -> Vec<u8> {
    match declared(text.as_bytes()) {
        Some(name) if !is_utf8(&text.as_bytes()[name.clone()]) => {
            let mut bytes = text.into_bytes();
            bytes.splice(name, *b"utf-8");
            bytes
        }
        _ => text.into_bytes(),
    }
}

/// Whether Python reads these bytes as UTF-8: a declaration of another encoding takes precedence over their form.
pub fn is_python_in_utf8(content: &[u8]) -> bool {
    std::str::from_utf8(content).is_ok() && declared(content).is_none_or(|name| is_utf8(&content[name]))
}

/// Decodes a requirements file: with the encoding of its byte order mark, else UTF-8. With another declared encoding
/// only ASCII is decoded, which suffices for requirements; other characters in its comments are replaced.
pub fn decode(content: &[u8]) -> Result<Cow<'_, str>, String> {
    let utf16 = |rest: &[u8], unit: fn([u8; 2]) -> u16| {
        let (units, []) = rest.as_chunks() else { return Err("ends in the middle of a character".to_owned()) };
        let text = char::decode_utf16(units.iter().map(|pair| unit(*pair))).collect::<Result<String, _>>();
        text.map(Cow::Owned).map_err(|_| "is not UTF-16, although it begins with its byte order mark".to_owned())
    };
    let utf32 = |rest: &[u8], unit: fn([u8; 4]) -> u32| {
        let (units, []) = rest.as_chunks() else { return Err("ends in the middle of a character".to_owned()) };
        let text = units.iter().map(|four| char::from_u32(unit(*four))).collect::<Option<String>>();
        text.map(Cow::Owned).ok_or_else(|| "is not UTF-32, although it begins with its byte order mark".to_owned())
    };
    match content {
        [0xff, 0xfe, 0, 0, rest @ ..] => utf32(rest, u32::from_le_bytes),
        [0, 0, 0xfe, 0xff, rest @ ..] => utf32(rest, u32::from_be_bytes),
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] => utf8(rest),
        _ if declared(content).is_some() => Ok(String::from_utf8_lossy(content)),
        _ => utf8(content),
    }
}

fn utf8(content: &[u8]) -> Result<Cow<'_, str>, String> {
    std::str::from_utf8(content).map(Cow::Borrowed).map_err(|e| {
        let line = content[..e.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("line {line} is not UTF-8; save the file as UTF-8, or with a byte order mark")
    })
}

/// Returns the position of the encoding's name that one of the first two lines declares. The second counts only if the
/// first is a comment or blank.
fn declared(content: &[u8]) -> Option<std::ops::Range<usize>> {
    let mut start = if content.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    for line in content[start..].split(|byte| *byte == b'\n').take(2) {
        let blank = line.trim_ascii_start();
        match blank.first() {
            Some(b'#') => {
                if let Some(name) = name_in(line) {
                    return Some(start + name.start..start + name.end);
                }
            }
            Some(_) => return None,
            None => {}
        }
        start += line.len() + 1;
    }
    None
}

/// Finds the name as in PEP 263: `coding`, then `:` or `=`, blanks, and the name.
fn name_in(line: &[u8]) -> Option<std::ops::Range<usize>> {
    const WORD: &[u8] = b"coding";
    let inside = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    line.windows(WORD.len() + 1).enumerate().find_map(|(at, window)| {
        let (word, sign) = window.split_at(WORD.len());
        if word != WORD || !matches!(sign, b":" | b"=") {
            return None;
        }
        let after = at + window.len();
        let begin = after + line[after..].iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        let end = begin + line[begin..].iter().take_while(|byte| inside(byte)).count();
        (end > begin).then_some(begin..end)
    })
}

/// Whether the name denotes UTF-8 in Python.
fn is_utf8(name: &[u8]) -> bool {
    let name = name.to_ascii_lowercase();
    let name: Vec<u8> = name.into_iter().map(|byte| if byte == b'_' { b'-' } else { byte }).collect();
    name == b"utf8" || name == b"utf-8" || name.starts_with(b"utf-8-") || name == b"u8" || name == b"cp65001"
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sent(text: &str) -> String {
        String::from_utf8(python_from_text(text.to_owned())).unwrap()
    }

    #[test]
    fn a_declared_encoding_does_not_change_text() {
        for (text, want) in [
            ("# -*- coding: latin-1 -*-\nx = 'é'\n", "# -*- coding: utf-8 -*-\nx = 'é'\n"),
            (
                "#!/usr/bin/env python3\n# vim: set fileencoding=iso-8859-15 :\n'€'",
                "#!/usr/bin/env python3\n# vim: set fileencoding=utf-8 :\n'€'",
            ),
            ("\u{feff}# coding=cp1252\r\n'é'", "\u{feff}# coding=utf-8\r\n'é'"),
            ("# coding: mbcs\nx = 'e'\n", "# coding: utf-8\nx = 'e'\n"),
            ("# coding: utf-7\nx = 'a+AOk-'\n", "# coding: utf-8\nx = 'a+AOk-'\n"),
            ("\n# coding:ascii\n'é'", "\n# coding:utf-8\n'é'"),
        ] {
            assert_eq!(sent(text), want);
        }
        for kept in [
            "# coding: UTF8\nx = 'é'\n",
            "x = 1\n# coding: latin-1\n'é'",
            "\n\n# coding: latin-1\n'é'",
            "x = 'é' # coding: latin-1",
            "# coding:\n'é'",
        ] {
            assert_eq!(sent(kept), kept);
        }
    }

    #[test]
    fn python_reads_a_declared_encoding_whatever_the_bytes_look_like() {
        assert!(is_python_in_utf8("x = 'é'".as_bytes()));
        assert!(is_python_in_utf8("# coding: utf-8\n'é'".as_bytes()));
        assert!(!is_python_in_utf8("# coding: latin-1\n'é'".as_bytes()));
        assert!(!is_python_in_utf8(b"x = '\xe9'"));
    }

    #[test]
    fn requirements_are_read_by_their_byte_order_mark() {
        let text = "six\r\n# é\u{1f40d}\n";
        let units: Vec<u16> = text.encode_utf16().collect();
        let little = units.iter().flat_map(|unit| unit.to_le_bytes());
        let big = units.iter().flat_map(|unit| unit.to_be_bytes());
        let wide = text.chars().flat_map(|c| u32::from(c).to_le_bytes());
        for content in [
            text.as_bytes().to_vec(),
            [&b"\xef\xbb\xbf"[..], text.as_bytes()].concat(),
            b"\xff\xfe".iter().copied().chain(little).collect(),
            b"\xfe\xff".iter().copied().chain(big).collect(),
            b"\xff\xfe\0\0".iter().copied().chain(wide).collect(),
        ] {
            assert_eq!(decode(&content).unwrap(), text);
        }
        assert_eq!(decode(b"# coding: latin-1\nsix # \xe9\n").unwrap(), "# coding: latin-1\nsix # \u{fffd}\n");
        for (broken, why) in
            [(&b"six\n\xe9"[..], "line 2 is not UTF-8"), (b"\xff\xfea", "middle"), (b"\xff\xfe\0\xd8", "UTF-16")]
        {
            assert!(decode(broken).unwrap_err().contains(why));
        }
    }
}

//! A long list, one record at a time: OSM's answer is cut into the items of its array as it arrives, so that a list of any
//! length costs the memory of its longest record. Tests: below.

/// Longest record, bytes: a network service with its descriptors is some 50 KiB.
const MAX_RECORD: usize = 8 << 20;

/// Cuts the items out of one JSON array.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    item: Vec<u8>,
    depth: u32,
    text: bool,
    escaped: bool,
    began: bool,
    ended: bool,
}

/// What arrives is no array, or has an item that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unlisted {
    #[error("it is no list")]
    NoList,
    #[error("a record has more than {MAX_RECORD} bytes")]
    TooLong,
}

impl Splitter {
    /// The items that are whole now.
    pub(crate) fn push(&mut self, piece: &[u8]) -> Result<Vec<Vec<u8>>, Unlisted> {
        let mut out = Vec::new();
        for &byte in piece {
            self.byte(byte, &mut out)?;
        }
        Ok(out)
    }

    /// Did the array end?
    pub(crate) fn is_whole(&self) -> bool {
        self.ended
    }

    fn byte(&mut self, byte: u8, out: &mut Vec<Vec<u8>>) -> Result<(), Unlisted> {
        if !self.began || self.ended {
            return match byte {
                b' ' | b'\t' | b'\r' | b'\n' => Ok(()),
                b'[' if !self.began => {
                    self.began = true;
                    Ok(())
                }
                _ => Err(Unlisted::NoList),
            };
        }
        if self.text {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.text = false,
                _ => {}
            }
        } else {
            match byte {
                b'"' => self.text = true,
                b'{' | b'[' => self.depth += 1,
                b']' | b',' if self.depth == 0 => {
                    self.ended = byte == b']';
                    self.cut(out);
                    return Ok(());
                }
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
        if self.item.len() >= MAX_RECORD {
            return Err(Unlisted::TooLong);
        }
        self.item.push(byte);
        Ok(())
    }

    fn cut(&mut self, out: &mut Vec<Vec<u8>>) {
        let item = std::mem::take(&mut self.item);
        if !item.iter().all(u8::is_ascii_whitespace) {
            out.push(item);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn cut(text: &str, at: usize) -> Result<Vec<Value>, Unlisted> {
        let mut splitter = Splitter::default();
        let mut out = Vec::new();
        for piece in text.as_bytes().chunks(at.max(1)) {
            out.extend(splitter.push(piece)?.iter().map(|i| serde_json::from_slice(i).unwrap()));
        }
        assert!(splitter.is_whole());
        Ok(out)
    }

    #[test]
    fn what_is_no_list_is_told() {
        assert_eq!(cut("{}", 1).unwrap_err(), Unlisted::NoList);
        assert_eq!(Splitter::default().push(b"[1] 2").unwrap_err(), Unlisted::NoList);
        assert_eq!(cut(" [ ] ", 1).unwrap(), Vec::<Value>::new());
        let mut long = Splitter::default();
        let text = [b"[\"".as_slice(), &vec![b'a'; MAX_RECORD]].concat();
        assert_eq!(long.push(&text).unwrap_err(), Unlisted::TooLong);
    }

    proptest! {
        #[test]
        fn a_list_is_the_same_however_it_arrives(
            texts in proptest::collection::vec("[\\[\\]{},\"\\\\ a:é]{0,12}", 0..6),
            at in 1..40usize,
            pretty in any::<bool>(),
        ) {
            let list: Vec<Value> = texts.iter().map(|t| json!({ "t": t, "l": [t, { t.as_str(): [] }], "n": 1 })).collect();
            let text = if pretty { serde_json::to_string_pretty(&list) } else { serde_json::to_string(&list) }.unwrap();
            prop_assert_eq!(cut(&text, at).unwrap(), list);
        }
    }
}

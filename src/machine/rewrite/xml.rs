//! Replacing parts of an XML text: what is not replaced stays to the letter, comments and blanks included.
//!
//! The text was read by the bounded parser (`machine::xml`) before; here only positions are taken from it.

use quick_xml::Reader;
use quick_xml::escape::escape;
use quick_xml::events::{BytesStart, Event};

/// What becomes of an element.
pub(super) enum Edit {
    /// It stays, and what is inside is looked at.
    Keep,
    /// Another start tag, without the angle brackets; what is inside is looked at.
    Tag(String),
    /// This text stands for all of it.
    Whole(String),
}

/// An element that an edit is asked for.
pub(super) struct Found<'t, 'p> {
    /// Local names from the outermost element to this one.
    pub(super) path: &'p [String],
    /// Its start tag.
    pub(super) tag: &'p BytesStart<'t>,
    /// All of its text, from the start tag to the end tag.
    pub(super) text: &'t str,
}

impl Found<'_, '_> {
    /// Whether these names lead to it.
    pub(super) fn is_at(&self, names: &[&str]) -> bool {
        self.path.len() == names.len() && self.path.iter().zip(names).all(|(own, name)| own == name)
    }

    /// Its tag with other values for some attributes, or without them; those that are new come last.
    pub(super) fn with_attributes(&self, changes: &[(&str, Option<&str>)]) -> String {
        let mut tag = self.tag.name().as_ref().to_string();
        let changed = |name: &str| changes.iter().find(|(changed, _)| *changed == name);
        let mut done = Vec::new();
        for attribute in self.tag.attributes().with_checks(false).flatten() {
            let local = attribute.key.local_name();
            let local: &str = local.as_ref();
            match changed(local) {
                Some((name, value)) => {
                    done.push(*name);
                    if let Some(value) = value {
                        tag.push_str(&format!(" {}=\"{}\"", attribute.key.as_ref(), escape(*value)));
                    }
                }
                None => {
                    let quote = if attribute.value.contains('"') { '\'' } else { '"' };
                    tag.push_str(&format!(" {}={quote}{}{quote}", attribute.key.as_ref(), attribute.value));
                }
            }
        }
        for (name, value) in changes.iter().filter(|(name, _)| !done.contains(name)) {
            if let Some(value) = value {
                tag.push_str(&format!(" {name}=\"{}\"", escape(*value)));
            }
        }
        tag
    }
}

/// Asks `decide` for every element, outermost first; `None` if the text is no well-formed XML.
pub(super) fn edited(text: &str, mut decide: impl FnMut(&Found<'_, '_>) -> Edit) -> Option<String> {
    let mut reader = Reader::from_str(text);
    let (mut path, mut out, mut copied) = (Vec::new(), String::with_capacity(text.len()), 0);
    loop {
        let from = usize::try_from(reader.buffer_position()).ok()?;
        let event = reader.read_event().ok()?;
        let to = usize::try_from(reader.buffer_position()).ok()?;
        let (tag, is_empty) = match event {
            Event::Start(tag) => (tag, false),
            Event::Empty(tag) => (tag, true),
            Event::End(_) => {
                path.pop();
                continue;
            }
            Event::Eof => break,
            _ => continue,
        };
        path.push(String::from(tag.local_name().as_ref()));
        let end = if is_empty { to } else { end_of_element(text, to)? };
        let edit = decide(&Found { path: &path, tag: &tag, text: text.get(from..end)? });
        match edit {
            Edit::Keep => {}
            Edit::Tag(new) => {
                out.push_str(text.get(copied..from)?);
                out.push_str(&format!("<{new}{}>", if is_empty { "/" } else { "" }));
                copied = to;
            }
            Edit::Whole(new) => {
                out.push_str(text.get(copied..from)?);
                out.push_str(&new);
                copied = end;
                if !is_empty {
                    reader.read_to_end(tag.name()).ok()?;
                }
                path.pop();
                continue;
            }
        }
        if is_empty {
            path.pop();
        }
    }
    out.push_str(text.get(copied..)?);
    Some(out)
}

/// Where the element ends whose start tag ends at `after`.
fn end_of_element(text: &str, after: usize) -> Option<usize> {
    let mut reader = Reader::from_str(text.get(after..)?);
    reader.config_mut().check_end_names = false;
    reader.config_mut().allow_unmatched_ends = true;
    let mut depth = 1;
    while depth > 0 {
        match reader.read_event().ok()? {
            Event::Start(_) => depth += 1,
            Event::End(_) => depth -= 1,
            Event::Eof => return None,
            _ => {}
        }
    }
    after.checked_add(usize::try_from(reader.buffer_position()).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_stays_to_the_letter() {
        let text = "<?xml version='1.0'?>\n<a  x='1'>\n <!-- <b> --><b y = '\"'/><b/>&amp;<c><b>in</b></c>\n</a>\n";
        assert_eq!(edited(text, |_| Edit::Keep).as_deref(), Some(text));
        let found = edited(text, |found| match found.is_at(&["a", "b"]) {
            true => Edit::Tag(found.with_attributes(&[("z", Some("<2>"))])),
            false => Edit::Keep,
        });
        let expected = "<?xml version='1.0'?>\n<a  x='1'>\n <!-- <b> --><b y='\"' z=\"&lt;2&gt;\"/><b z=\"&lt;2&gt;\"/>&amp;\
                        <c><b>in</b></c>\n</a>\n";
        assert_eq!(found.as_deref(), Some(expected));
        let found = edited(text, |found| match found.is_at(&["a", "c"]) {
            true => Edit::Whole(format!("[{}]", found.text)),
            false => Edit::Keep,
        });
        assert_eq!(found.unwrap(), text.replace("<c><b>in</b></c>", "[<c><b>in</b></c>]"));
        for broken in ["<a>", "<a></b>", "<a"] {
            assert_eq!(edited(broken, |_| Edit::Keep), None, "{broken}");
        }
    }
}

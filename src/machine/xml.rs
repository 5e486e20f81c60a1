//! XML definitions (libvirt, VirtualBox, Hyper-V, OVF): text → a tree of elements, bounded in every direction.
//!
//! In here: encodings, well-formedness, limits. Not in here: what any element means.
//!
//! Names lose their prefixes: definitions differ in the prefixes they choose, and none of them uses one local name in two
//! senses at one place. A document type is refused, so that no entity but XML's own five exists; nothing is ever expanded
//! beyond the length of the file.

use std::path::Path;

use quick_xml::Reader;
use quick_xml::escape::unescape;
use quick_xml::events::{BytesStart, Event};

use super::error::{MachineError, shown};

/// Most elements and attributes together; a VirtualBox machine with 250 snapshots has some 20,000. Bounds the memory of
/// the tree.
const NODES_MAX: u64 = 1 << 18;
/// Deepest nesting: VirtualBox nests each snapshot two deeper than its parent and allows 250. Readers may recurse.
const DEPTH_MAX: u64 = 600;
/// How much of a file is looked at to see what it is: libvirt puts a comment before the first element, Proxmox VE the
/// admin's notes, percent-encoded, before the first key.
pub(super) const HEAD_BYTES: u64 = 64 << 10;

/// An element with all below it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Element {
    /// Its name, without a prefix.
    pub(super) name: String,
    /// Attributes in their order, names without prefixes.
    attributes: Vec<(String, String)>,
    /// Its own character data, without that of its children.
    text: String,
    /// The elements directly inside.
    pub(super) children: Vec<Element>,
}

impl Element {
    /// The value of an attribute.
    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// Its text without the blanks around it.
    pub(super) fn text(&self) -> &str {
        self.text.trim()
    }

    /// The first child of that name.
    pub(super) fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    /// All children of that name.
    pub(super) fn children(&self, name: &str) -> impl Iterator<Item = &Element> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The element that a path of names leads to, by the first child of each name.
    pub(super) fn at(&self, path: &[&str]) -> Option<&Element> {
        path.iter().try_fold(self, |element, name| element.child(name))
    }

    /// The text at a path, if there is any.
    pub(super) fn text_at(&self, path: &[&str]) -> Option<&str> {
        self.at(path).map(Element::text).filter(|text| !text.is_empty())
    }
}

/// The one element of a whole document; `file` is for the errors.
pub(super) fn parse(file: &Path, bytes: &[u8]) -> Result<Element, MachineError> {
    let text = decode(bytes).ok_or_else(|| MachineError::Syntax {
        file: file.to_path_buf(),
        line: 1,
        expected: "text in UTF-8 or UTF-16",
        found: shown(&String::from_utf8_lossy(bytes.get(..80).unwrap_or(bytes))),
    })?;
    Parser { file, text: &text, nodes: 0 }.document()
}

/// The name of the first element, as far as the beginning of a file tells; `None` if that is no XML.
pub(super) fn first_name(head: &[u8]) -> Option<String> {
    let text = decode(head)?;
    let mut reader = Reader::from_str(&text);
    loop {
        match reader.read_event().ok()? {
            Event::Start(start) | Event::Empty(start) => return Some(local(&start)),
            Event::Decl(_) | Event::PI(_) | Event::Comment(_) => {}
            Event::Text(text) if text.chars().all(char::is_whitespace) => {}
            _ => return None,
        }
    }
}

/// UTF-16 by its byte order mark, else UTF-8. A character that the end of a head cut in two is left out.
fn decode(bytes: &[u8]) -> Option<String> {
    let units = |bytes: &[u8], of: fn([u8; 2]) -> u16| -> Vec<u16> {
        bytes.as_chunks::<2>().0.iter().map(|pair| of(*pair)).collect()
    };
    match bytes {
        [0xff, 0xfe, rest @ ..] => String::from_utf16(&units(rest, u16::from_le_bytes)).ok(),
        [0xfe, 0xff, rest @ ..] => String::from_utf16(&units(rest, u16::from_be_bytes)).ok(),
        _ => {
            let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
            match std::str::from_utf8(bytes) {
                Ok(text) => Some(text.to_owned()),
                Err(cut) if cut.error_len().is_none() => {
                    bytes.get(..cut.valid_up_to()).map(|valid| String::from_utf8_lossy(valid).into_owned())
                }
                Err(_) => None,
            }
        }
    }
}

fn local(start: &BytesStart<'_>) -> String {
    String::from(start.local_name().as_ref())
}

struct Parser<'t> {
    file: &'t Path,
    text: &'t str,
    nodes: u64,
}

impl Parser<'_> {
    fn document(mut self) -> Result<Element, MachineError> {
        let mut reader = Reader::from_str(self.text);
        // Elements that are open, outermost first; the first stands for the document.
        let mut open = vec![Element::default()];
        loop {
            let at = reader.buffer_position();
            let event = reader
                .read_event()
                .map_err(|error| self.wrong(reader.error_position(), "well-formed XML", &error.to_string()))?;
            let top = open.last_mut().expect("the document itself is never closed");
            match event {
                Event::Start(start) => {
                    let element = self.element(&start, at)?;
                    open.push(element);
                    self.limit("nesting of elements", DEPTH_MAX, open.len() as u64)?;
                }
                Event::Empty(start) => top.children.push(self.element(&start, at)?),
                Event::End(_) => {
                    // The reader has compared the names of start and end.
                    let done = open.pop().expect("the reader closes only what is open");
                    let Some(parent) = open.last_mut() else {
                        return Err(self.wrong(at, "an open element", "an end"));
                    };
                    parent.children.push(done);
                }
                Event::Text(text) => top.text.push_str(&text.xml10_content()),
                Event::CData(data) => top.text.push_str(&data.xml10_content()),
                Event::GeneralRef(reference) => {
                    let written = format!("&{};", &*reference.xml10_content());
                    match unescape(&written) {
                        Ok(text) => top.text.push_str(&text),
                        Err(_) => return Err(self.wrong(at, "one of XML's own entities", &written)),
                    }
                }
                Event::DocType(_) => return Err(self.wrong(at, "no document type", "<!DOCTYPE")),
                Event::Decl(_) | Event::PI(_) | Event::Comment(_) => {}
                Event::Eof => break,
            }
        }
        let [mut document] = <[Element; 1]>::try_from(open)
            .map_err(|open| self.wrong(self.text.len() as u64, "the end of an element", &open[open.len() - 1].name))?;
        match (document.children.len(), document.text().is_empty()) {
            (1, true) => Ok(document.children.remove(0)),
            _ => Err(self.wrong(0, "one XML element", document.text())),
        }
    }

    fn element(&mut self, start: &BytesStart<'_>, at: u64) -> Result<Element, MachineError> {
        self.count()?;
        let mut attributes = Vec::new();
        // The reader's own search for attributes given twice would take time with the square of their number.
        for attribute in start.attributes().with_checks(false) {
            self.count()?;
            let attribute = attribute.map_err(|error| self.wrong(at, "attribute=\"value\"", &error.to_string()))?;
            let value = unescape(&attribute.value)
                .map_err(|_| self.wrong(at, "one of XML's own entities", &attribute.value))?;
            attributes.push((String::from(attribute.key.local_name().as_ref()), value.into_owned()));
        }
        Ok(Element { name: local(start), attributes, ..Element::default() })
    }

    fn count(&mut self) -> Result<(), MachineError> {
        self.nodes += 1;
        self.limit("elements and attributes", NODES_MAX, self.nodes)
    }

    fn limit(&self, what: &'static str, max: u64, found: u64) -> Result<(), MachineError> {
        if found <= max {
            return Ok(());
        }
        Err(MachineError::TooMuch { path: self.file.to_path_buf(), what, max, found })
    }

    fn wrong(&self, at: u64, expected: &'static str, found: &str) -> MachineError {
        let before = usize::try_from(at).ok().and_then(|at| self.text.as_bytes().get(..at));
        let before = before.unwrap_or(self.text.as_bytes());
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        MachineError::Syntax { file: self.file.to_path_buf(), line, expected, found: shown(found) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: impl AsRef<[u8]>) -> Result<Element, String> {
        parse(Path::new("t.xml"), text.as_ref()).map_err(|error| error.to_string())
    }

    #[test]
    fn elements_attributes_and_text() {
        let root = read(
            "<?xml version='1.0' encoding=\"UTF-8\"?>\n<!-- by hand -->\n<a xmlns:q='urn:q' q:x='1 &amp; 2' y=\"\"> \
             t<b>&lt;&#65;&#x42;</b>u <q:b z='3'/><![CDATA[<v>]]></a>\n",
        )
        .unwrap();
        assert_eq!((root.name.as_str(), root.text()), ("a", "tu <v>"));
        assert_eq!((root.attribute("x"), root.attribute("y"), root.attribute("n")), (Some("1 & 2"), Some(""), None));
        assert_eq!(root.children("b").count(), 2);
        assert_eq!(root.text_at(&["b"]), Some("<AB"));
        assert_eq!(root.at(&["b", "c"]), None);
    }

    #[test]
    fn encodings() {
        let text = "<a n='Prüfung €'/>";
        let utf16 =
            |of: fn(u16) -> [u8; 2]| -> Vec<u8> { format!("\u{feff}{text}").encode_utf16().flat_map(of).collect() };
        for bytes in [
            text.as_bytes().to_vec(),
            format!("\u{feff}{text}").into_bytes(),
            utf16(u16::to_le_bytes),
            utf16(u16::to_be_bytes),
        ] {
            assert_eq!(read(&bytes).unwrap().attribute("n"), Some("Prüfung €"));
            assert_eq!(first_name(&bytes), Some("a".to_owned()));
        }
        assert!(read(b"<a n='Pr\xfcfung'/>").unwrap_err().contains("text in UTF-8 or UTF-16"));
    }

    #[test]
    fn the_first_name_tells_what_a_file_is() {
        for (head, name) in [
            ("<domain type='kvm'>\n  <name>web1", Some("domain")),
            ("<?xml version='1.0'?>\n<!--\nWARNING\n-->\n<q:domstatus", None),
            ("<?xml version='1.0'?>\n<!--\nWARNING\n-->\n<q:domstatus state='running'>", Some("domstatus")),
            ("<!DOCTYPE html><html>", None),
            ("name = web1", None),
            ("", None),
        ] {
            assert_eq!(first_name(head.as_bytes()).as_deref(), name, "{head}");
        }
    }

    #[track_caller]
    fn refused(text: impl AsRef<[u8]>, message: &str) {
        assert_eq!(read(text).unwrap_err(), format!("t.xml: {message}"));
    }

    #[test]
    fn broken_documents_are_refused_by_line() {
        refused("", "line 1: expected one XML element, found \"\"");
        refused("<a/><b/>", "line 1: expected one XML element, found \"\"");
        refused("hello", "line 1: expected one XML element, found \"hello\"");
        refused(
            "<a>\n<b></a>",
            "line 2: expected well-formed XML, found \"ill-formed document: expected `</b>`, but `</a>` was found\"",
        );
        refused("<a>\n", "line 2: expected the end of an element, found \"a\"");
        assert!(read("<a x=1/>").unwrap_err().contains("attribute=\"value\""));
    }

    #[test]
    fn no_entity_is_expanded() {
        let bomb = "<!DOCTYPE a [<!ENTITY x \"ha\"><!ENTITY y \"&x;&x;\">]>\n<a>&y;</a>";
        refused(bomb, "line 1: expected no document type, found \"<!DOCTYPE\"");
        refused("<a>\n&y;</a>", "line 2: expected one of XML's own entities, found \"&y;\"");
        refused("<a x='&y;'/>", "line 1: expected one of XML's own entities, found \"&y;\"");
    }

    #[test]
    fn depth_and_number_are_limited() {
        let nested = |depth: usize| "<a>".repeat(depth) + &"</a>".repeat(depth);
        assert!(read(nested(599)).is_ok());
        refused(nested(600), "nesting of elements: expected at most 600, found 601");
        refused("<a>".repeat(1_000_000), "nesting of elements: expected at most 600, found 601");
        refused(
            format!("<a>{}</a>", "<b/>".repeat(1 << 18)),
            "elements and attributes: expected at most 262144, found 262145",
        );
        refused(
            format!("<a {}/>", "x='' ".repeat(1 << 18)),
            "elements and attributes: expected at most 262144, found 262145",
        );
    }

    proptest::proptest! {
        /// Whatever comes in, it is refused or read, and a text that was escaped comes back.
        #[test]
        fn nothing_panics(noise in proptest::collection::vec(0u8.., 0..200), text in "[^\\p{Cc}]{0,40}") {
            let _ = read(&noise);
            let _ = first_name(&noise);
            let root = read(format!("<a>{}</a>", quick_xml::escape::escape(text.as_str()))).unwrap();
            proptest::prop_assert_eq!(root.text(), text.trim());
        }
    }
}

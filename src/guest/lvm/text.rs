//! The text that describes a volume group: sections, and values with names.
//!
//!     vg0 { id = "…"  seqno = 4  status = ["READ", "WRITE"]  physical_volumes { pv0 { … } } }   # comments
//!
//! Nothing is known here of what the names mean.

use std::collections::BTreeMap;

use nom::branch::alt;
use nom::bytes::complete::{tag, take_while, take_while1};
use nom::character::complete::{char, not_line_ending, satisfy};
use nom::combinator::{cut, opt, recognize, value};
use nom::error::{Error, ErrorKind};
use nom::multi::{many0, separated_list0};
use nom::sequence::{delimited, preceded};
use nom::{Err, IResult, Parser};

/// Sections inside sections; LVM itself uses four.
const DEPTH_MAX: usize = 16;

/// What is between two braces.
pub(super) type Section = BTreeMap<String, Item>;

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    Section(Section),
    Number(i64),
    Text(String),
    Array(Vec<Item>),
}

/// Takes a whole text apart; fails with what it stopped at.
pub(super) fn parse(text: &str) -> Result<Section, String> {
    let stopped_at = |rest: &str| {
        let line = text[..text.len() - rest.len()].lines().count().max(1);
        let shown: String = rest.chars().take(20).collect();
        format!("{shown:?} in line {line}")
    };
    match body(DEPTH_MAX, text) {
        Ok(("", section)) => Ok(section),
        Ok((rest, _)) => Err(stopped_at(rest)),
        Err(Err::Error(error) | Err::Failure(error)) => Err(stopped_at(error.input)),
        Err(Err::Incomplete(_)) => unreachable!("the parsers work on the whole text"),
    }
}

/// Names with values or sections, up to the first thing that is none.
fn body(depth: usize, input: &str) -> IResult<&str, Section> {
    let (input, items) = many0(preceded(blank, |input| named(depth, input))).parse(input)?;
    let (input, ()) = blank(input)?;
    Ok((input, items.into_iter().collect()))
}

fn named(depth: usize, input: &str) -> IResult<&str, (String, Item)> {
    let (input, name) = take_while1(|c: char| c.is_ascii_alphanumeric() || "_-.+".contains(c)).parse(input)?;
    let (input, ()) = blank(input)?;
    let Some(depth) = depth.checked_sub(1) else {
        return Err(Err::Failure(Error::new(input, ErrorKind::TooLarge)));
    };
    let (input, item) = alt((preceded(char('='), cut(plain)), |input| section(depth, input))).parse(input)?;
    Ok((input, (name.to_string(), item)))
}

fn section(depth: usize, input: &str) -> IResult<&str, Item> {
    let (input, _) = char('{').parse(input)?;
    let (input, section) = body(depth, input)?;
    let (input, _) = cut(char('}')).parse(input)?;
    Ok((input, Item::Section(section)))
}

/// Blanks and comments.
fn blank(input: &str) -> IResult<&str, ()> {
    let comment = recognize((char('#'), not_line_ending));
    let (input, _) = many0(alt((take_while1(char::is_whitespace), comment))).parse(input)?;
    Ok((input, ()))
}

/// A value that is no section.
fn plain(input: &str) -> IResult<&str, Item> {
    let array = delimited(
        char('['),
        separated_list0(delimited(blank, char(','), blank), scalar),
        // A comma may stand behind the last value.
        (blank, opt(char(',')), blank, cut(char(']'))),
    );
    preceded(blank, alt((array.map(Item::Array), scalar))).parse(input)
}

fn scalar(input: &str) -> IResult<&str, Item> {
    preceded(blank, alt((quoted.map(Item::Text), number))).parse(input)
}

/// A number; one that is no integer or too large for one is kept as text, so that it matters only where it is used.
fn number(input: &str) -> IResult<&str, Item> {
    let digits =
        (opt(char('-')), satisfy(|c| c.is_ascii_digit()), take_while(|c: char| c.is_ascii_digit() || c == '.'));
    let (input, written) = recognize(digits).parse(input)?;
    Ok((input, written.parse().map_or_else(|_| Item::Text(written.to_string()), Item::Number)))
}

/// A string; a backslash keeps the character behind it.
fn quoted(input: &str) -> IResult<&str, String> {
    let piece = alt((
        take_while1(|c| c != '"' && c != '\\').map(str::to_string),
        value("\"".to_string(), tag("\\\"")),
        value("\\".to_string(), tag("\\\\")),
        value("\\".to_string(), char('\\')),
    ));
    let (input, pieces) = delimited(char('"'), many0(piece), cut(char('"'))).parse(input)?;
    Ok((input, pieces.concat()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_forms_that_lvm_writes_are_read() {
        let text = "# made by hand\nvg0 {\n\tid = \"a-b\"\n\tseqno = 4 # four\n\tempty = []\n\tnegative = -1\n\tfraction = 0.5\n\
            \tstripes = [\n\t\t\"pv0\", 0,\n\t\t\"pv1\", 7\n\t]\n\tquoted = \"a \\\"b\\\" \\\\\"\n\tin-ner.1 {}\n}\nversion=1";
        let parsed = parse(text).unwrap();
        let Some(Item::Section(group)) = parsed.get("vg0") else { panic!("{parsed:?}") };
        assert_eq!(group["id"], Item::Text("a-b".into()));
        assert_eq!(group["seqno"], Item::Number(4));
        assert_eq!(group["empty"], Item::Array(vec![]));
        assert_eq!(group["negative"], Item::Number(-1));
        assert_eq!(group["fraction"], Item::Text("0.5".into()));
        let stripes = [Item::Text("pv0".into()), Item::Number(0), Item::Text("pv1".into()), Item::Number(7)];
        assert_eq!(group["stripes"], Item::Array(stripes.to_vec()));
        assert_eq!(group["quoted"], Item::Text("a \"b\" \\".into()));
        assert_eq!(group["in-ner.1"], Item::Section(Section::new()));
        assert_eq!(parsed["version"], Item::Number(1));
    }

    #[test]
    fn what_is_no_such_text_is_refused_where_it_goes_wrong() {
        #[track_caller]
        fn check(text: &str, expected: &str) {
            assert_eq!(parse(text).unwrap_err(), expected);
        }
        check("a {", "\"\" in line 1");
        check("a { b = }", "\"}\" in line 1");
        check("a = 1\nb = [1, 2", "\"\" in line 2");
        check("a = \"open", "\"\" in line 1");
        check("a }", "\"a }\" in line 1");
        check("}", "\"}\" in line 1");
        check(&"a {\n".repeat(100_000), "\"{\\na {\\na {\\na {\\na {\\na \" in line 17");
        let depth = |n: usize| format!("{}{}", "a {".repeat(n), "}".repeat(n));
        assert!(parse(&depth(DEPTH_MAX)).is_ok());
        assert!(parse(&depth(DEPTH_MAX + 1)).is_err());
        let huge = parse("a = 99999999999999999999").unwrap();
        assert_eq!(huge["a"], Item::Text("99999999999999999999".into()));
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "[a-z0-9_={}\\[\\]\",\\\\#\n .é-]{0,200}") {
            let _ = parse(&text);
        }
    }
}

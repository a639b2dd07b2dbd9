//! JSON as Python's `json.dumps` writes it, which is how models saw it in training.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// The arguments of `json.dumps`. Text beyond ASCII is never escaped, as templates expect.
#[derive(Debug, Default)]
pub(super) struct Style {
    /// Spaces of indent for each level, at most [`INDENT_MAX`]. Without it all is on one line.
    pub indent: Option<usize>,
    /// What stands between items, and between a key and its value; by default with a space after.
    pub separators: Option<[String; 2]>,
    /// Whether objects are sorted by key.
    pub sort_keys: bool,
}

/// The widest indent, since nesting multiplies it.
const INDENT_MAX: usize = 8;

/// The JSON of a value.
pub(super) fn dumps(value: &impl Serialize, style: &Style) -> serde_json::Result<String> {
    let mut json = serde_json::to_value(value)?;
    if style.sort_keys {
        json.sort_all_objects();
    }
    let mut text = Vec::new();
    if let (Some(width), None) = (style.indent, &style.separators) {
        let pad = " ".repeat(width.min(INDENT_MAX));
        let pretty = PrettyFormatter::with_indent(pad.as_bytes());
        json.serialize(&mut Serializer::with_formatter(&mut text, pretty))?;
    } else {
        let [item, key] = style
            .separators
            .as_ref()
            .map_or([", ", ": "], |[item, key]| [item, key]);
        json.serialize(&mut Serializer::with_formatter(
            &mut text,
            Separated { item, key },
        ))?;
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// JSON on one line with these separators between items, and between key and value.
struct Separated<'a> {
    item: &'a str,
    key: &'a str,
}

impl Formatter for Separated<'_> {
    fn begin_array_value<W: ?Sized + Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        if first {
            Ok(())
        } else {
            to.write_all(self.item.as_bytes())
        }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        if first {
            Ok(())
        } else {
            to.write_all(self.item.as_bytes())
        }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        to.write_all(self.key.as_bytes())
    }
}

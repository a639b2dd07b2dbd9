//! The steps of a decoder as its file names them: known ones, in an order that works, within bounds.

use serde_json::Value;

use super::{Metaspace, STRIP_MAX, Step, Strip, UnknownDecoder, Utf8Tail, WordPiece};

/// Steps of one decoder; published ones have at most six.
const STEPS_MAX: usize = 16;
/// How many times longer than its piece a text may be; published decoders make none longer.
const GROWTH_MAX: usize = 8;

/// The steps of the `decoder` value of a tokenizer.json (`null` when it has none).
pub(super) fn steps(decoder: &Value) -> Result<Vec<Step>, UnknownDecoder> {
    let mut steps = Vec::new();
    if decoder.is_null() {
        steps.push(Step::Spaced { first: true });
    } else {
        read(decoder, &mut steps)?;
    }
    check_bounds(&steps)?;
    check_order(&steps)?;
    Ok(steps)
}

/// After a step that joins pieces nothing may need them apart.
fn check_order(steps: &[Step]) -> Result<(), UnknownDecoder> {
    let fused = |step: &Step| {
        matches!(
            step,
            Step::Fuse { .. } | Step::ByteLevel { .. } | Step::Suffix { .. }
        )
    };
    let after = steps.iter().skip_while(|step| !fused(step)).skip(1);
    for step in after {
        let splits = match step {
            Step::Replace { pattern, .. } => pattern.chars().count() != 1,
            Step::Strip(_) | Step::Fuse { .. } | Step::Metaspace(_) => false,
            _ => true,
        };
        if splits {
            return Err(UnknownDecoder(format!(
                "{} after the pieces are joined",
                step.name()
            )));
        }
    }
    Ok(())
}

/// A decoder must not make much text from little.
fn check_bounds(steps: &[Step]) -> Result<(), UnknownDecoder> {
    if steps.len() > STEPS_MAX {
        return Err(UnknownDecoder(format!("more than {STEPS_MAX} steps")));
    }
    let growth = |step: &Step| match step {
        Step::Replace { pattern, content } => content.len().div_ceil(pattern.len()).max(1),
        _ => 1,
    };
    let growth: usize = steps.iter().map(growth).fold(1, usize::saturating_mul);
    if growth > GROWTH_MAX {
        let message = format!("Replace makes text more than {GROWTH_MAX} times longer");
        return Err(UnknownDecoder(message));
    }
    let strips = |step: &Step| match step {
        Step::Strip(strip) => strip.start.max(strip.stop),
        _ => 0,
    };
    if steps.iter().map(strips).max() > Some(STRIP_MAX) {
        let message = format!("Strip of more than {STRIP_MAX} characters");
        return Err(UnknownDecoder(message));
    }
    Ok(())
}

fn read(decoder: &Value, steps: &mut Vec<Step>) -> Result<(), UnknownDecoder> {
    if text_at(decoder, "type")? == "Sequence" {
        let parts = decoder.get("decoders").and_then(Value::as_array);
        let parts = parts.ok_or_else(|| UnknownDecoder("Sequence without decoders".to_owned()))?;
        return parts.iter().try_for_each(|part| read(part, steps));
    }
    steps.push(read_step(decoder)?);
    Ok(())
}

fn read_step(decoder: &Value) -> Result<Step, UnknownDecoder> {
    Ok(match text_at(decoder, "type")? {
        "ByteLevel" => Step::ByteLevel {
            bytes: Utf8Tail::default(),
            first: true,
        },
        "ByteFallback" => Step::ByteFallback {
            bytes: Utf8Tail::default(),
            in_run: false,
        },
        "Fuse" => Step::Fuse { first: true },
        "Replace" => read_replace(decoder)?,
        "Strip" => {
            let count = |key| decoder.get(key).and_then(Value::as_u64).unwrap_or(0) as usize;
            let (start, stop) = (count("start"), count("stop"));
            let content = char_at(decoder, "content")?;
            Step::Strip(Strip {
                content,
                start,
                stop,
                start_left: start,
                held: 0,
            })
        }
        "Metaspace" => {
            let is = |key: &str, value: Value| decoder.get(key) == Some(&value);
            let keeps =
                is("prepend_scheme", "never".into()) || is("add_prefix_space", false.into());
            let replacement = char_at(decoder, "replacement")?;
            Step::Metaspace(Metaspace {
                replacement,
                drops_first: !keeps,
                pieces: 0,
            })
        }
        "WordPiece" => {
            let tidies = decoder
                .get("cleanup")
                .and_then(Value::as_bool)
                .unwrap_or(true);
            let prefix = text_at(decoder, "prefix")?.to_owned();
            Step::WordPiece(WordPiece {
                prefix,
                tidies,
                first: true,
            })
        }
        "BPEDecoder" => Step::Suffix {
            suffix: text_at(decoder, "suffix")?.to_owned(),
            held: String::new(),
        },
        other => return Err(UnknownDecoder(other.to_owned())),
    })
}

fn read_replace(decoder: &Value) -> Result<Step, UnknownDecoder> {
    let pattern = decoder
        .get("pattern")
        .and_then(|pattern| pattern.get("String"));
    let pattern = pattern
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty());
    let unknown = || UnknownDecoder("Replace by a regular expression".to_owned());
    let pattern = pattern.ok_or_else(unknown)?.to_owned();
    Ok(Step::Replace {
        pattern,
        content: text_at(decoder, "content")?.to_owned(),
    })
}

fn text_at<'a>(decoder: &'a Value, key: &str) -> Result<&'a str, UnknownDecoder> {
    let text = decoder.get(key).and_then(Value::as_str);
    text.ok_or_else(|| UnknownDecoder(format!("a decoder without \"{key}\"")))
}

fn char_at(decoder: &Value, key: &str) -> Result<char, UnknownDecoder> {
    let mut chars = text_at(decoder, key)?.chars();
    match (chars.next(), chars.next()) {
        (Some(one), None) => Ok(one),
        _ => Err(UnknownDecoder(format!(
            "a decoder whose \"{key}\" is not one character"
        ))),
    }
}

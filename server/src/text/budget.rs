//! The checked operations of a Jinja program: each pays for what it makes from the budget of its rendering.
//!
//! An operation first weighs its operands, to the depth of their nesting, since ten lists of ten lists of
//! ten lists take no memory but much output. It then runs as the engine has it, and pays for its result.
//! Operations whose result is not in proportion to their operands (replacing, joining, padding) know the
//! size of the result before they begin.

use std::fmt::{self, Write as _};
use std::io;

use minijinja::formatting::{self, FormatStyle};
use minijinja::value::{Kwargs, Rest, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value, context};
use minijinja_contrib::pycompat;
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};
use thiserror::Error as ThisError;

/// Bytes of values and text one rendering may make.
pub const BUDGET_BYTES: usize = 64 << 20;
/// Bytes that an operand of one operation may have, with all that is nested in it.
pub const OPERAND_BYTES_MAX: usize = 4 << 20;

/// The error of a rendering that asks for more than its share.
#[derive(Debug, ThisError)]
#[error("{0}")]
pub(super) struct OverBudget(&'static str);

pub(super) const ADD: &str = "checked:+";
pub(super) const CONCAT: &str = "checked:~";
pub(super) const SLICE: &str = "checked:[:]";
pub(super) const EQ: &str = "checked:==";
pub(super) const NE: &str = "checked:!=";
pub(super) const IN: &str = "checked:in";

/// What one rendering may still make.
#[derive(Debug)]
struct Budget {
    bytes_left: usize,
}

/// What a value takes, with all that is nested in it.
#[derive(Debug, Default, Clone, Copy)]
struct Weight {
    values: usize,
    text_bytes: usize,
}

/// A value in a list or map, beside its text.
const VALUE_BYTES: usize = 32;
/// Looking at an operand costs time: a value as much as making this many bytes,
const LOOK_BYTES: usize = 4;
/// and this many bytes of text as much as making one.
const LOOK_TEXT_PER_BYTE: usize = 64;
/// The widest padding or indent.
const WIDTH_MAX: usize = 999;
const WIDTH_DIGITS_MAX: usize = 3;
/// The widest indent of JSON, which nesting multiplies.
const INDENT_MAX: usize = 8;

/// Gives an environment the checked operations and output.
pub(super) fn install(environment: &mut Environment<'static>) {
    environment.set_formatter(write);
    environment.set_unknown_method_callback(method);
    environment.add_filter(ADD, add);
    environment.add_filter(CONCAT, concat);
    environment.add_filter(SLICE, slice);
    environment.add_filter(EQ, |state: &mut State<'_, '_>, a: Value, b: Value| {
        test(state, "eq", &[a, b])
    });
    environment.add_filter(NE, |state: &mut State<'_, '_>, a: Value, b: Value| {
        test(state, "ne", &[a, b])
    });
    environment.add_filter(IN, |state: &mut State<'_, '_>, a: Value, b: Value| {
        test(state, "in", &[a, b])
    });
    environment.add_filter(
        "replace",
        |state: &mut State<'_, '_>, text: String, from: String, to: String| {
            replace(state, &text, (&from, &to), None)
        },
    );
    environment.add_filter("join", join);
    environment.add_filter("indent", indent);
    environment.add_filter("format", format);
    environment.add_filter("string", string);
    environment.add_filter("tojson", to_json);
    for unbounded in ["batch", "slice", "pprint"] {
        environment.remove_filter(unbounded);
    }
    environment.remove_global("debug");
}

/// The name of the checked form of a filter.
pub(super) fn checked_filter(name: &str, environment: &mut Environment<'static>) -> &'static str {
    let plain = name.to_owned();
    let checked = format!("checked:{name}").leak();
    let filter = move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
        let args = args.into_values();
        look(state, &args)?;
        let made = state
            .apply_filter(&plain, &args)
            .map_err(|error| named(error, &plain))?;
        pay_for(state, made)
    };
    environment.add_filter(&*checked, filter);
    checked
}

/// The name of the checked form of a test.
pub(super) fn checked_test(name: &str, environment: &mut Environment<'static>) -> &'static str {
    let plain = name.to_owned();
    let checked = format!("checked:{name}").leak();
    let test = move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
        test(state, &plain, &args.into_values()).map_err(|error| named(error, &plain))
    };
    environment.add_test(&*checked, test);
    checked
}

/// Says what is unknown, which the engine only says of names in a template.
fn named(error: Error, name: &str) -> Error {
    match error.kind() {
        kind @ (ErrorKind::UnknownFilter | ErrorKind::UnknownTest) => {
            Error::new(kind, name.to_owned())
        }
        _ => error,
    }
}

// === weighing and paying ===

fn over(what: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, "over budget").with_source(OverBudget(what))
}

fn pay(state: &mut State<'_, '_>, bytes: usize) -> Result<(), Error> {
    let budget = state.get_or_insert_extension(Budget {
        bytes_left: BUDGET_BYTES,
    });
    let left = budget.bytes_left.checked_sub(bytes);
    budget.bytes_left = left.ok_or_else(|| over("too much text or too many values"))?;
    Ok(())
}

/// Refuses operands that are too large, and pays for looking at them.
fn look(state: &mut State<'_, '_>, operands: &[Value]) -> Result<Weight, Error> {
    let weight = weigh(operands)?;
    pay(
        state,
        weight.values * LOOK_BYTES + weight.text_bytes / LOOK_TEXT_PER_BYTE,
    )?;
    Ok(weight)
}

fn pay_for(state: &mut State<'_, '_>, made: Value) -> Result<Value, Error> {
    let weight = weigh(std::slice::from_ref(&made))?;
    pay(state, weight.values * VALUE_BYTES + weight.text_bytes)?;
    Ok(made)
}

fn weigh(values: &[Value]) -> Result<Weight, Error> {
    let mut weight = Weight::default();
    let mut rest: Vec<Value> = Vec::new();
    let mut add = |value: Value, rest: &mut Vec<Value>| {
        weight.values += 1;
        match value.kind() {
            ValueKind::String | ValueKind::Bytes => {
                weight.text_bytes += value
                    .as_str()
                    .map_or(0, str::len)
                    .max(value.as_bytes().map_or(0, <[u8]>::len));
            }
            ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => rest.push(value),
            _ => {}
        }
        let fits = weight.values * VALUE_BYTES + weight.text_bytes <= OPERAND_BYTES_MAX;
        if fits {
            Ok(())
        } else {
            Err(over("too large a value"))
        }
    };
    for value in values {
        add(value.clone(), &mut rest)?;
    }
    while let Some(value) = rest.pop() {
        let is_map = value.kind() == ValueKind::Map;
        for item in value.try_iter()? {
            if is_map {
                add(value.get_item(&item)?, &mut rest)?;
            }
            add(item, &mut rest)?;
        }
    }
    Ok(weight)
}

/// Text that may grow to the size of one operand.
#[derive(Default)]
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > OPERAND_BYTES_MAX {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

/// The text of a value, as output shows it.
fn text_of(values: &[&Value]) -> Result<String, Error> {
    let mut text = Bounded::default();
    for value in values {
        let written = match value.as_str() {
            Some(plain) => text.write_str(plain),
            None => write!(text, "{value}"),
        };
        written.map_err(|_| over("too long a text"))?;
    }
    Ok(text.0)
}

// === operations ===

/// Output, into captures too.
fn write(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    let text = text_of(&[value])?;
    pay(state, text.len())?;
    out.write_str(&text).map_err(Error::from)
}

fn concat(state: &mut State<'_, '_>, left: &Value, right: &Value) -> Result<Value, Error> {
    let text = text_of(&[left, right])?;
    pay_for(state, Value::from(text))
}

fn add(state: &mut State<'_, '_>, left: Value, right: Value) -> Result<Value, Error> {
    if left.as_str().is_some() && right.as_str().is_some() {
        return concat(state, &left, &right);
    }
    look(state, &[left.clone(), right.clone()])?;
    let sum = state.env().compile_expression("left + right")?;
    let made = sum.eval(context! { left, right })?;
    pay_for(state, made)
}

fn slice(
    state: &mut State<'_, '_>,
    of: Value,
    start: Value,
    stop: Value,
    step: Value,
) -> Result<Value, Error> {
    look(state, std::slice::from_ref(&of))?;
    let slice = state.env().compile_expression("of[start:stop:step]")?;
    let made = slice.eval(context! { of, start, stop, step })?;
    pay_for(state, made)
}

fn test(state: &mut State<'_, '_>, name: &str, operands: &[Value]) -> Result<bool, Error> {
    look(state, operands)?;
    state.perform_test(name, operands)
}

/// Methods that Python's strings, lists and dictionaries have.
fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    look(state, std::slice::from_ref(value))?;
    look(state, args)?;
    let made = match (value.as_str(), name) {
        (Some(text), "replace") => {
            let (from, to, count): (&str, &str, Option<i64>) = from_args(args)?;
            let count = count.and_then(|count| usize::try_from(count).ok());
            return replace(state, text, (from, to), count);
        }
        (Some(between), "join") => {
            let (items,): (Value,) = from_args(args)?;
            return join_with(state, &items, between);
        }
        (Some(spec), "format") => {
            refuse_wide(spec, weigh(args)?)?;
            pycompat::unknown_method_callback(state, value, name, args)?
        }
        _ => pycompat::unknown_method_callback(state, value, name, args)?,
    };
    pay_for(state, made)
}

fn replace(
    state: &mut State<'_, '_>,
    text: &str,
    (from, to): (&str, &str),
    count: Option<usize>,
) -> Result<Value, Error> {
    let count = count.unwrap_or(usize::MAX).min(text.matches(from).count());
    let bytes = text.len().saturating_add(count.saturating_mul(to.len()));
    if bytes > OPERAND_BYTES_MAX {
        return Err(over("too long a text"));
    }
    pay_for(state, Value::from(text.replacen(from, to, count)))
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "filters take named arguments by value"
)]
fn join(
    state: &mut State<'_, '_>,
    items: Value,
    between: Option<&str>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let between = between.or(kwargs.get("d")?);
    let attribute: Option<&str> = kwargs.get("attribute")?;
    kwargs.assert_all_used()?;
    let items = match attribute {
        Some(name) => items
            .try_iter()?
            .map(|item| item.get_attr(name))
            .collect::<Result<Value, Error>>()?,
        None => items,
    };
    join_with(state, &items, between.unwrap_or_default())
}

fn join_with(state: &mut State<'_, '_>, items: &Value, between: &str) -> Result<Value, Error> {
    let mut text = Bounded::default();
    for (index, item) in items.try_iter()?.enumerate() {
        let before = if index > 0 { between } else { "" };
        let item = text_of(&[&item])?;
        text.write_str(before)
            .and_then(|()| text.write_str(&item))
            .map_err(|_| over("too long a text"))?;
    }
    pay_for(state, Value::from(text.0))
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "filters take named arguments by value"
)]
fn indent(
    state: &mut State<'_, '_>,
    text: &str,
    width: Option<usize>,
    first: Option<bool>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let width = width.or(kwargs.get("width")?).unwrap_or(4);
    let first = first.or(kwargs.get("first")?).unwrap_or(false);
    let blank = kwargs.get::<Option<bool>>("blank")?.unwrap_or(false);
    kwargs.assert_all_used()?;
    if width > WIDTH_MAX {
        return Err(over("too wide an indent"));
    }
    let mut indented = Bounded::default();
    for (index, line) in text.split('\n').enumerate() {
        let pads = if index == 0 {
            first
        } else {
            blank || !line.trim().is_empty()
        };
        let (end, pad) = (
            if index > 0 { "\n" } else { "" },
            if pads { width } else { 0 },
        );
        write!(indented, "{end}{:pad$}{line}", "").map_err(|_| over("too long a text"))?;
    }
    pay_for(state, Value::from(indented.0))
}

/// `%` formatting as a filter.
fn format(
    state: &mut State<'_, '_>,
    spec: &str,
    args: Rest<ValueOrKwargs>,
) -> Result<Value, Error> {
    let args = args.into_values();
    refuse_wide(spec, weigh(&args)?)?;
    let text = formatting::format(FormatStyle::Printf, spec, &args)?;
    pay_for(state, Value::from(text))
}

/// Refuses a format with wide fields, or with so many that the arguments together become too long.
fn refuse_wide(spec: &str, args: Weight) -> Result<(), Error> {
    let mut digits = 0;
    for one in spec.chars() {
        digits = if one.is_ascii_digit() { digits + 1 } else { 0 };
        if digits > WIDTH_DIGITS_MAX || one == '*' {
            return Err(over("too wide a format"));
        }
    }
    let fields = spec.matches(['{', '%']).count();
    let field_bytes_max = args.text_bytes + args.values * VALUE_BYTES + WIDTH_MAX;
    if fields.saturating_mul(field_bytes_max) > OPERAND_BYTES_MAX {
        return Err(over("too many fields in a format"));
    }
    Ok(())
}

fn string(state: &mut State<'_, '_>, value: &Value) -> Result<Value, Error> {
    let text = text_of(&[value])?;
    pay_for(state, Value::from(text))
}

// === JSON as Python writes it ===

/// `json.dumps` of Python without ASCII escapes: a space after colons and commas, or an indent.
#[expect(
    clippy::needless_pass_by_value,
    reason = "filters take named arguments by value"
)]
fn to_json(
    state: &mut State<'_, '_>,
    value: &Value,
    indent: Option<usize>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let failed =
        |error: &dyn fmt::Display| Error::new(ErrorKind::BadSerialization, error.to_string());
    let indent = indent.or(kwargs.get("indent")?);
    let separators: Option<(String, String)> = match kwargs.get::<Option<Value>>("separators")? {
        Some(pair) if !pair.is_none() => {
            let part = |index: usize| pair.get_item_by_index(index).map(|part| part.to_string());
            Some((part(0)?, part(1)?))
        }
        _ => None,
    };
    let sort_keys: Option<bool> = kwargs.get("sort_keys")?;
    let _ascii: Option<bool> = kwargs.get("ensure_ascii")?;
    kwargs.assert_all_used()?;

    look(state, std::slice::from_ref(value))?;
    let mut json = serde_json::to_value(value).map_err(|error| failed(&error))?;
    if sort_keys == Some(true) {
        json.sort_all_objects();
    }
    let mut text = Vec::new();
    let written = if let Some(width) = indent.filter(|_| separators.is_none()) {
        let pad = " ".repeat(width.min(INDENT_MAX));
        let style = PrettyFormatter::with_indent(pad.as_bytes());
        json.serialize(&mut Serializer::with_formatter(&mut text, style))
    } else {
        let spaced = || (", ".to_owned(), ": ".to_owned());
        let (item, key) = separators.unwrap_or_else(spaced);
        json.serialize(&mut Serializer::with_formatter(
            &mut text,
            Separated { item, key },
        ))
    };
    written.map_err(|error| failed(&error))?;
    let text = String::from_utf8(text).map_err(|error| failed(&error))?;
    pay_for(state, Value::from(text))
}

/// JSON on one line with these separators between items, and between key and value.
struct Separated {
    item: String,
    key: String,
}

impl Formatter for Separated {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        to: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first {
            Ok(())
        } else {
            to.write_all(self.item.as_bytes())
        }
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        to: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first {
            Ok(())
        } else {
            to.write_all(self.item.as_bytes())
        }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        to.write_all(self.key.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::super::chat::{ChatTemplate, Message, TemplateError};
    use super::super::control::ControlTokens;

    fn render(source: &str, said: &[&str]) -> Result<String, TemplateError> {
        let template = ChatTemplate::from_config(b"{}", Some(source.as_bytes()))?.unwrap();
        let messages: Vec<Message> = said
            .iter()
            .map(|content| Message {
                role: "user".to_owned(),
                content: (*content).to_owned(),
            })
            .collect();
        Ok(template.render(&messages, &ControlTokens::new([]))?.text)
    }

    #[test]
    fn checked_operations_do_what_the_engine_does() {
        let check = |source: &str, expect: &str| {
            assert_eq!(render(source, &["abc"]).as_deref(), Ok(expect), "{source}");
        };
        check(
            "{{ 1 + 2 }} {{ 'a' + 'b' }} {{ [1] + [2] }} {{ 1 ~ 2 ~ none ~ x }}",
            "3 ab [1, 2] 12None",
        );
        check(
            "{{ 'abcd'[1:3] }} {{ 'abcd'[::-1] }} {{ [1, 2, 3][1:] }}",
            "bc dcba [2, 3]",
        );
        check(
            "{{ 1 == 1.0 }} {{ 'a' != 'b' }} {{ 'b' in 'abc' }} {{ 4 in [1] }} {{ 4 not in [1] }}",
            "True True True False True",
        );
        check(
            "{{ 'a.b' | replace('.', '--') }} {{ 'aaa'.replace('a', 'b', 2) }}",
            "a--b bba",
        );
        check(
            "{{ ['a', 1] | join('/') }} {{ '-'.join(['a', 'b']) }} {{ messages | join(attribute='role') }}",
            "a/1 a-b user",
        );
        check(
            "{{ 'a\n\nb' | indent(2) }}|{{ 'a' | indent(width=1, first=true) }}",
            "a\n\n  b| a",
        );
        check(
            "{{ '%03d|%s' | format(7, 'x') }} {{ '{}-{:>3}'.format('a', 'b') }}",
            "007|x a-  b",
        );
        check(
            "{{ {'b': [1, 'é<'], 'a': none} | tojson }}",
            "{\"b\": [1, \"é<\"], \"a\": null}",
        );
        check(
            "{{ {'b': 1, 'a': 2} | tojson(separators=(',', ':'), sort_keys=true) }}",
            "{\"a\":2,\"b\":1}",
        );
        check(
            "{{ {'a': [1]} | tojson(indent=2) }}",
            "{\n  \"a\": [\n    1\n  ]\n}",
        );
        check(
            "{{ 'x' | string | upper }} {{ 5 is odd }} {{ y is defined }} {{ [3, 1] | sort | first }}",
            "X True False 1",
        );
        check(
            "{{ x | default('d') }} {{ '' | default('e', true) }} {{ [1, 2] | select('even') | list }}",
            "d e [2]",
        );
        check(
            "{% set x %}a{{ 'b' }}{% endset %}{{ x ~ x }}{{ messages | map(attribute='content') | list }}",
            "abab['abc']",
        );
    }

    #[test]
    fn templates_that_ask_for_too_much_are_stopped() {
        let big = "x".repeat(1 << 20);
        let check = |source: &str| {
            let result = render(source, &[&big, &big]).map(|text| text.len());
            assert!(
                matches!(result, Err(TemplateError::Limit(_))),
                "{result:?} from {source}"
            );
        };
        // Steps.
        check("{% for a in range(3000) %}{% for b in range(3000) %}{% endfor %}{% endfor %}");
        // Strings that double, however they are joined and kept.
        check(
            "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(40) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        );
        check(
            "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(40) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        );
        check(
            "{% set ns = namespace(s='a') %}{% for i in range(40) %}{% set t %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = t %}{% endfor %}",
        );
        check(
            "{% set ns = namespace(s='a') %}{% for i in range(40) %}{% set ns.s = [ns.s, ns.s] | join %}{% endfor %}",
        );
        check(
            "{% set ns = namespace(s='aa') %}{% for i in range(40) %}{% set ns.s = ns.s | replace('a', 'aa') %}{% endfor %}",
        );
        check(
            "{% set ns = namespace(s='aa') %}{% for i in range(40) %}{% set ns.s = '%s%s' | format(ns.s, ns.s) %}{% endfor %}",
        );
        check(
            "{% macro m(s, n) %}{% if n > 0 %}{{ m(s ~ s, n - 1) }}{% endif %}{% endmacro %}{{ m('aaaaaaaa', 24) }}",
        );
        check("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}");
        // Lists that double, and nests that are small until shown or compared.
        check(
            "{% set ns = namespace(s=[1]) %}{% for i in range(40) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        );
        let nest = "{% set ns = namespace(s=[], t=[]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% set ns.t = [ns.t, ns.t] %}{% endfor %}";
        for use_it in [
            "{{ ns.s }}",
            "{{ ns.s ~ '' }}",
            "{{ ns.s | tojson }}",
            "{{ ns.s == ns.t }}",
            "{{ ns.s | string }}",
        ] {
            check(&format!("{nest}{use_it}"));
        }
        // Many copies of a long message, each small enough.
        let keep = |copy: &str| {
            format!(
                "{{% set ns = namespace(l=[]) %}}{{% for i in range(9000) %}}{{% set ns.l = ns.l + [{copy}] %}}{{% endfor %}}"
            )
        };
        for copy in [
            "messages[0].content[1:]",
            "messages[0].content | upper",
            "messages[0].content.strip('y')",
        ] {
            check(&keep(copy));
        }
        // Wide padding.
        check("{{ 'a' | indent(1000000000, true) }}");
        check("{{ '%1000000000d' | format(1) }}");
        check("{{ '%*d' | format(1000000000, 1) }}");
        check("{{ '{:>1000000000}'.format(1) }}");
        check("{{ '{0}{0}{0}{0}{0}'.format(messages[0].content) }}");
        // Output.
        check("{% for i in range(9000) %}{{ messages[0].content }}{% endfor %}");
    }

    #[test]
    fn endless_templates_and_unbounded_operators_are_refused() {
        let check = |source: &str| {
            let result = render(source, &["a"]).map(|text| text.len());
            assert!(
                matches!(result, Err(TemplateError::Invalid(_))),
                "{result:?} from {source}"
            );
        };
        check("{{ 'a' * 100000000 }}");
        check("{{ m(*l) }}");
        check(&format!(
            "{{{{ {}1{} }}}}",
            "(".repeat(20_000),
            ")".repeat(20_000)
        ));
        check(&"a".repeat(super::super::chat::SOURCE_BYTES_MAX + 1));
        check("{% include 'other' %}");
        check("{{ debug() }}");
    }

    #[test]
    fn long_raw_texts_leave_fewer_steps() {
        let long = "y".repeat(64 << 10);
        let source =
            format!("{{% for i in range(9000) %}}{{% set x %}}{long}{{% endset %}}{{% endfor %}}");
        assert!(matches!(render(&source, &[]), Err(TemplateError::Limit(_))));
    }

    #[test]
    fn a_long_conversation_is_within_bounds() {
        let said = vec!["words ".repeat(170); 1024];
        let said: Vec<&str> = said.iter().map(String::as_str).collect();
        let source = "{% for m in messages %}{% if loop.index0 == messages | length - 1 %}!{% endif %}{{ '<|' + m.role + '|>' + m.content | trim + '<|end|>' }}{% endfor %}";
        assert!(render(source, &said).unwrap().len() > 1 << 20);
    }
}

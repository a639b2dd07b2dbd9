//! The checked operations of a Jinja program: each pays for what it makes from the budget of its rendering.
//!
//! An operation first weighs its operands, to the depth of their nesting, since ten lists of ten lists of
//! ten lists take no memory but much output. It then runs as the engine has it, and pays for its result.
//! Operations whose result is not in proportion to their operands (replacing, joining, padding) know the
//! size of the result before they begin.

use std::fmt::{self, Write as _};

use minijinja::formatting::{self, FormatStyle};
use minijinja::value::{Kwargs, Rest, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value, context};
use minijinja_contrib::pycompat;
use thiserror::Error as ThisError;

use super::json::{self, Style};

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
pub(super) const ITEM: &str = "checked:[]";
pub(super) const SLICE: &str = "checked:[:]";
pub(super) const MAP: &str = "checked:{}";
pub(super) const EQ: &str = "checked:eq";
pub(super) const NE: &str = "checked:ne";
pub(super) const LT: &str = "checked:lt";
pub(super) const LE: &str = "checked:le";
pub(super) const GT: &str = "checked:gt";
pub(super) const GE: &str = "checked:ge";
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
const LOOK_BYTES: usize = 8;
/// and this many bytes of text as much as making one.
const LOOK_TEXT_PER_BYTE: usize = 16;
/// The widest padding or indent.
const WIDTH_MAX: usize = 999;
const WIDTH_DIGITS_MAX: usize = 3;

/// Gives an environment the checked operations and output.
pub(super) fn install(environment: &mut Environment<'static>) {
    environment.set_formatter(write);
    environment.set_unknown_method_callback(method);
    environment.add_filter(ADD, add);
    environment.add_filter(CONCAT, concat);
    environment.add_filter(SLICE, slice);
    environment.add_filter(ITEM, item);
    environment.add_filter(MAP, map);
    for name in [EQ, NE, LT, LE, GT, GE, IN] {
        let test_name = &name["checked:".len()..];
        let comparison = move |state: &mut State<'_, '_>, left: Value, right: Value| {
            test(state, test_name, &[left, right])
        };
        environment.add_filter(name, comparison);
    }
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
    // These make as much as a number says, or show more than a template needs.
    for unbounded in ["batch", "slice", "pprint"] {
        environment.remove_filter(unbounded);
    }
    environment.remove_global("debug");
}

/// Filters and tests that only look at the outside of a value.
const SHALLOW_FILTERS: [&str; 5] = ["length", "count", "first", "default", "d"];
const SHALLOW_TESTS: [&str; 14] = [
    "defined",
    "undefined",
    "none",
    "boolean",
    "true",
    "false",
    "number",
    "integer",
    "float",
    "string",
    "sequence",
    "mapping",
    "iterable",
    "callable",
];

/// The name of the checked form of a filter.
pub(super) fn checked_filter(
    name: &'static str,
    environment: &mut Environment<'static>,
) -> &'static str {
    let shallow = SHALLOW_FILTERS.contains(&name);
    let checked = format!("checked:{name}").leak();
    let filter = move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
        let args = args.into_values();
        if shallow {
            glance(state, &args)?;
            return state.apply_filter(name, &args);
        }
        look(state, &args)?;
        let made = state
            .apply_filter(name, &args)
            .map_err(|error| named(error, name))?;
        pay_for(state, made)
    };
    environment.add_filter(&*checked, filter);
    checked
}

/// The name of the checked form of a test.
pub(super) fn checked_test(
    name: &'static str,
    environment: &mut Environment<'static>,
) -> &'static str {
    if SHALLOW_TESTS.contains(&name) {
        return name;
    }
    let checked = format!("checked:{name}").leak();
    let test = move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
        test(state, name, &args.into_values()).map_err(|error| named(error, name))
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

/// Pays for looking at operands without what is nested in them.
fn glance(state: &mut State<'_, '_>, operands: &[Value]) -> Result<(), Error> {
    let text_bytes: usize = operands
        .iter()
        .map(|value| value.as_str().map_or(0, str::len))
        .sum();
    pay(
        state,
        operands.len() * LOOK_BYTES + text_bytes / LOOK_TEXT_PER_BYTE,
    )
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

/// Refuses to answer more text than one value may have.
pub(super) fn within_output(text: String) -> Result<String, Error> {
    if text.len() > OPERAND_BYTES_MAX {
        Err(over("too long a conversation"))
    } else {
        Ok(text)
    }
}

/// Output, into captures too.
fn write(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    if let Some(text) = value.as_str() {
        pay(state, text.len())?;
        return out.write_str(text).map_err(Error::from);
    }
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

fn item(state: &mut State<'_, '_>, of: &Value, key: &Value) -> Result<Value, Error> {
    glance(state, std::slice::from_ref(of))?;
    look(state, std::slice::from_ref(key))?;
    of.get_item(key)
}

/// A map of keys and values in turn.
fn map(state: &mut State<'_, '_>, pairs: Rest<Value>) -> Result<Value, Error> {
    look(state, &pairs)?;
    let mut rest = pairs.0.into_iter();
    let pairs = std::iter::from_fn(|| Some((rest.next()?, rest.next()?)));
    Ok(Value::from_pairs(pairs))
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

/// JSON as `json.dumps` of Python writes it.
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
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let style = Style {
        indent: indent.or(kwargs.get("indent")?),
        separators: separators.and_then(|both| <[String; 2]>::try_from(both).ok()),
        sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    let _ascii: Option<bool> = kwargs.get("ensure_ascii")?;
    kwargs.assert_all_used()?;
    look(state, std::slice::from_ref(value))?;
    let failed =
        |error: serde_json::Error| Error::new(ErrorKind::BadSerialization, error.to_string());
    let text = json::dumps(value, &style).map_err(failed)?;
    pay_for(state, Value::from(text))
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
            "{{ 1 < 2 }} {{ 2 <= 1 }} {{ 'b' > 'a' }} {{ 1 >= 1 }}",
            "True False True True",
        );
        check(
            "{{ [1, 2][-1] }} {{ {'a': 1, 'b': {}}['a'] }} {{ messages[0]['content'][1] }}",
            "2 1 b",
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

    /// That a template is stopped, over two messages of 256 KiB.
    fn check_stopped(source: &str) {
        let big = "x".repeat(256 << 10);
        let result = render(source, &[&big, &big]).map(|text| text.len());
        assert!(
            matches!(result, Err(TemplateError::Limit(_))),
            "{result:?} from {source}"
        );
    }

    /// That what doubles in each of forty rounds is stopped.
    fn check_doubling(start: &str, next: &str) {
        check_stopped(&format!(
            "{{% set ns = namespace(s={start}) %}}{{% for i in range(40) %}}{{% set ns.s = {next} %}}{{% endfor %}}"
        ));
    }

    #[test]
    fn values_that_double_are_stopped() {
        check_doubling("'aaaaaaaa'", "ns.s ~ ns.s");
        check_doubling("'aaaaaaaa'", "ns.s + ns.s");
        check_doubling("'a'", "[ns.s, ns.s] | join");
        check_doubling("'aa'", "ns.s | replace('a', 'aa')");
        check_doubling("'aa'", "'%s%s' | format(ns.s, ns.s)");
        check_doubling("[1]", "ns.s + ns.s");
        check_stopped(
            "{% set ns = namespace(s='a') %}{% for i in range(40) %}{% set t %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = t %}{% endfor %}",
        );
        check_stopped(
            "{% macro m(s, n) %}{% if n > 0 %}{{ m(s ~ s, n - 1) }}{% endif %}{% endmacro %}{{ m('aaaaaaaa', 24) }}",
        );
    }

    #[test]
    fn nests_that_are_small_until_looked_through_are_stopped() {
        let nest = "{% set ns = namespace(s=[], t=[]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% set ns.t = [ns.t, ns.t] %}{% endfor %}";
        for use_it in [
            "{{ ns.s }}",
            "{{ ns.s ~ '' }}",
            "{{ ns.s | tojson }}",
            "{{ ns.s == ns.t }}",
            "{{ ns.s < ns.t }}",
            "{{ {ns.s: 1} }}",
            "{{ {}[ns.s] }}",
            "{{ ns.s in [ns.t] }}",
            "{{ [ns.s, ns.t] | unique | list }}",
            "{{ ns.s | string }}",
        ] {
            check_stopped(&format!("{nest}{use_it}"));
        }
    }

    #[test]
    fn copies_that_each_are_small_enough_are_stopped() {
        for copy in [
            "messages[0].content[1:]",
            "messages[0].content | upper",
            "messages[0].content.strip('y')",
            "messages[0].content ~ 'y'",
            "messages[0].content | replace('y', '')",
        ] {
            // In a list that weighs, and in a chain that does not.
            for keep in ["ns.l + [copy]", "namespace(l=ns.l, s=copy)"] {
                let keep = keep.replace("copy", copy);
                check_stopped(&format!(
                    "{{% set ns = namespace(l=[]) %}}{{% for i in range(300) %}}{{% set ns.l = {keep} %}}{{% endfor %}}"
                ));
            }
        }
    }

    #[test]
    fn steps_recursion_output_and_padding_are_bounded() {
        check_stopped(
            "{% for a in range(3000) %}{% for b in range(3000) %}{% endfor %}{% endfor %}",
        );
        check_stopped("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}");
        check_stopped("{% for i in range(9000) %}{{ messages[0].content }}{% endfor %}");
        check_stopped("{{ 'a' | indent(1000000000, true) }}");
        check_stopped("{{ '%1000000000d' | format(1) }}");
        check_stopped("{{ '%*d' | format(1000000000, 1) }}");
        check_stopped("{{ '{:>1000000000}'.format(1) }}");
        check_stopped(&format!(
            "{{{{ '{}'.format(messages[0].content) }}}}",
            "{0}".repeat(17)
        ));
    }

    #[test]
    fn what_cannot_be_bounded_is_refused() {
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
        check("{{ x < 2 < 3 }}");
        check("{% for i in [1] %}{{ loop.changed(i) }}{% endfor %}");
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

//! A Jinja program that cannot take more than its share: bounded steps and bounded bytes.
//!
//! The engine counts instructions, but one instruction may double a string, so twenty of them make
//! megabytes. So at load every instruction that makes text or lists is replaced by a checked one of the same
//! effect, which pays for what it makes from the budget of the rendering. What a rendering can hold at any
//! time is then at most:
//! - [`budget::BUDGET_BYTES`] of values and captured text made by operators, filters, methods and output;
//! - [`RAW_BYTES_MAX`] of the template's own text, written by loops into captures: the steps of a template
//!   with long texts are fewer;
//! - the operands and the result of one operation, at most [`budget::OPERAND_BYTES_MAX`] each, times a small factor.
//!
//! Multiplication and unpacking (`*`, `**`) are refused at load: no chat template needs them, and constant
//! expressions with them are computed before anything can be counted.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use minijinja::machinery::{
    self, CompiledTemplate, Instruction, Instructions, TemplateConfig, Token,
};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};

use super::budget;

/// Instructions one rendering may run.
pub const FUEL: u64 = 100_000;
/// Bytes of the template's own text one rendering may write, captures included.
pub const RAW_BYTES_MAX: usize = 64 << 20;
/// Bytes of a template's source.
pub const SOURCE_BYTES_MAX: usize = 128 << 10;

/// A compiled template, with checked instructions.
pub(super) struct Program {
    environment: Environment<'static>,
    instructions: Instructions<'static>,
    blocks: BTreeMap<&'static str, Instructions<'static>>,
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").finish_non_exhaustive()
    }
}

impl Program {
    /// Compiles a template for an environment that has all its functions.
    ///
    /// The source and the names of filters in it stay in memory for good: a template belongs to a model,
    /// and those are loaded once.
    pub(super) fn compile(
        source: String,
        mut environment: Environment<'static>,
    ) -> Result<Self, Error> {
        if source.len() > SOURCE_BYTES_MAX {
            return Err(invalid(format!(
                "the source is longer than {SOURCE_BYTES_MAX} bytes"
            )));
        }
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()?;
        environment.set_syntax(syntax.clone());
        environment.set_debug(false);
        environment.set_recursion_limit(RECURSION_MAX);
        budget::install(&mut environment);
        let source: &'static str = source.leak();
        refuse_multiplication(source, syntax.clone())?;
        let config = TemplateConfig {
            syntax_config: syntax,
            default_auto_escape: Arc::new(|_: &str| AutoEscape::None),
        };
        let compiled = CompiledTemplate::new("chat_template", source, &config)?;
        let (mut instructions, mut blocks) = (compiled.instructions, compiled.blocks);

        let mut raw_bytes_max = 1;
        for instructions in blocks.values_mut().chain([&mut instructions]) {
            raw_bytes_max = raw_bytes_max.max(check_all(instructions, &mut environment)?);
        }
        let fuel = FUEL.min((RAW_BYTES_MAX / raw_bytes_max) as u64);
        environment.set_fuel(Some(fuel));
        Ok(Self {
            environment,
            instructions,
            blocks,
        })
    }

    /// Runs the template.
    pub(super) fn run(&self, context: Value) -> Result<String, Error> {
        let mut text = String::new();
        let mut output = machinery::make_string_output(&mut text);
        let (environment, none) = (&self.environment, AutoEscape::None);
        let (instructions, blocks) = (&self.instructions, &self.blocks);
        machinery::eval(
            environment,
            instructions,
            context,
            blocks,
            &mut output,
            none,
        )?;
        drop(output);
        budget::within_output(text)
    }
}

/// Recursion of macros and loops. Each level takes stack, and threads of the server have 2 MiB.
const RECURSION_MAX: usize = 100;
/// The local slot of instructions whose filter is looked up each time.
const NO_SLOT: u8 = u8::MAX;

fn refuse_multiplication(source: &str, syntax: SyntaxConfig) -> Result<(), Error> {
    for token in machinery::tokenize(source, false, syntax) {
        if matches!(token?.0, Token::Mul | Token::Pow) {
            return Err(invalid(
                "the operators * and ** are not supported".to_owned(),
            ));
        }
    }
    Ok(())
}

/// Replaces the instructions that make or look through values by checked ones, and answers how long the
/// longest raw text is, in bytes.
fn check_all(
    instructions: &mut Instructions<'static>,
    environment: &mut Environment<'static>,
) -> Result<usize, Error> {
    let mut raw_bytes_max = 0;
    for index in 0.. {
        let Some(instruction) = instructions.get_mut(index) else {
            break;
        };
        match instruction {
            Instruction::EmitRaw(text) => raw_bytes_max = raw_bytes_max.max(text.len()),
            Instruction::ApplyFilter(name, ..) => *name = budget::checked_filter(name, environment),
            Instruction::PerformTest(name, ..) => *name = budget::checked_test(name, environment),
            Instruction::CallMethod("changed", _) => {
                return Err(invalid("loop.changed is not supported".to_owned()));
            }
            Instruction::CompareAndPreserve(_) => {
                return Err(invalid("chained comparisons are not supported".to_owned()));
            }
            _ => {
                if let Some((name, operands)) = checked_operation(instruction) {
                    *instruction = Instruction::ApplyFilter(name, Some(operands), NO_SLOT);
                }
            }
        }
    }
    Ok(raw_bytes_max)
}

/// The checked operation in place of an instruction, and how many operands it takes from the stack.
fn checked_operation(instruction: &Instruction<'static>) -> Option<(&'static str, u16)> {
    Some(match instruction {
        Instruction::Add => (budget::ADD, 2),
        Instruction::StringConcat => (budget::CONCAT, 2),
        Instruction::GetItem => (budget::ITEM, 2),
        Instruction::Slice => (budget::SLICE, 4),
        Instruction::BuildMap(pairs) => (budget::MAP, u16::try_from(2 * pairs).ok()?),
        Instruction::Eq => (budget::EQ, 2),
        Instruction::Ne => (budget::NE, 2),
        Instruction::Lt => (budget::LT, 2),
        Instruction::Lte => (budget::LE, 2),
        Instruction::Gt => (budget::GT, 2),
        Instruction::Gte => (budget::GE, 2),
        Instruction::In => (budget::IN, 2),
        _ => return None,
    })
}

fn invalid(why: String) -> Error {
    Error::new(ErrorKind::SyntaxError, why)
}

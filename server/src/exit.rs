//! How the process ends: every exit code, and what the last words are.

/// An exit code: those of `sysexits.h` that mean what happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// A data file is not what it should be.
    Data = 65,
    /// The address is taken or cannot be listened on.
    Address = 69,
    /// An engine failed too often.
    Software = 70,
    /// The operating system refused something, memory above all.
    System = 71,
    /// A file or folder cannot be made.
    Create = 73,
    /// A file cannot be read or written, or the hub cannot be reached.
    Io = 74,
    /// The hub refuses, or we do.
    Refused = 77,
    /// The configuration is wrong, or asks for something that is not there.
    Config = 78,
}

impl Exit {
    /// The code.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// Every code that `serve` ends with, and why. `docs/operating.md` has this table.
    pub const ALL: [(Self, &'static str); 8] = [
        (
            Self::Data,
            "weights or a tokenizer are not what they should be: cut, misshapen, of a wrong type; or the hub says what \
             no hub says",
        ),
        (
            Self::Address,
            "the address is taken or is not this machine's",
        ),
        (
            Self::Software,
            "an engine failed too often: a fault of ours",
        ),
        (
            Self::System,
            "there is not enough memory, or the system refused something else",
        ),
        (Self::Create, "the cache of the hub cannot be written to"),
        (
            Self::Io,
            "a model's file cannot be read or written, the disk is full, the hub cannot be reached, or \
             what it sent is not what it named",
        ),
        (
            Self::Refused,
            "the hub does not show the model (private, gated, or a wrong token), or its weights are \
             pickles, which can run code",
        ),
        (
            Self::Config,
            "a flag, a variable, a key, a folder, `config.json`, a chat template or a name is wrong, \
             a file is missing, or the model is not supported",
        ),
    ];
}

/// Why the process ends early: what to print, and the exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// For people.
    pub message: String,
    /// For scripts.
    pub exit_code: u8,
}

impl Failure {
    /// Something failed.
    pub fn new(exit: Exit, error: impl std::fmt::Display) -> Self {
        Self {
            message: error.to_string(),
            exit_code: exit.code(),
        }
    }

    /// The operating system refused something.
    pub fn system(error: impl std::fmt::Display) -> Self {
        Self::new(Exit::System, error)
    }
}

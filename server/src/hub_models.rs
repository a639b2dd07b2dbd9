//! Models of the hub: from a configuration that names them to one of folders. The only file here
//! that downloads.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use hub::display::{Bars, Lines};
use hub::observe::Observer;
use hub::{Hub, HubError, ModelId, Revision, Settings, Snapshot, Want};

use crate::args::model::LoadFormat;
use crate::config::{Config, Files, LogFormat};
use crate::exit::Failure;

/// Puts a folder in the place of every model of the hub, downloading what is missing.
pub(crate) fn with_folders(mut config: Config) -> Result<Config, Failure> {
    let want = wanted(&config);
    let (format, cache) = (config.log_format, config.hub_cache.clone());
    for source in &mut config.models {
        let Files::Hub(model, revision) = &source.files else {
            continue;
        };
        let name = source.name.clone();
        let print = move |line: &str| tracing::info!(model = name, "{line}");
        let hub = open(cache.clone())?;
        let watch = Watch::new(&hub, model.as_str(), format, print);
        let fetched = hub.fetch(model, revision, want, watch.observer());
        watch.end();
        let Snapshot { folder, commit, .. } = fetched.map_err(|error| asked(model, &error))?;
        tracing::info!(
            model = source.name,
            id = model.as_str(),
            revision = revision.as_str(),
            commit = commit.as_str(),
            "from the hub"
        );
        source.revision = Some(commit.to_string());
        source.files = Files::Folder(folder);
    }
    Ok(config)
}

/// Puts a folder in the place of every model of the hub that the cache has, and leaves out the others;
/// `say` is told what a start would do about each. Nobody is asked.
pub(crate) fn cached(mut config: Config, say: &mut dyn FnMut(&str)) -> Result<Config, Failure> {
    let want = wanted(&config);
    for mut source in std::mem::take(&mut config.models) {
        let Files::Hub(model, revision) = &source.files else {
            config.models.push(source);
            continue;
        };
        let hub = open(config.hub_cache.clone())?;
        let cache = hub.settings().cache.display();
        let found = hub.cached(model, revision, want);
        let is_settled = hub.settings().offline || revision.commit().is_some();
        match found {
            Some(Snapshot { folder, commit, .. }) => {
                say(&if is_settled {
                    format!("{}: commit {commit} in the cache {cache}", source.name)
                } else {
                    let endpoint = hub.settings().endpoint();
                    format!(
                        "{}: commit {commit} in the cache {cache}, unless {endpoint} names a newer \
                         one for {revision}",
                        source.name
                    )
                });
                source.files = Files::Folder(folder);
                config.models.push(source);
            }
            None if hub.settings().offline => return Err(failed(&hub.offline(model, revision))),
            None => {
                let endpoint = hub.settings().endpoint();
                say(&format!(
                    "{}: not in the cache {cache}; a start downloads {model} at {revision} from \
                     {endpoint}, and what it is shows only then",
                    source.name
                ));
            }
        }
    }
    Ok(config)
}

fn wanted(config: &Config) -> Want {
    match config.load_format {
        LoadFormat::Safetensors => Want::Everything,
        LoadFormat::Dummy => Want::Description,
    }
}

/// The hub that the environment names.
pub(crate) fn open(cache: Option<PathBuf>) -> Result<Hub, Failure> {
    let settings = Settings::from_variables(|name| std::env::var_os(name), cache);
    settings.and_then(Hub::new).map_err(|error| failed(&error))
}

/// Downloads so much of a model, for a command: what happens is said on standard error.
pub(crate) fn fetch(
    hub: &Hub,
    (model, revision): (&ModelId, &Revision),
    want: Want,
) -> Result<Snapshot, Failure> {
    let watch = Watch::new(hub, model.as_str(), LogFormat::Text, say);
    let fetched = hub.fetch(model, revision, want, watch.observer());
    watch.end();
    fetched.map_err(|error| failed(&error))
}

/// Says something beside a command's answer.
#[expect(clippy::print_stderr, reason = "of a command, which has no logs")]
pub(crate) fn say(line: &str) {
    eprintln!("{line}");
}

/// The last words about a model that was taken for one of the hub.
fn asked(model: &ModelId, error: &HubError) -> Failure {
    let Failure { message, exit_code } = failed(error);
    let message = if model.as_str().contains('/') {
        message
    } else {
        format!("{message}; here is no folder {model}, so the hub was asked")
    };
    Failure { message, exit_code }
}

/// The last words about a failed download.
pub(crate) fn failed(error: &HubError) -> Failure {
    Failure {
        message: error.to_string(),
        exit_code: error.exit_code(),
    }
}

/// How a download is shown: bars where a person looks at a terminal, lines anywhere else.
pub(crate) enum Watch {
    Bars(Bars),
    Lines(Lines),
}

impl Watch {
    pub(crate) fn new(
        hub: &Hub,
        name: &str,
        format: LogFormat,
        print: impl Fn(&str) + Send + Sync + 'static,
    ) -> Self {
        if format == LogFormat::Text && std::io::stderr().is_terminal() {
            Self::Bars(Bars::stderr(name))
        } else {
            Self::Lines(Lines::new(hub.clock(), print))
        }
    }

    pub(crate) fn observer(&self) -> &dyn Observer {
        match self {
            Self::Bars(bars) => bars,
            Self::Lines(lines) => lines,
        }
    }

    /// Takes the bars away.
    pub(crate) fn end(self) {
        if let Self::Bars(bars) = self {
            bars.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::exit::Exit;

    use super::*;

    #[test]
    fn every_exit_code_of_a_download_is_in_the_table() {
        let known: Vec<u8> = Exit::ALL.iter().map(|(exit, _)| exit.code()).collect();
        let io = || std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let (path, text) = (PathBuf::from("/x"), String::new);
        let model: ModelId = "org/x".parse().unwrap();
        for error in [
            HubError::Id(text()),
            HubError::Stopped,
            HubError::Answer {
                place: text(),
                message: text(),
            },
            HubError::Create {
                path: path.clone(),
                source: io(),
            },
            HubError::Io { path, source: io() },
            HubError::Refused {
                model,
                status: 403,
                hint: text(),
            },
        ] {
            let failure = failed(&error);
            assert!(known.contains(&failure.exit_code), "{error:?}");
        }
    }
}

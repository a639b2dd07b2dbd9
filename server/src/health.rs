//! Health follows the engines: a service is SERVING when every engine behind it completes steps.

use futures_util::future::select_all;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use engine::handle::Health;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::registry::{Ability, Served};

/// The services of `paternoster.v1`, whose health is that of the whole server; `""` is the server.
const SERVICES: [&str; 3] = ["", "paternoster.v1.Inference", "paternoster.v1.Control"];
/// The services of `tei.v1` that need a model which is able to one of these; SERVING while one serves.
const TEI_SERVICES: [(&str, &[Ability]); 3] = [
    ("tei.v1.Embed", &[Ability::Embed, Ability::EmbedSparse]),
    ("tei.v1.Predict", &[Ability::Classify]),
    ("tei.v1.Rerank", &[Ability::Rerank]),
];
/// Those that need no engine: SERVING from the start until a drain.
const TEI_ALWAYS: [&str; 2] = ["tei.v1.Info", "tei.v1.Tokenize"];
/// SERVING while the process is worth keeping: no engine is down for good.
const LIVENESS: &str = "liveness";

/// What the HTTP probes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// Every engine serves, and nothing drains.
    pub ready: bool,
    /// No engine is down for good; one that restarts is not.
    pub alive: bool,
}

impl Default for Readiness {
    /// Nothing is loaded, nothing is broken.
    fn default() -> Self {
        Self {
            ready: false,
            alive: true,
        }
    }
}

/// The reporter before any engine serves. Its `""` is NOT_SERVING, so that no router sends early.
pub(crate) async fn reporter(app: &App) -> HealthReporter {
    let reporter = HealthReporter::new();
    for service in SERVICES {
        reporter
            .set_service_status(service, ServingStatus::NotServing)
            .await;
    }
    for model in app.registry.models() {
        reporter
            .set_service_status(name_of(model.name()), ServingStatus::NotServing)
            .await;
    }
    report_tei(&reporter, &[], ServingStatus::Serving).await;
    reporter
        .set_service_status(LIVENESS, ServingStatus::Serving)
        .await;
    reporter
}

/// Reports every change of the engines until `stop`, then NOT_SERVING. Run as a task of its own;
/// when it has ended, nothing says SERVING any more but `liveness`.
pub(crate) async fn follow(app: &App, reporter: &HealthReporter, stop: &CancellationToken) {
    let mut engines: Vec<Engine> = app
        .registry
        .models()
        .iter()
        .map(|model| Engine::new(model.name(), model.health()))
        .collect();
    loop {
        for engine in &mut engines {
            let serving = status(engine.state() == Health::Serving);
            reporter.set_service_status(&engine.service, serving).await;
        }
        let models = app.registry.models().iter().zip(&engines);
        let serving = models.filter(|(_, engine)| engine.last == Health::Serving);
        let serving: Vec<&Served> = serving.map(|(model, _)| model).collect();
        report_tei(reporter, &serving, ServingStatus::Serving).await;
        let readiness = Readiness {
            ready: !engines.is_empty() && engines.iter().all(|e| e.last == Health::Serving),
            alive: engines.iter().all(|engine| engine.last != Health::Down),
        };
        report(reporter, readiness).await;
        app.readiness.send_replace(readiness);
        let changes: Vec<_> = engines.iter_mut().map(|e| Box::pin(e.changed())).collect();
        tokio::select! {
            () = stop.cancelled() => return stopped(app, reporter).await,
            () = changed(changes) => {}
        }
    }
}

/// Says NOT_SERVING everywhere but under `liveness`: the first act of a drain.
async fn stopped(app: &App, reporter: &HealthReporter) {
    report(reporter, Readiness::default()).await;
    report_tei(reporter, &[], ServingStatus::NotServing).await;
    for model in app.registry.models() {
        reporter
            .set_service_status(name_of(model.name()), ServingStatus::NotServing)
            .await;
    }
    app.readiness.send_replace(Readiness::default());
}

async fn report(reporter: &HealthReporter, readiness: Readiness) {
    for service in SERVICES {
        reporter
            .set_service_status(service, status(readiness.ready))
            .await;
    }
    reporter
        .set_service_status(LIVENESS, status(readiness.alive))
        .await;
}

/// Reports the services of `tei.v1` by the models that serve.
async fn report_tei(reporter: &HealthReporter, serving: &[&Served], always: ServingStatus) {
    for service in TEI_ALWAYS {
        reporter.set_service_status(service, always).await;
    }
    for (service, abilities) in TEI_SERVICES {
        let able = |model: &&Served| match model {
            Served::Encoder(encoder) => {
                let mut abilities = abilities.iter();
                abilities.any(|ability| ability.is_of(&encoder.task))
            }
            Served::Decoder(_) => false,
        };
        let serves = status(serving.iter().any(able));
        reporter.set_service_status(service, serves).await;
    }
}

async fn changed<F: Future<Output = ()> + Unpin>(changes: Vec<F>) {
    if changes.is_empty() {
        std::future::pending::<()>().await;
    } else {
        select_all(changes).await;
    }
}

fn status(serving: bool) -> ServingStatus {
    if serving {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    }
}

fn name_of(model: &str) -> String {
    format!("model/{model}")
}

/// One engine as it is followed.
struct Engine {
    service: String,
    health: watch::Receiver<Health>,
    last: Health,
    gone: bool,
}

impl Engine {
    fn new(name: &str, health: watch::Receiver<Health>) -> Self {
        Self {
            service: name_of(name),
            health,
            last: Health::Starting,
            gone: false,
        }
    }

    /// The latest state; an engine that says nothing any more is down.
    fn state(&mut self) -> Health {
        self.last = if self.gone {
            Health::Down
        } else {
            *self.health.borrow_and_update()
        };
        self.last
    }

    async fn changed(&mut self) {
        if self.gone {
            std::future::pending::<()>().await;
        }
        self.gone = self.health.changed().await.is_err();
    }
}

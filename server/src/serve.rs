//! A server from its bound listener to its last goodbye.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use crate::app::App;
use crate::edge::Edge;
use crate::listener::{self, Stages};
use crate::metrics::UPKEEP_INTERVAL;
use crate::{grpc, health};

/// What calls have, after they were aborted, to tell their clients.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// What connections have, after the last call, to take the goodbye.
const GOODBYE: Duration = Duration::from_millis(500);

/// Serves until `shutdown` or `Control.Drain`, then drains: health turns first, new work is
/// refused, running work ends (or is aborted after `drain_timeout`, or at once when
/// `lifecycle.abort` is cancelled), connections close. Returns in bounded time whatever clients do.
pub async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let reporter = health::reporter(&app).await;
    let routes = grpc::routes(&app, &reporter).map_err(io::Error::other)?;
    let mut tasks = Tasks::default();
    let (followed, follower) = (Arc::clone(&app), reporter.clone());
    tasks.spawn(async move { health::follow(&followed, &follower).await });
    if let Some(recorder) = app.metrics.clone() {
        tasks.spawn(async move {
            let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
            loop {
                ticks.tick().await;
                recorder.run_upkeep();
            }
        });
    }
    for model in app.registry.models() {
        crate::metrics::model(model.name(), model.facts());
    }
    let stages = Stages::default();
    let edge = Edge::new(Arc::clone(&app), routes);
    let limits = app.limits.clone();
    let connections = tokio::spawn(listener::run(listener, edge, limits, stages.clone()));
    tokio::select! {
        () = shutdown => {}
        () = app.lifecycle.drain_asked.cancelled() => {}
        () = app.lifecycle.abort.cancelled() => {}
    }
    health::stop(&app, &reporter).await;
    drain(&app).await;
    stages.goodbye.cancel();
    tokio::spawn(async move {
        tokio::time::sleep(GOODBYE).await;
        stages.close.cancel();
    });
    connections.await.map_err(io::Error::other)
}

/// Refuses new work and waits for the end of the old.
async fn drain(app: &App) {
    let lifecycle = &app.lifecycle;
    lifecycle.draining.cancel();
    tracing::info!(running = lifecycle.running(), "draining");
    for model in app.registry.models() {
        model.drain();
    }
    tokio::select! {
        () = lifecycle.idle() => return,
        () = lifecycle.abort.cancelled() => {}
        () = tokio::time::sleep(app.limits.drain_timeout) => {}
    }
    tracing::warn!(running = lifecycle.running(), "aborting what still runs");
    lifecycle.abort.cancel();
    for model in app.registry.models() {
        model.abort_all();
    }
    if tokio::time::timeout(LAST_WORDS, lifecycle.idle())
        .await
        .is_err()
    {
        tracing::warn!(running = lifecycle.running(), "some calls did not end");
    }
}

/// Background tasks that end with the server.
#[derive(Default)]
struct Tasks(Vec<AbortHandle>);

impl Tasks {
    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.push(tokio::spawn(task).abort_handle());
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

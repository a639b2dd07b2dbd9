//! A server from its bound listener to its last goodbye.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::clock::Deadline;
use crate::edge::Edge;
use crate::metrics::UPKEEP_INTERVAL;
use crate::transport::{Entrance, Listeners, Socket, Stages};
use crate::{grpc, health, manager, series};

/// What calls have, after they were aborted, to tell their clients.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// What connections have at least, after the last call, to take the goodbye.
const GOODBYE: Duration = Duration::from_millis(500);

/// Serves until `shutdown` or `Control.Drain`, then drains: health turns first, new work is
/// refused, running work ends (or is aborted after `drain_timeout`, or at once when
/// `lifecycle.abort` is cancelled), connections close. Returns in bounded time whatever clients do.
pub async fn serve(
    listeners: impl Into<Listeners>,
    app: Arc<App>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let reporter = health::reporter(&app).await;
    let routes = grpc::routes(&app, &reporter).map_err(io::Error::other)?;
    let mut tasks = Tasks::default();
    let stop = CancellationToken::new();
    let (followed, stopped) = (Arc::clone(&app), stop.clone());
    let health = tokio::spawn(async move { health::follow(&followed, &reporter, &stopped).await });
    let swept = Arc::clone(&app);
    tasks.spawn(async move { swept.sweeper.run(&swept).await });
    tasks.spawn(manager::follow(Arc::clone(&app), stop.clone()));
    let security = Arc::clone(&app.security);
    if let Some(tls) = security.tls.clone() {
        tasks.spawn(tls.follow(security.reload_interval));
    }
    if let Some(keys) = security.keys.clone() {
        tasks.spawn(keys.follow(security.reload_interval));
    }
    if let Some(recorder) = app.metrics.clone() {
        tasks.spawn(async move {
            let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
            loop {
                ticks.tick().await;
                recorder.run_upkeep();
            }
        });
    }
    series::begin(&app.registry);
    let stages = Stages::default();
    let edge = Edge::new(Arc::clone(&app), routes);
    let mut entrances = open(listeners.into(), &edge, &app, &stages);
    tokio::select! {
        () = shutdown => {}
        () = app.lifecycle.drain_asked.cancelled() => {}
        () = app.lifecycle.abort.cancelled() => {}
    }
    let end = Deadline::after(app.limits.drain_timeout);
    app.manager.stopping();
    // Health turns before anything is refused, so that routers look elsewhere first.
    stop.cancel();
    health.await.map_err(io::Error::other)?;
    drain(&app, end).await;
    app.lifecycle.leaving.cancel();
    stages.goodbye.cancel();
    // The last answers may still be on their way.
    let goodbye = end.remaining().max(GOODBYE);
    tokio::spawn(async move {
        tokio::time::sleep(goodbye).await;
        stages.close.cancel();
    });
    while let Some(ended) = entrances.join_next().await {
        ended.map_err(io::Error::other)?;
    }
    Ok(())
}

/// Opens every entrance.
fn open(listeners: Listeners, edge: &Edge, app: &App, stages: &Stages) -> JoinSet<()> {
    let mut entrances = vec![Entrance {
        socket: Socket::Tcp(listeners.main),
        edge: edge.clone(),
        tls: app.security.tls.clone(),
    }];
    entrances.extend(listeners.probes.map(|listener| Entrance {
        socket: Socket::Tcp(listener),
        edge: edge.clone().for_probes(),
        tls: None,
    }));
    entrances.extend(listeners.unix.map(|socket| Entrance {
        socket: Socket::Unix(socket),
        edge: edge.clone(),
        tls: None,
    }));
    let run = |entrance: Entrance| entrance.run(app.limits.clone(), stages.clone());
    entrances.into_iter().map(run).collect()
}

/// Refuses new calls and waits for the end of the old. What is admitted may still submit work to
/// its model, so models take it until the last call has ended.
async fn drain(app: &App, end: Deadline) {
    let lifecycle = &app.lifecycle;
    lifecycle.draining.cancel();
    tracing::info!(running = lifecycle.running(), "draining");
    let in_time = tokio::select! {
        () = lifecycle.idle() => true,
        () = lifecycle.abort.cancelled() => false,
        () = end.sleep() => false,
    };
    for model in app.registry.models() {
        model.drain();
    }
    if in_time {
        return;
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

//! Streams of requests: read one by one, worked on a bounded number at a time, answered in order.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::{self, Stream, StreamExt as _};
use tonic::{Code, Status, Streaming};

use crate::app::App;
use crate::call::Held;
use crate::clock::Deadline;
use crate::dialects;
use crate::edge::{Context, Timeout};
use crate::metrics;
use crate::status::{Ending, Fault, code_name};

/// The answers of a method to a stream, as the library takes them.
pub(crate) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// How a method answers its stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    /// Its word in metrics.
    pub(crate) method: &'static str,
    /// Requests that are worked on, or whose answers wait for those before them.
    pub(crate) at_once: usize,
    /// How long each keeps its place.
    pub(crate) place: Until,
}

/// The end of a request's place among the calls that run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// Its answer is there.
    Answered,
    /// The transport takes its answer: for answers so large that few may wait to be read.
    Taken,
}

/// A request of a stream, with its place among the calls that run at once. Between its requests a
/// stream may be silent, so it has no place of its own.
#[derive(Debug)]
pub(crate) struct Arrived<T> {
    pub(crate) context: Context,
    pub(crate) message: T,
    pub(crate) place: Held,
}

/// Why there is no answer to a request of a stream.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// There is no request: the stream broke off, or nothing came in time.
    Absent(Status),
    /// It was refused, or failed.
    Failed(Status),
}

impl From<Unanswered> for Status {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Absent(status) | Unanswered::Failed(status) => status,
        }
    }
}

impl From<Fault> for Unanswered {
    fn from(fault: Fault) -> Self {
        Self::Failed(fault.into())
    }
}

/// The requests of a stream. The next one is read when this one has its place, so that a stream holds
/// one message more than it has places.
pub(crate) fn arriving<T: Send + 'static>(
    app: Arc<App>,
    context: Context,
    requests: Streaming<T>,
) -> impl Stream<Item = Result<Arrived<T>, Unanswered>> + Send {
    stream::unfold(requests, move |mut requests| {
        let (app, context) = (Arc::clone(&app), context.clone());
        async move {
            let arrived = next(&app, context, &mut requests).await?;
            Some((arrived, requests))
        }
    })
}

async fn next<T>(
    app: &App,
    mut context: Context,
    requests: &mut Streaming<T>,
) -> Option<Result<Arrived<T>, Unanswered>> {
    let by = Deadline::after(app.limits.stream_idle_timeout);
    let read = tokio::select! {
        biased;
        () = app.lifecycle.draining.cancelled() => Err(Unanswered::Absent(Fault::draining().into())),
        read = requests.next() => read?.map_err(unread),
        () = by.sleep() => Err(Unanswered::Absent(Fault::message_overdue().into())),
    };
    let message = match read {
        Ok(message) => message,
        Err(unanswered) => return Some(Err(unanswered)),
    };
    if context.timeout == Timeout::Longest {
        context.deadline = Deadline::after(app.limits.request_timeout_max);
    }
    Some(match context.wait_for_place(app).await {
        Ok(place) => Ok(Arrived {
            context,
            message,
            place,
        }),
        Err(fault) => Err(fault.into()),
    })
}

/// Answers a stream in order by `work`. The first error ends it.
pub(crate) fn answers<T, A, W, F>(
    app: Arc<App>,
    context: Context,
    requests: Streaming<T>,
    flow: Flow,
    work: W,
) -> Answers<A>
where
    T: Send + 'static,
    A: Send + 'static,
    W: Fn(Context, T) -> F + Send + 'static,
    F: Future<Output = Result<A, Fault>> + Send + 'static,
{
    let deadline = (context.timeout == Timeout::Asked).then_some(context.deadline);
    let report = Arc::clone(&context.report);
    let answers = arriving(app, context, requests)
        .map(move |arrived| {
            let arrived = arrived.map(|arrived| {
                let answer = work(arrived.context, arrived.message);
                (Box::pin(answer), arrived.place)
            });
            async move {
                let (answer, place) = arrived?;
                let answer = answer.await?;
                let place = (flow.place == Until::Taken).then_some(place);
                Ok::<_, Unanswered>((answer, place))
            }
        })
        .buffered(flow.at_once)
        .map(move |answered| {
            let ending = match &answered {
                Ok(_) => Some(Ending::OK),
                Err(Unanswered::Failed(status)) => Some(Ending::of(status)),
                Err(Unanswered::Absent(_)) => None,
            };
            if let Some(ending) = ending {
                metrics::stream_message(flow.method, code_name(ending.code));
                dialects::answered(flow.method, &report.model(), ending);
            }
            let (answer, _place) = answered?;
            Ok::<_, Status>(answer)
        });
    Box::pin(until_error(Box::pin(answers), deadline))
}

/// Ends a stream with its first error, or when its time has passed.
fn until_error<T: Send + 'static>(
    answers: impl Stream<Item = Result<T, Status>> + Unpin + Send,
    deadline: Option<Deadline>,
) -> impl Stream<Item = Result<T, Status>> + Send {
    stream::unfold(Some(answers), move |answers| async move {
        let mut answers = answers?;
        let answer = match deadline {
            None => answers.next().await?,
            Some(deadline) => match deadline.limit(answers.next()).await {
                Some(answer) => answer?,
                None => Err(Fault::deadline().into()),
            },
        };
        let go_on = answer.is_ok().then_some(answers);
        Some((answer, go_on))
    })
}

/// The library's code for a message above the limit, rewritten as the edge does for single ones.
fn unread(status: Status) -> Unanswered {
    match status.code() {
        Code::OutOfRange => Fault::message_too_large(status.message()).into(),
        _ => Unanswered::Absent(status),
    }
}

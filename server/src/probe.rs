//! The `health` sub-command: one question to a running server, answered by the exit code.

use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::args::health::HealthArgs;

/// What the server said, with the exit codes that health probes of gRPC have everywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// SERVING.
    Serving,
    /// There is no such address.
    BadAddress(String),
    /// It cannot be reached.
    Unreachable(String),
    /// It does not answer, or does not know the service.
    NoAnswer(String),
    /// It answers something else than SERVING.
    NotServing(String),
}

impl Answer {
    /// The exit code, and what to tell the user: nothing where all is well.
    pub fn code_and_text(self) -> (u8, String) {
        match self {
            Self::Serving => (0, String::new()),
            Self::BadAddress(text) => (1, text),
            Self::Unreachable(text) => (2, text),
            Self::NoAnswer(text) => (3, text),
            Self::NotServing(text) => (4, text),
        }
    }
}

/// Asks once.
pub async fn ask(args: &HealthArgs) -> Answer {
    let address = args.address();
    let endpoint = match Endpoint::from_shared(format!("http://{address}")) {
        Ok(endpoint) => endpoint.connect_timeout(args.timeout).timeout(args.timeout),
        Err(error) => return Answer::BadAddress(format!("{address}: {error}")),
    };
    let channel = match endpoint.connect().await {
        Ok(channel) => channel,
        Err(error) => return Answer::Unreachable(format!("{address}: {error}")),
    };
    let request = HealthCheckRequest {
        service: args.service.clone(),
    };
    match HealthClient::new(channel).check(request).await {
        Ok(answer) if answer.get_ref().status() == ServingStatus::Serving => Answer::Serving,
        Ok(answer) => Answer::NotServing(answer.get_ref().status().as_str_name().to_owned()),
        Err(status) => Answer::NoAnswer(format!("{:?}: {}", status.code(), status.message())),
    }
}

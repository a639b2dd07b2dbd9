//! The `health` sub-command: one question to a running server, answered by the exit code.

use std::path::Path;

use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
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
    let endpoint = match endpoint(args, &address) {
        Ok(endpoint) => endpoint.connect_timeout(args.timeout).timeout(args.timeout),
        Err(why) => return Answer::BadAddress(format!("{address}: {why}")),
    };
    let channel = match endpoint.connect().await {
        Ok(channel) => channel,
        Err(error) => return Answer::Unreachable(format!("{address}: {}", innermost(&error))),
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

/// What happened, below what only says that something did.
fn innermost(error: &dyn std::error::Error) -> &dyn std::error::Error {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner
}

fn endpoint(args: &HealthArgs, address: &str) -> Result<Endpoint, String> {
    let scheme = if args.tls_ca.is_some() {
        "https"
    } else {
        "http"
    };
    let endpoint = Endpoint::from_shared(format!("{scheme}://{address}"));
    let endpoint = endpoint.map_err(|error| error.to_string())?;
    let Some(authorities) = &args.tls_ca else {
        return Ok(endpoint);
    };
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(authorities)?));
    if let Some(name) = &args.tls_server_name {
        tls = tls.domain_name(name);
    }
    if let (Some(cert), Some(key)) = (&args.tls_client_cert, &args.tls_client_key) {
        tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
    }
    endpoint.tls_config(tls).map_err(|error| error.to_string())
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

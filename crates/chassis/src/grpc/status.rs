//! Problems as gRPC statuses: one set of rules, told in two languages.

use std::{collections::HashMap, time::Duration};

use http::StatusCode;
use serde_json::Value;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{FieldError, Problem};

/// Whose reasons those in `google.rpc.ErrorInfo` are.
const DOMAIN: &str = "hedgerow.dev";

/// How long a caller is asked to wait after UNAVAILABLE.
const RETRY_DELAY: Duration = Duration::from_secs(1);

impl From<Problem> for Status {
    fn from(problem: Problem) -> Self {
        let code = code(&problem);
        let mut details = ErrorDetails::new();
        if let Some(kind) = problem.kind() {
            details.set_error_info(reason(kind), DOMAIN, metadata(&problem));
        }
        for error in problem.errors() {
            details.add_bad_request_violation(field(error), &error.detail);
        }
        if code == Code::Unavailable {
            details.set_retry_info(Some(RETRY_DELAY));
        }
        let mut status = Self::with_error_details(code, problem.detail(), details);
        if let Some(cause) = problem.cause() {
            status.set_source(cause.0.clone());
        }
        status
    }
}

fn code(problem: &Problem) -> Code {
    match problem.status() {
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => Code::InvalidArgument,
        StatusCode::NOT_FOUND => Code::NotFound,
        StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED => Code::FailedPrecondition,
        // Not UNAVAILABLE: clients take that for leave to repeat a call, whatever it does.
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY if problem.kind().is_some() => Code::Unknown,
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY => Code::Unavailable,
        StatusCode::GATEWAY_TIMEOUT => Code::DeadlineExceeded,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::PAYLOAD_TOO_LARGE => Code::ResourceExhausted,
        StatusCode::NOT_IMPLEMENTED => Code::Unimplemented,
        _ => Code::Internal,
    }
}

/// What a problem of its kind has besides; text as it stands, anything else as JSON.
fn metadata(problem: &Problem) -> HashMap<String, String> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    problem.extensions().iter().map(|(name, value)| (name.clone(), text(value))).collect()
}

/// `insufficient-stock` is `INSUFFICIENT_STOCK`, as `google.rpc.ErrorInfo` has it.
fn reason(kind: &str) -> String {
    kind.replace('-', "_").to_uppercase()
}

/// A pointer as a path of fields, as `google.rpc.BadRequest` has it: `#/items/0/quantity` is `items[0].quantity`.
fn field(error: &FieldError) -> String {
    let place = error.pointer.as_deref().or(error.parameter.as_deref()).unwrap_or_default();
    let steps = place.trim_start_matches(['#', '/']).split('/').map(|step| {
        let is_index = !step.is_empty() && step.bytes().all(|byte| byte.is_ascii_digit());
        if is_index { format!("[{step}]") } else { format!(".{step}") }
    });
    steps.collect::<String>().trim_start_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_request_names_its_fields() {
        let errors = vec![FieldError::at("/items/0/quantity", "must be from 1"), FieldError::at("/ttl", "too long")];
        let status = Status::from(Problem::invalid(errors));
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        let violations = details.bad_request().expect("field violations").field_violations.iter();
        let fields: Vec<_> = violations.map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["items[0].quantity", "ttl"]);
        assert_eq!(details.error_info().expect("a reason").reason, "INVALID_REQUEST");
    }

    #[test]
    fn only_what_was_not_done_is_unavailable() {
        let away = Status::from(Problem::unavailable("away"));
        assert_eq!(away.code(), Code::Unavailable);
        assert_eq!(away.get_error_details().retry_info().and_then(|info| info.retry_delay), Some(RETRY_DELAY));
        let unknown = Status::from(Problem::outcome_unknown());
        assert_eq!(unknown.code(), Code::Unknown);
        assert_eq!(unknown.get_error_details().error_info().expect("a reason").reason, "OUTCOME_UNKNOWN");
    }

    #[test]
    fn what_a_kind_has_besides_is_told_with_its_reason() {
        let problem = Problem::of_kind(StatusCode::CONFLICT, "reservation-ended", "ended").with("state", "released");
        let status = Status::from(problem.with("items", [1]));
        assert_eq!(status.code(), Code::FailedPrecondition);
        let details = status.get_error_details();
        let info = details.error_info().expect("a reason");
        let metadata: HashMap<_, _> =
            [("state", "released"), ("items", "[1]")].map(|(k, v)| (k.into(), v.into())).into();
        assert_eq!((info.reason.as_str(), &info.metadata), ("RESERVATION_ENDED", &metadata));
    }

    #[test]
    fn a_cause_is_for_the_log_alone() {
        let status = Status::from(Problem::internal("secret"));
        assert_eq!(status.code(), Code::Internal);
        assert!(!status.message().contains("secret") && !String::from_utf8_lossy(status.details()).contains("secret"));
        assert_eq!(std::error::Error::source(&status).expect("a cause").to_string(), "secret");
    }
}

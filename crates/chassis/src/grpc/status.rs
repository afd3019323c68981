//! Problems as tonic statuses.

use runtime::{Problem, grpc::GrpcStatus};
use tonic::{Code, Status};

/// Turns a problem into the status that a handler returns. The cause is only logged.
#[must_use]
pub fn status(problem: Problem) -> Status {
    let GrpcStatus { code, message, details, cause } = problem.into();
    let mut status = Status::with_details(Code::from_i32(code), message, details.into());
    if let Some(cause) = cause {
        status.set_source(cause.0);
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;
    use runtime::FieldError;
    use std::{collections::HashMap, time::Duration};
    use tonic_types::StatusExt;

    const RETRY_DELAY: Duration = Duration::from_secs(1);

    #[test]
    fn an_invalid_request_names_its_fields() {
        let errors = vec![FieldError::at("/items/0/quantity", "must be from 1"), FieldError::at("/ttl", "too long")];
        let status = status(Problem::invalid(errors));
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        let violations = details.bad_request().expect("field violations").field_violations.iter();
        let fields: Vec<_> = violations.map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["items[0].quantity", "ttl"]);
        assert_eq!(details.error_info().expect("a reason").reason, "INVALID_REQUEST");
    }

    #[test]
    fn only_a_call_without_effect_is_unavailable() {
        let away = status(Problem::unavailable("away"));
        assert_eq!(away.code(), Code::Unavailable);
        assert_eq!(away.get_error_details().retry_info().and_then(|info| info.retry_delay), Some(RETRY_DELAY));
        let unknown = status(Problem::outcome_unknown());
        assert_eq!(unknown.code(), Code::Unknown);
        assert_eq!(unknown.get_error_details().error_info().expect("a reason").reason, "OUTCOME_UNKNOWN");
    }

    #[test]
    fn extension_members_become_metadata_of_the_reason() {
        let problem = Problem::with_kind(StatusCode::CONFLICT, "reservation-ended", "ended").with("state", "released");
        let status = status(problem.with("items", [1]));
        assert_eq!(status.code(), Code::FailedPrecondition);
        let details = status.get_error_details();
        let info = details.error_info().expect("a reason");
        let metadata: HashMap<_, _> =
            [("state", "released"), ("items", "[1]")].map(|(k, v)| (k.into(), v.into())).into();
        assert_eq!((info.reason.as_str(), &info.metadata), ("RESERVATION_ENDED", &metadata));
    }

    #[test]
    fn a_cause_is_not_sent_to_the_caller() {
        let status = status(Problem::internal("secret"));
        assert_eq!(status.code(), Code::Internal);
        assert!(!status.message().contains("secret") && !String::from_utf8_lossy(status.details()).contains("secret"));
        assert_eq!(std::error::Error::source(&status).expect("a cause").to_string(), "secret");
    }
}

//! `/docs` and `/openapi.json`: the APIs of all services in one document.

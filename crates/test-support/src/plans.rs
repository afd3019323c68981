//! Judges the plans of a service's statements by their shape, and by the blocks that they read.

use std::{collections::BTreeMap, fs, path::Path};

use chassis::database::SESSION;
use serde_json::Value;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, PgPool, raw_sql};

/// The plan of each statement: the kinds of its nodes with their tables, indexes and conditions.
pub type Plans = BTreeMap<String, Vec<String>>;

/// Plans all statements of a service, which are in its folder `.sqlx`, as its sessions do.
///
/// # Panics
/// Panics if a statement cannot be planned, reads a whole table or index, or passes entries of an index that it does
/// not need.
pub async fn plans(pool: &PgPool, service: &Path) -> Plans {
    let statements = statements(service);
    let statements: Vec<_> = statements.iter().map(|(query, parameters)| (query.as_str(), *parameters)).collect();
    plans_of(pool, &statements).await
}

/// Plans these statements, each with the number of its parameters, as the sessions of a service do.
///
/// # Panics
/// Panics in the same cases as [`plans`].
pub async fn plans_of(pool: &PgPool, statements: &[(&str, usize)]) -> Plans {
    let mut connection = connect(pool).await;
    let mut plans = Plans::new();
    for (query, parameters) in statements {
        let nulls = vec!["NULL"; *parameters].join(", ");
        let plan = explain(&mut connection, "FORMAT JSON", query, &nulls).await;
        let mut nodes = Vec::new();
        judge(&plan[0]["Plan"], query, &mut nodes);
        plans.insert((*query).to_owned(), nodes);
    }
    connection.close().await.expect("closed");
    plans
}

/// Executes the statement of a service that contains a text, with parameters in SQL. Returns how many blocks it read.
///
/// # Panics
/// Panics if there is not exactly one such statement, or if it fails.
pub async fn blocks(pool: &PgPool, service: &Path, text: &str, parameters: &str) -> i64 {
    let found: Vec<String> =
        statements(service).into_iter().map(|(query, _)| query).filter(|query| query.contains(text)).collect();
    let [query] = found.as_slice() else { panic!("{} statements contain {text}", found.len()) };
    let mut connection = connect(pool).await;
    let plan = explain(&mut connection, "ANALYZE, BUFFERS, FORMAT JSON", query, parameters).await;
    connection.close().await.expect("closed");
    let blocks = |name: &str| plan[0]["Plan"][name].as_i64().expect("a number");
    blocks("Shared Hit Blocks") + blocks("Shared Read Blocks")
}

/// Opens a session such as those of services.
async fn connect(pool: &PgPool) -> PgConnection {
    (*pool.connect_options()).clone().options(SESSION).connect().await.expect("a connection")
}

/// The statements of a service, each with its number of parameters.
fn statements(service: &Path) -> Vec<(String, usize)> {
    let entries = fs::read_dir(service.join(".sqlx")).expect("the folder");
    let statements = entries.map(|entry| {
        let text = fs::read_to_string(entry.expect("an entry").path()).expect("a file");
        let statement: Value = serde_json::from_str(&text).expect("JSON");
        let parameters = statement["describe"]["parameters"]["Left"].as_array().expect("parameters").len();
        (statement["query"].as_str().expect("a query").to_owned(), parameters)
    });
    let statements: Vec<_> = statements.collect();
    assert!(!statements.is_empty(), "no statement in {}", service.display());
    statements
}

/// Returns the generic plan of a statement, which does not depend on the values of its parameters.
async fn explain(connection: &mut PgConnection, options: &str, query: &str, parameters: &str) -> Value {
    let parameters = if parameters.is_empty() { String::new() } else { format!("({parameters})") };
    let prepare = AssertSqlSafe(format!("PREPARE judged AS {query}"));
    raw_sql(prepare).execute(&mut *connection).await.unwrap_or_else(|error| panic!("{query}: {error}"));
    let explain = AssertSqlSafe(format!("EXPLAIN ({options}) EXECUTE judged{parameters}"));
    let plan = sqlx::query_scalar(explain).persistent(false).fetch_one(&mut *connection).await.expect("a plan");
    raw_sql("DEALLOCATE judged").execute(connection).await.expect("deallocated");
    plan
}

fn judge(node: &Value, query: &str, nodes: &mut Vec<String>) {
    let text = |name: &str| node[name].as_str().unwrap_or_default();
    let (kind, filter, condition) = (text("Node Type"), text("Filter"), text("Index Cond"));
    let summary = [kind, text("Relation Name"), text("Index Name"), condition, filter].join(" ");
    assert_ne!(kind, "Seq Scan", "reads a whole table: {summary}\n{query}");
    if kind.contains("Index") {
        assert_ne!(condition, "", "reads a whole index: {summary}\n{query}");
        // Keys must be found by an index that starts with them.
        let has_key = ["product_id =", "user_id =", "lower("].iter().any(|key| filter.contains(key));
        assert!(!has_key, "passes entries of others: {summary}\n{query}");
    }
    nodes.push(summary);
    for child in node["Plans"].as_array().into_iter().flatten() {
        let sorts = kind == "Limit" && child["Node Type"] == "Sort";
        assert!(!sorts, "reads more rows than its limit: {child}\n{query}");
        judge(child, query, nodes);
    }
}

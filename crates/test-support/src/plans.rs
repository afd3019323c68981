//! Judges the plans of a service's statements by their shape.

use std::{collections::BTreeMap, fs, path::Path};

use chassis::database::SESSION;
use serde_json::Value;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, PgPool, raw_sql};

/// The plan of each statement: the kinds of its nodes with their tables, indexes and conditions.
pub type Plans = BTreeMap<String, Vec<String>>;

/// Plans all statements of a service, which are in its folder `.sqlx`, as its sessions do.
///
/// # Panics
/// Panics if a statement cannot be planned, reads a whole table or index, or passes entries of an index that it does not
/// need.
pub async fn plans(pool: &PgPool, service: &Path) -> Plans {
    let mut statements = Vec::new();
    for entry in fs::read_dir(service.join(".sqlx")).expect("the folder") {
        let text = fs::read_to_string(entry.expect("an entry").path()).expect("a file");
        let statement: Value = serde_json::from_str(&text).expect("JSON");
        let query = statement["query"].as_str().expect("a query").to_owned();
        statements.push((query, statement["describe"]["parameters"]["Left"].as_array().expect("parameters").len()));
    }
    assert!(!statements.is_empty(), "no statement in {}", service.display());
    let statements: Vec<_> = statements.iter().map(|(query, parameters)| (query.as_str(), *parameters)).collect();
    plans_of(pool, &statements).await
}

/// Plans these statements, each with the number of its parameters, as the sessions of a service do.
///
/// # Panics
/// Panics in the same cases as [`plans`].
pub async fn plans_of(pool: &PgPool, statements: &[(&str, usize)]) -> Plans {
    let options = (*pool.connect_options()).clone().options(SESSION);
    let mut connection = options.connect().await.expect("a connection");
    let mut plans = Plans::new();
    for (query, parameters) in statements {
        let plan = explain(&mut connection, query, *parameters).await;
        let mut nodes = Vec::new();
        judge(&plan[0]["Plan"], query, &mut nodes);
        plans.insert((*query).to_owned(), nodes);
    }
    connection.close().await.expect("closed");
    plans
}

/// Returns the generic plan of a statement, which does not depend on the values of its parameters.
async fn explain(connection: &mut PgConnection, query: &str, parameters: usize) -> Value {
    let nulls = vec!["NULL"; parameters].join(", ");
    let values = if parameters == 0 { String::new() } else { format!("({nulls})") };
    let prepare = AssertSqlSafe(format!("PREPARE judged AS {query}"));
    raw_sql(prepare).execute(&mut *connection).await.unwrap_or_else(|error| panic!("{query}: {error}"));
    let explain = AssertSqlSafe(format!("EXPLAIN (FORMAT JSON) EXECUTE judged{values}"));
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

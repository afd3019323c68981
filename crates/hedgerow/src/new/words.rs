//! The words that a service's name becomes in the templates, and names that would not work.

/// Names that Rust and Cargo reserve: for crates, folders or keywords.
const RUST_WORDS: &str = " abstract alloc as async await become box break build const continue core crate deps do dyn \
    else enum examples extern false final fn for gen if impl in incremental let loop macro match mod move mut override \
    priv proc-macro pub ref return self static std struct super test trait true try type typeof unsafe unsized use \
    virtual where while yield ";

/// Types that are in scope in the templates; the type of the service gets another name.
const TYPES: &str = " App Box Claim Database DatabaseError DateTime Deserialize Err Error Fields From FromFields \
    IdempotencyKey IntoParams IntoResponse Item Iterator Json KeyReused Limit Method Migrator Name None Ok \
    OpenApiRouter Option OriginalUri Page Parameters Path PgConnection Problem Query Response Result Self Serialize \
    Service Some State StatusCode String ToSchema TryFrom Utc Uuid Vec ";

/// Words that Postgres does not accept as a table name.
const SQL_WORDS: &str = " all analyse analyze and any array as asc asymmetric authorization binary both case cast check \
    collate collation column concurrently constraint create cross current_catalog current_date current_role \
    current_schema current_time current_timestamp current_user default deferrable desc distinct do else end except false \
    fetch for foreign freeze from full grant group having ilike in initially inner intersect into is isnull join lateral \
    leading left like limit localtime localtimestamp natural not notnull null offset on only or order outer overlaps \
    placing primary references returning right select session_user similar some symmetric system_user table tablesample \
    then to trailing true union unique user using variadic verbose when where window with ";

/// Whether a crate of this name would clash with Rust itself.
pub(super) fn is_rust_word(name: &str) -> bool {
    contains(RUST_WORDS, name)
}

/// The placeholders of the templates, and what they stand for.
pub(super) fn placeholders(name: &str) -> [(&'static str, String); 10] {
    let snake = name.replace('-', "_");
    // The template has a table `idempotency`.
    let is_taken = contains(SQL_WORDS, &snake) || snake == "idempotency";
    let table = if is_taken { format!("{snake}_items") } else { snake.clone() };
    let singular = singular(name);
    let mut kind: String = singular.split('-').map(capitalized).collect();
    if contains(TYPES, &kind) {
        kind += "Item";
    }
    let label = singular.replace('-', " ");
    let article = if label.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    [
        ("{{name}}", name.to_owned()),
        ("{{version}}", env!("CARGO_PKG_VERSION").to_owned()),
        ("{{crate}}", snake),
        ("{{table}}", table),
        ("{{snake_type}}", singular.replace('-', "_")),
        ("{{Type}}", kind),
        ("{{UPPER}}", singular.replace('-', "_").to_uppercase()),
        ("{{label}}", label),
        ("{{article}}", article.to_owned()),
        ("{{Article}}", capitalized(article)),
    ]
}

/// The singular of a noun, by the regular rules of English.
fn singular(noun: &str) -> String {
    if let Some(stem) = noun.strip_suffix("ies").filter(|stem| stem.len() > 1) {
        return format!("{stem}y");
    }
    let is_sibilant = |stem: &&str| ["ss", "sh", "ch", "x", "zz"].iter().any(|end| stem.ends_with(end));
    if let Some(stem) = noun.strip_suffix("es").filter(is_sibilant) {
        return stem.to_owned();
    }
    let is_plural = |stem: &&str| stem.len() > 1 && !stem.ends_with(['s', 'u', 'i', '-']);
    noun.strip_suffix('s').filter(is_plural).unwrap_or(noun).to_owned()
}

fn capitalized(word: &str) -> String {
    let mut characters = word.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

fn contains(list: &str, word: &str) -> bool {
    list.split_whitespace().any(|listed| listed == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_noun_becomes_singular_by_the_regular_rules() {
        for (plural, expected) in [
            ("orders", "order"),
            ("categories", "category"),
            ("boxes", "box"),
            ("addresses", "address"),
            ("houses", "house"),
            ("status", "status"),
            ("analysis", "analysis"),
            ("stock", "stock"),
            ("s", "s"),
        ] {
            assert_eq!(singular(plural), expected);
        }
    }

    #[test]
    fn names_that_clash_with_rust_or_sql_are_avoided() {
        let word = |name, word: &str| placeholders(name).into_iter().find(|(known, _)| *known == word).unwrap().1;
        assert_eq!(word("pages", "{{Type}}"), "PageItem");
        assert_eq!(word("my-orders", "{{Type}}"), "MyOrder");
        assert_eq!(word("group", "{{table}}"), "group_items");
        assert_eq!(word("my-orders", "{{table}}"), "my_orders");
        assert_eq!(word("claims", "{{Type}}"), "ClaimItem");
        assert_eq!(word("idempotency", "{{table}}"), "idempotency_items");
    }
}

//! `/openapi.json` and `/docs`.

use sqlx::PgPool;
use test_support::rules;

use crate::start;

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn the_document_describes_every_operation(pool: PgPool) {
    let expected = [
        "delete /auth/clients/{id} deleteClient",
        "delete /auth/sessions/{id} endSession",
        "delete /users/{id} deleteUser",
        "delete /users/{id}/wishlist/{product_id} removeFromWishlist",
        "get /.well-known/jwks.json getKeys",
        "get /.well-known/oauth-authorization-server getAuthorizationServer",
        "get /.well-known/openid-configuration getOpenidConfiguration",
        "get /auth/clients listClients",
        "get /auth/revoked listRevokedSessions",
        "get /auth/me getMe",
        "get /auth/sessions listSessions",
        "get /users listUsers",
        "get /users/{id} getUser",
        "get /users/{id}/wishlist getWishlist",
        "patch /users/{id} patchUser",
        "post /auth/clients createClient",
        "post /auth/login login",
        "post /oauth2/revoke revokeToken",
        "post /oauth2/token getToken",
        "post /users createUser",
        "put /auth/password changePassword",
        "put /users/{id}/password setPassword",
        "put /users/{id}/roles setRoles",
        "put /users/{id}/wishlist/{product_id} addToWishlist",
    ];
    assert_eq!(rules::operations(&start(&pool).await, "users").await, expected.map(str::to_owned).into());
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn all_references_in_the_document_resolve(pool: PgPool) {
    rules::references_resolve(&start(&pool).await).await;
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn every_post_and_patch_of_users_takes_a_key(pool: PgPool) {
    // `route.idempotencyKeys` in microservice.yaml lists only these paths.
    let document = start(&pool).await.get("/openapi.json").await.json(200);
    let paths = document["paths"].as_object().expect("paths").iter().filter(|(path, _)| path.starts_with("/users"));
    let operations = paths.flat_map(|(path, item)| ["post", "patch"].map(|method| (path, method, item.get(method))));
    let mut count = 0;
    for (path, method, operation) in operations {
        let Some(operation) = operation else { continue };
        let parameters = operation["parameters"].as_array().expect("parameters");
        assert!(parameters.iter().any(|parameter| parameter["name"] == "idempotency-key"), "{method} {path}");
        count += 1;
    }
    assert_eq!(count, 2);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn the_docs_page_and_its_assets_load(pool: PgPool) {
    rules::docs_page_loads(&start(&pool).await).await;
}

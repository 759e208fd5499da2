//! The permission of every route of the API, defined only here: the scope that its caller's key must have, and the name
//! of its action in the audit log.
//!
//! A route that is not in [`TABLE`] needs `admin` and is audited as `undeclared`: whoever forgets it here shuts it. Tests
//! compare the table with the routes in both directions.

use crate::{
    audit::AuditTarget,
    keys::{RateLimitKind, Scope},
};
use http::Method;
use percent_encoding::percent_decode_str;
use std::borrow::Cow;

/// The permission that one route needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permission {
    /// The scope of the key.
    pub scope: Scope,
    /// The action, if the route changes something, and the place of the changed resource's name.
    pub change: Option<(&'static str, AuditTarget)>,
    /// The bucket that it counts against.
    pub meters: RateLimitKind,
}

const fn read() -> Permission {
    Permission { scope: Scope::Read, change: None, meters: RateLimitKind::Requests }
}

const fn scrape() -> Permission {
    Permission { meters: RateLimitKind::Scrapes, ..read() }
}

/// The changes that free disk space, or stop an intruder: they are made on a full disk too.
const FREEING: [&str; 3] = ["agent.delete", "agent.stop", "key.revoke"];

impl Permission {
    /// Whether it frees disk space, and so may use the reserve.
    pub fn frees(self) -> bool {
        self.change.is_some_and(|(action, _)| FREEING.contains(&action))
    }
}

const fn invoke() -> Permission {
    Permission { scope: Scope::Invoke, change: None, meters: RateLimitKind::Invokes }
}

const fn change(action: &'static str) -> Permission {
    Permission { scope: Scope::Deploy, change: Some((action, AuditTarget::ByPath)), meters: RateLimitKind::Requests }
}

/// Creates the resource in the body's `name`.
const fn create(action: &'static str) -> Permission {
    Permission { scope: Scope::Deploy, change: Some((action, AuditTarget::ByBody)), meters: RateLimitKind::Requests }
}

/// A change whose audit entry is written by the saga's journal.
const fn deploy(action: &'static str) -> Permission {
    Permission { scope: Scope::Deploy, change: Some((action, AuditTarget::ByJournal)), meters: RateLimitKind::Requests }
}

const fn admin(permission: Permission) -> Permission {
    Permission { scope: Scope::Admin, ..permission }
}

/// Method, path below `/api` and `/api/v1` (the names of variables do not matter), permission. `*` stands for every
/// method, whose meaning is the application's.
const TABLE: &[(&str, &str, Permission)] = &[
    ("POST", "/deploy", deploy("agent.deploy")),
    ("GET", "/agents", read()),
    ("GET", "/agents/{name}", read()),
    ("DELETE", "/agents/{name}", change("agent.delete")),
    ("GET", "/agents/{name}/logs", read()),
    ("GET", "/agents/{name}/calls", read()),
    ("POST", "/agents/{name}/invoke", invoke()),
    ("POST", "/agents/{name}/invoke/stream", invoke()),
    ("*", "/agents/{name}/app", invoke()),
    ("*", "/agents/{name}/app/", invoke()),
    ("*", "/agents/{name}/app/{path}", invoke()),
    ("GET", "/agents/{name}/config", read()),
    ("PUT", "/agents/{name}/config", deploy("agent.configure")),
    ("PATCH", "/agents/{name}/config", deploy("agent.configure")),
    ("GET", "/agents/{name}/revisions", read()),
    ("GET", "/agents/{name}/revisions/{id}", read()),
    ("GET", "/agents/{name}/revisions/{id}/diff", read()),
    ("POST", "/agents/{name}/rollback", deploy("agent.rollback")),
    ("POST", "/agents/{name}/restart", change("agent.restart")),
    ("POST", "/agents/{name}/stop", change("agent.stop")),
    ("POST", "/agents/{name}/start", change("agent.start")),
    ("GET", "/tools", read()),
    ("POST", "/tools", create("tool.create")),
    ("GET", "/tools/{name}", read()),
    ("PUT", "/tools/{name}", change("tool.update")),
    ("PATCH", "/tools/{name}", change("tool.update")),
    ("DELETE", "/tools/{name}", change("tool.delete")),
    ("POST", "/tools/{name}/check", admin(change("tool.check"))),
    ("PUT", "/tools/{name}/credentials", admin(change("credentials.set"))),
    ("DELETE", "/tools/{name}/credentials", admin(change("credentials.delete"))),
    ("GET", "/model-providers", read()),
    ("POST", "/model-providers", create("model_provider.create")),
    ("GET", "/model-providers/{name}", read()),
    ("PUT", "/model-providers/{name}", change("model_provider.update")),
    ("DELETE", "/model-providers/{name}", change("model_provider.delete")),
    ("PUT", "/model-providers/{name}/credentials", admin(change("credentials.set"))),
    ("DELETE", "/model-providers/{name}/credentials", admin(change("credentials.delete"))),
    ("POST", "/model-providers/{name}/check", admin(change("model_provider.check"))),
    ("GET", "/identity-providers", read()),
    ("POST", "/identity-providers", admin(create("identity_provider.apply"))),
    ("GET", "/identity-providers/{name}", read()),
    ("PUT", "/identity-providers/{name}", admin(change("identity_provider.apply"))),
    ("DELETE", "/identity-providers/{name}", admin(change("identity_provider.delete"))),
    ("GET", "/builds", read()),
    ("GET", "/builds/{id}", read()),
    ("GET", "/builds/{id}/logs", read()),
    ("GET", "/deployments", read()),
    ("GET", "/deployments/{id}", read()),
    ("POST", "/deployments/{id}/cancel", change("deployment.cancel")),
    ("GET", "/agents/{name}/budget", read()),
    ("PUT", "/agents/{name}/budget", admin(change("budget.set"))),
    ("DELETE", "/agents/{name}/budget", admin(change("budget.delete"))),
    ("GET", "/usage", read()),
    ("GET", "/events", read()),
    // At the root, where scrapers look.
    ("GET", "/metrics", scrape()),
    ("GET", "/status", read()),
    ("POST", "/starter-kit", change("starter_kit.seed")),
    ("GET", "/keys", admin(read())),
    ("POST", "/keys", admin(create("key.create"))),
    ("GET", "/keys/{id}", admin(read())),
    ("DELETE", "/keys/{id}", admin(change("key.revoke"))),
    ("GET", "/audit", admin(read())),
];

/// Returns the permission for a request whose route was matched by `pattern`, such as `/api/v1/agents/{name}`. `None`:
/// there is no such route, so there is nothing to allow.
pub fn permission(method: &Method, pattern: Option<&str>) -> Option<Permission> {
    let path = below_api(pattern?);
    let wanted = if method == Method::HEAD { "GET" } else { method.as_str() };
    let declared = TABLE.iter().find(|(method, declared, _)| ["*", wanted].contains(method) && same(declared, path));
    Some(declared.map_or_else(|| undeclared(method), |(_, _, permission)| *permission))
}

fn undeclared(method: &Method) -> Permission {
    if method.is_safe() { admin(read()) } else { admin(change("undeclared")) }
}

/// Returns the target of a change, as far as the path contains it: the part at the place of the pattern's first
/// variable.
pub fn target(pattern: &str, path: &str) -> Option<String> {
    let (_, part) = pattern.split('/').zip(path.split('/')).find(|(pattern, _)| is_variable(pattern))?;
    // What is not UTF-8 stays encoded: no resource has such a name.
    Some(percent_decode_str(part).decode_utf8().map_or_else(|_| part.to_owned(), Cow::into_owned))
}

fn below_api(pattern: &str) -> &str {
    pattern.strip_prefix("/api/v1").or_else(|| pattern.strip_prefix("/api")).unwrap_or(pattern)
}

fn same(declared: &str, path: &str) -> bool {
    let (mut a, mut b) = (declared.split('/'), path.split('/'));
    loop {
        match (a.next(), b.next()) {
            (None, None) => return true,
            (Some(a), Some(b)) if a == b || is_variable(a) && is_variable(b) => {}
            _ => return false,
        }
    }
}

fn is_variable(segment: &str) -> bool {
    segment.starts_with('{')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_route_is_declared() {
        let document = super::super::routes().into_openapi();
        let mut seen = 0;
        for (path, item) in &document.paths.paths {
            let operations = [
                ("GET", &item.get),
                ("PUT", &item.put),
                ("POST", &item.post),
                ("DELETE", &item.delete),
                ("PATCH", &item.patch),
                ("OPTIONS", &item.options),
                ("HEAD", &item.head),
                ("TRACE", &item.trace),
            ];
            for (method, _) in operations.into_iter().filter(|(_, operation)| operation.is_some()) {
                let declared = TABLE.iter().find(|(m, p, _)| ["*", method].contains(m) && same(p, path));
                let (_, _, permission) = declared.unwrap_or_else(|| panic!("{method} {path} has no line in TABLE"));
                let looks = ["GET", "HEAD"].contains(&method);
                assert!(
                    looks == permission.change.is_none() || permission.meters == RateLimitKind::Invokes,
                    "{method} {path}: is it a change?"
                );
                let scopes = if permission.meters == RateLimitKind::Invokes {
                    [Scope::Invoke; 2]
                } else {
                    [Scope::Read, Scope::Admin]
                };
                assert!(!looks || scopes.contains(&permission.scope), "{method} {path}");
                for prefix in ["/api", "/api/v1"] {
                    let pattern = format!("{prefix}{path}");
                    let found = super::permission(&method.parse().unwrap(), Some(&pattern));
                    assert_eq!(found, Some(*permission), "{method} {pattern}");
                }
                seen += 1;
            }
        }
        assert!(seen > 20, "{seen} routes");
        for (i, (method, path, _)) in TABLE.iter().enumerate() {
            assert!(!TABLE[..i].iter().any(|(m, p, _)| m == method && same(p, path)), "{method} {path} is there twice");
        }
    }

    /// The routes of the application in an agent are no operations of the document, but the one that it describes.
    #[test]
    fn every_declared_route_exists() {
        let mut document = super::super::routes().into_openapi();
        document.merge(super::super::root_routes().into_openapi());
        let application = "/agents/{name}/app/{path}";
        for (method, path, _) in TABLE {
            let declared = if path.trim_end_matches('/') == "/agents/{name}/app" { application } else { path };
            let item = document.paths.paths.iter().find(|(described, _)| same(declared, &described.replace("{*", "{")));
            let (_, item) = item.unwrap_or_else(|| panic!("{path} is no route"));
            let operation = match *method {
                "GET" | "*" => &item.get,
                "PUT" => &item.put,
                "POST" => &item.post,
                "DELETE" => &item.delete,
                "PATCH" => &item.patch,
                other => panic!("{other} {path}"),
            };
            assert!(operation.is_some(), "{method} {path} is no route");
        }
    }

    #[test]
    fn an_undeclared_route_needs_the_scope_admin() {
        let shut = permission(&Method::POST, Some("/api/agents/{name}/explode")).unwrap();
        assert_eq!((shut.scope, shut.change), (Scope::Admin, Some(("undeclared", AuditTarget::ByPath))));
        let shut = permission(&Method::GET, Some("/api/secrets")).unwrap();
        assert_eq!((shut.scope, shut.change), (Scope::Admin, None));
        assert_eq!(permission(&Method::PUT, Some("/api/agents")).unwrap().scope, Scope::Admin);
        assert_eq!(permission(&Method::GET, None), None);
        assert_eq!(permission(&Method::HEAD, Some("/api/agents")).unwrap(), read());
        assert!(!same("/agents/{name}", "/agents/list") && !same("/agents", "/agents/") && same("/a/{x}", "/a/{y}"));
    }

    #[test]
    fn the_target_is_the_first_variable_of_the_path() {
        for (pattern, path, name) in [
            ("/api/agents/{name}", "/api/agents/a-1", Some("a-1")),
            ("/api/v1/agents/{name}/revisions/{id}", "/api/v1/agents/a/revisions/7", Some("a")),
            ("/api/agents/{name}", "/api/agents/b%20c+d=e%", Some("b c+d=e%")),
            ("/api/agents/{name}", "/api/agents/%ff%g", Some("%ff%g")),
            ("/api/agents", "/api/agents", None),
        ] {
            assert_eq!(target(pattern, path).as_deref(), name);
        }
    }
}

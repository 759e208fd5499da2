//! The areas of the public Python SDK that Hoistway does not support: a 404 that says so, and names an alternative. The
//! same list is in docs/sdk.md.

/// (first segment of the path, the area, the alternative)
const AREAS: [(&str, &str, &str); 13] = [
    ("actions", "action plans are", "call the resources one by one: /api/deploy, /api/tools, /api/identity-providers"),
    ("analyze", "analysing source without a deploy is", "deploy it: the answer names syntax errors and imports"),
    ("approval-connectors", "approvals are", "leave tools that need an approval out of required_tools"),
    ("approvals", "approvals are", "leave tools that need an approval out of required_tools"),
    ("artifacts", "workflow artifacts are", "send source_files or an image to POST /api/deploy"),
    ("catalog", "the agent catalog is", "send source_files or an image to POST /api/deploy"),
    (
        "context",
        "exporting a workspace is",
        "list /api/agents, /api/tools, /api/model-providers, /api/identity-providers",
    ),
    ("deploy-drafts", "drafts are", "send source_files or an image to POST /api/deploy"),
    ("drafts", "drafts are", "send source_files or an image to POST /api/deploy"),
    ("model-spend", "the summary of spending is", "GET /api/usage and /api/agents/NAME/budget"),
    ("policies", "policies are", "name the tools that an agent may use in required_tools"),
    (
        "runs",
        "recorded runs are",
        "POST /api/agents/NAME/invoke answers itself; GET /api/agents/NAME/logs shows the output",
    ),
    ("workspaces", "workspaces are", "use the endpoint without /workspaces/…: there is one namespace"),
];

/// Returns the message about an unknown path in one of these areas.
pub fn about(path: &str) -> Option<String> {
    let rest = path.strip_prefix("/api/v1/").or_else(|| path.strip_prefix("/api/"))?;
    let area = rest.split('/').next().unwrap_or(rest);
    let (_, what, instead) = AREAS.into_iter().find(|(name, _, _)| *name == area)?;
    Some(format!("{what} not supported; instead, {instead}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_are_told_by_their_first_segment() {
        for path in ["/api/runs", "/api/v1/runs/r-1/events", "/api/v1/workspaces/w/api/agents"] {
            assert!(about(path).is_some_and(|text| text.contains(" not supported; instead, ")), "{path}");
        }
        for path in ["/api/run", "/runs", "/api/agents/runs", "/api/v1"] {
            assert_eq!(about(path), None, "{path}");
        }
    }

    #[test]
    fn the_list_for_people_has_every_area() {
        let docs = include_str!("../../../docs/sdk.md");
        for (name, _, _) in AREAS {
            assert!(docs.contains(&format!("`/{name}")), "{name} is not in docs/sdk.md");
        }
    }
}

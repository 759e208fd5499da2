//! The `script` block of PEP 723: the requirements of a single file, in comments.

use super::{
    Requirements, RequiresPython,
    pyproject::{Tools, redirected, requires_python, strings},
};
use serde::Deserialize;
use toml::Value;

/// The largest block in bytes.
const MAX_BYTES: usize = 64 << 10;

/// The content of the block.
#[derive(Debug, Default, PartialEq)]
pub(super) struct ScriptHeader {
    /// `requires-python`.
    pub requires_python: Option<RequiresPython>,
    /// `dependencies`, if present.
    pub dependencies: Option<Requirements>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Table {
    requires_python: Option<Value>,
    dependencies: Option<Value>,
    tool: Option<Tools>,
}

/// Parses the block of a file; `None` if it has none. The error describes the problem.
pub(super) fn read(file: &[u8]) -> Result<Option<ScriptHeader>, String> {
    let text = String::from_utf8_lossy(file);
    let Some((line, block)) = block(&text)? else { return Ok(None) };
    let table: Table = toml::from_str(&block).map_err(|e| {
        let within = e.span().map_or(0, |span| block[..span.start.min(block.len())].matches('\n').count());
        format!("line {}: is not TOML: {}", line + within, e.message().replace('\n', "; "))
    })?;
    let listed = strings("dependencies", table.dependencies)?;
    if let Some((place, why)) = redirected(listed.as_deref().unwrap_or_default(), table.tool.as_ref()) {
        return Err(format!("{place}: {why}"));
    }
    let dependencies = listed
        .map(|listed| Requirements::from_list("dependencies", listed.iter().map(String::as_str)))
        .transpose()
        .map_err(|e| e.message)?;
    Ok(Some(ScriptHeader { requires_python: requires_python("requires-python", table.requires_python)?, dependencies }))
}

/// Returns the block's content without the comment signs, and the number of its first line.
fn block(text: &str) -> Result<Option<(usize, String)>, String> {
    const OPEN: &str = "# /// script";
    const CLOSE: &str = "# ///";
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    let mut opened = lines.iter().enumerate().filter(|(_, line)| **line == OPEN).map(|(at, _)| at);
    let Some(start) = opened.next().map(|at| at + 1) else { return Ok(None) };
    let comments = lines[start..].iter().take_while(|line| **line == "#" || line.starts_with("# ")).count();
    let run = &lines[start..start + comments];
    // As in PEP 723's expression: up to the last closing line of the comments.
    let Some(end) = run.iter().rposition(|line| *line == CLOSE) else {
        return Err(format!("line {start}: \"{OPEN}\" has no closing \"{CLOSE}\""));
    };
    if let Some(second) = opened.find(|at| *at >= start + end) {
        return Err(format!("line {}: there are two blocks", second + 1));
    }
    let content: Vec<&str> = run[..end].iter().map(|line| line.get(2..).unwrap_or_default()).collect();
    let content = content.join("\n");
    if content.len() > MAX_BYTES {
        return Err(format!("{} bytes are too many, {MAX_BYTES} is the limit", content.len()));
    }
    Ok(Some((start + 1, content)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn dependencies(file: &str) -> Option<String> {
        read(file.as_bytes()).unwrap()?.dependencies.map(|r| r.text().to_owned())
    }

    #[test]
    fn the_block_declares_requirements_and_a_python() {
        let file = "#!/usr/bin/env python3\n\n# /// script\n# requires-python = \">=3.10\"\n# dependencies = [\n#   \"Six==1.15.0\",\n#\n#   'cowsay',\n# ]\n# ///\nimport six\n";
        assert_eq!(dependencies(file).unwrap(), "six==1.15.0\ncowsay\n");
        let python = read(file.as_bytes()).unwrap().unwrap().requires_python.unwrap();
        assert!(python.admits((3, 12, 0)) && !python.admits((3, 9, 0)));
        assert_eq!(dependencies("# /// script\r\n# dependencies = []\r\n# ///\r\n").unwrap(), "");
        assert_eq!(dependencies("# /// script\n# requires-python = '>=3.8'\n# ///\n"), None);
        for none in ["import six", "# /// other\n# dependencies = ['x']\n# ///", "x = '''\n/// script\n'''"] {
            assert_eq!(read(none.as_bytes()).unwrap(), None, "{none}");
        }
    }

    #[test]
    fn a_broken_block_is_told_with_its_line() {
        for (file, words) in [
            ("\n# /// script\n# dependencies = [\n# ///\n", "line 3: is not TOML"),
            ("# /// script\n# dependencies = []\nimport six", "line 1: \"# /// script\" has no closing"),
            ("# /// script\n# dependencies = 'six'\n# ///", "dependencies: must be a list of strings"),
            ("# /// script\n# dependencies = ['-e .']\n# ///", "dependencies[0]: \"-e .\" is an option"),
            ("# /// script\n# requires-python = 'x'\n# ///", "requires-python: \"x\" is not a list"),
            (
                "# /// script\n# dependencies = ['six']\n# [tool.uv.sources]\n# six = { git = 'https://x' }\n# ///",
                "tool.uv.sources: takes six from another place",
            ),
            (
                "# /// script\n# dependencies = ['six']\n# [[tool.uv.index]]\n# url = 'https://x'\n# ///",
                "tool.uv.index: says where packages come from",
            ),
            ("# /// script\n# ///\n\n# /// script\n# ///", "line 4: there are two blocks"),
        ] {
            let fault = read(file.as_bytes()).unwrap_err();
            assert!(fault.contains(words), "{file:?}: {fault}");
        }
    }
}

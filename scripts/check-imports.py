#!/usr/bin/env python3
"""Refuses import circles between the modules of a crate.

A module may use its own children and its parents; other modules that use each other, directly or through further ones,
are reported with the files that close the circle. Tests in a module (`#[cfg(test)]`) do not count. No kept tool does
this: `cargo modules --acyclic` counts a parent and its child as a circle.
"""

import re
import sys
from pathlib import Path

WORKSPACE = Path(__file__).resolve().parent.parent
SOURCES = ["src", "proto/src", "gateway/src", *(f"{parent}/*/src" for parent in ("crates", "services"))]


def modules(source):
    """The path of each module of a crate, such as `("api", "error")`, and its file."""
    found = {}
    for file in sorted(source.rglob("*.rs")):
        *parents, name = file.relative_to(source).with_suffix("").parts
        found[tuple(parents) if name in ("mod", "lib", "main") else (*parents, name)] = file
    return found


TOKENS = re.compile(r'//[^\n]*|"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)\'', re.S)
TEST_ITEM = re.compile(r"#\[cfg\(test\)\]")


def code(file):
    """The text of a file without comments, strings and items of tests."""
    text = TOKENS.sub(lambda token: "" if token.group().startswith("//") else '""', file.read_text())
    kept, at = [], 0
    for item in TEST_ITEM.finditer(text):
        if item.start() < at:
            continue
        kept.append(text[at : item.start()])
        at = end_of_item(text, item.end())
    return "".join([*kept, text[at:]])


def end_of_item(text, start):
    """The position after the item that begins at `start`: after its `;`, or after its outermost braces."""
    depth = 0
    for position in range(start, len(text)):
        if text[position] == ";" and depth == 0:
            return position + 1
        if text[position] == "{":
            depth += 1
        elif text[position] == "}":
            depth -= 1
            if depth == 0:
                return position + 1
    return len(text)


def expanded(tree):
    """`a::{b, c::d}` as `[a, b]` and `[a, c, d]`."""
    prefix, brace, group = tree.partition("{")
    names = [name.split(" as ")[0].strip() for name in prefix.split("::")]
    names = [name for name in names if name]
    if not brace:
        return [names]
    branches, depth = [""], 0
    for character in group[: group.rindex("}")]:
        depth += (character == "{") - (character == "}")
        if character == "," and depth == 0:
            branches.append("")
        else:
            branches[-1] += character
    return [names + rest for branch in branches if branch.strip() for rest in expanded(branch.strip())]


def used(module, file, known):
    """The modules that `module` names in imports and paths."""
    text = code(file)
    paths = [path for match in re.finditer(r"(?m)^\s*(?:pub(?:\([a-z]+\))?\s+)?use\s+([^;]+);", text)
             for path in expanded(" ".join(match.group(1).split()))]
    paths += [match.group(1).split("::") for match in re.finditer(r"\b((?:crate|super|self)(?:::\w+)+)", text)]
    for first, *rest in paths:
        base = list(module)
        if first == "crate":
            target = rest
        elif first == "super":
            while first == "super":
                base, (first, *rest) = base[:-1], rest or [""]
            target = [*base, first, *rest]
        else:
            target = [*base, *([] if first == "self" else [first]), *rest]
        while target and tuple(target) not in known:
            target = target[:-1]
        if target and not is_family(tuple(target), module):
            yield tuple(target)


def is_family(one, other):
    """Whether one of them is the other, or above it."""
    return one[: len(other)] == other or other[: len(one)] == one


def circles(graph):
    """The strongly connected components of more than one module (Tarjan)."""
    index, low, stack, result = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for neighbour in graph[node]:
            if neighbour not in index:
                visit(neighbour)
            if neighbour in stack:
                low[node] = min(low[node], low[neighbour])
        if low[node] == index[node]:
            component = stack[stack.index(node):]
            del stack[stack.index(node):]
            if len(component) > 1:
                result.append(component)

    for node in graph:
        if node not in index:
            visit(node)
    return result


def main():
    sys.setrecursionlimit(10_000)
    count = 0
    for source in sorted(path for pattern in SOURCES for path in WORKSPACE.glob(pattern)):
        known = modules(source)
        graph = {module: sorted(set(used(module, file, known))) for module, file in known.items()}
        for circle in circles(graph):
            count += 1
            files = ", ".join(str(known[module].relative_to(WORKSPACE)) for module in sorted(circle))
            print(f"import circle: {files}", file=sys.stderr)
    if count:
        sys.exit(f"{count} import circles: move what both sides need into a module below them")


if __name__ == "__main__":
    main()

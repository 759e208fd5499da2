"""The names of an agent in an entry file, found in its own text and that of the agent's other files."""

import os

from .discovery import KNOWN, ast, top_level
from .paths import source_roots


def own_file(app, file, imported):
    """Returns the agent's own file (or directory) that another one of its files imports from; None for other
    modules."""
    here = os.path.dirname(file)
    parts = (imported.module or "").split(".")
    bases = [os.path.join(here, *[".."] * (imported.level - 1))] if imported.level else [
        app, here, *source_roots(app, os.path.relpath(file, app))]
    for path in (os.path.join(base, *parts) for base in bases):
        for found in (os.path.join(path, "__init__.py"), path + ".py", path):
            if os.path.exists(found):
                return found
    return None


def parsed(path):
    """Returns the tree of a file; None if it cannot be read or compiled, which its import reports better."""
    try:
        with open(path, "rb") as source:
            return compile(source.read(), path, "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
    except (OSError, SyntaxError, ValueError):
        return None


def agent_names(tree, app, file, seen=()):
    """Returns the names of an agent that a file binds itself, and those that it imports to offer them.

    A `handler` may be imported from anywhere, as with the public SDK. The other names are common, so they count only
    from the agent's own files, and only if the top level does not use them, as a script does.
    """
    bound, used, imports = top_level(tree)
    imported = set()
    for node in imports:
        own = own_file(app, file, node)
        for alias in node.names:
            name = alias.asname or alias.name
            if name == "handler" or own and name != "*":
                imported.add(name)
            elif own and own.endswith(".py") and own not in seen:
                if inner := parsed(own):
                    imported |= set().union(*agent_names(inner, app, own, (*seen, own)))
    return bound & KNOWN, imported & KNOWN - bound - (used - {"handler"})

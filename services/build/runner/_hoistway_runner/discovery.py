"""What an entry file offers to invoke, by its text alone: nothing is imported for it."""

import _ast as ast  # the node classes; the module `ast` around them takes 3 ms
import os


FRAMEWORK_NAMES = ("agent", "chain", "executor", "graph", "crew")
AGENT_NAMES = frozenset(("handler", *FRAMEWORK_NAMES, "app", "main", "run"))


def is_main_guard(test):
    """Whether an expression is `__name__ == "__main__"`: what it guards never runs in an imported module."""
    if not isinstance(test, ast.Compare) or not isinstance(test.ops[0], ast.Eq):
        return False
    return {getattr(side, "id", getattr(side, "value", "")) for side in (test.left, test.comparators[0])} == {
        "__name__", "__main__"}


def top_level(tree):
    """The names that a module binds at its top level, other than by import and other than to plain data; those that it
    uses there; and what it imports `from` others.

    Anything that a statement outside functions and classes binds counts, however deep it is nested. A string or a list
    cannot be an agent (`agent = "billing"` is common), nor can a plain function be a framework's object (`def agent`
    is often a node of a graph).
    """
    names, used, imports, todo = set(), set(), [], [tree]
    literal = (ast.Constant, ast.JoinedStr, ast.List, ast.Tuple, ast.Dict, ast.Set, ast.ListComp, ast.DictComp)
    while todo:
        node = todo.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            if node.decorator_list or node.name not in FRAMEWORK_NAMES:
                names.add(node.name)
        elif isinstance(node, ast.Lambda) or isinstance(node, ast.AnnAssign) and node.value is None:
            pass
        elif isinstance(node, ast.If) and is_main_guard(node.test):
            todo += node.orelse
        elif isinstance(node, ast.comprehension):  # its targets are its own, but a walrus inside binds outside
            todo += [node.iter, *node.ifs]
        elif isinstance(node, ast.Name):
            (names if isinstance(node.ctx, ast.Store) else used).add(node.id)
        elif isinstance(node, ast.ImportFrom):
            imports.append(node)
        else:
            if isinstance(node, (ast.MatchAs, ast.MatchStar)) and node.name:
                names.add(node.name)
            data = isinstance(node, (ast.Assign, ast.AnnAssign, ast.NamedExpr)) and isinstance(node.value, literal)
            for field in node._fields:
                child = getattr(node, field, None)
                for item in child if isinstance(child, list) else (child,):
                    if isinstance(item, ast.AST) and not (data and isinstance(item, ast.Name)):
                        todo.append(item)
    return names, used, imports


def own_file(app, file, imported):
    """The file of the agent's own (or the directory) from which another one of them imports; None for others'."""
    here = os.path.dirname(file)
    parts = (imported.module or "").split(".")
    bases = [os.path.join(here, *[".."] * (imported.level - 1))] if imported.level else [app, here]
    for path in (os.path.join(base, *parts) for base in bases):
        for found in (os.path.join(path, "__init__.py"), path + ".py", path):
            if os.path.exists(found):
                return found
    return None


def agent_names(tree, app, file, seen=()):
    """The names of an agent that a file binds itself, and those that it imports to offer them.

    A `handler` is taken from wherever it was imported, as the public SDK does; the other names are common, so only from
    the agent's own files, and not where the top level does something with them, as a script does.
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
                try:
                    with open(own, "rb") as source:
                        inner = compile(source.read(), own, "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
                except (OSError, SyntaxError, ValueError):  # the import will say it better
                    continue
                imported |= set().union(*agent_names(inner, app, own, (*seen, own)))
    return bound & AGENT_NAMES, imported & AGENT_NAMES - bound - (used - {"handler"})

"""What an entry file offers to invoke, by its text alone: nothing is imported for it."""

import _ast as ast  # the node classes; the module `ast` around them takes 3 ms
import os


FRAMEWORK_NAMES = ("agent", "chain", "executor", "graph", "crew")
AGENT_NAMES = frozenset(("handler", *FRAMEWORK_NAMES, "app", "main", "run"))
TEXT_NAMES = frozenset(("message", "msg", "text", "query", "prompt", "input", "user_input", "question"))

# What reads the command line or the standard input: functions and classes by their names, and members of modules.
ARGUMENT_CALLS = frozenset(("ArgumentParser", "parse_args", "parse_known_args", "OptionParser", "docopt", "Fire", "Typer"))
ARGUMENT_MEMBERS = {"sys": ("argv", "stdin"), **dict.fromkeys(
    ("click", "rich_click", "typer"), ("command", "group", "argument", "option", "run", "Argument", "Option"))}


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


def parsed(path):
    """The tree of a file; None if it cannot be read or compiled, which its import will say better."""
    try:
        with open(path, "rb") as source:
            return compile(source.read(), path, "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
    except (OSError, SyntaxError, ValueError):
        return None


def is_command(tree, app, file, name):
    """Whether the file's function of this name, or the file of the agent's own from which it comes, reads the command
    line, and can be run so: something calls it with its arguments, or it needs none."""
    own = own_function(tree, name)
    if own and not own.decorator_list and len(own.args.args) > len(own.args.defaults) and not is_called(tree, name):
        return False
    if reads_command_line(tree, name):
        return True
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                own = (alias.asname or alias.name) == name and own_file(app, file, node)
                if own and (inner := parsed(own)) and reads_command_line(inner, alias.name):
                    return True
    return False


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
                if inner := parsed(own):
                    imported |= set().union(*agent_names(inner, app, own, (*seen, own)))
    return bound & AGENT_NAMES, imported & AGENT_NAMES - bound - (used - {"handler"})


def own_function(tree, name):
    """The function of a name at a module's top level, or None."""
    found = [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == name]
    return found[-1] if found else None


def takes_text(function):
    """Whether a function's first parameter is the message."""
    if function is None or not (given := [*function.args.posonlyargs, *function.args.args]):
        return False
    note = given[0].annotation
    return given[0].arg in TEXT_NAMES if note is None else "str" in (getattr(note, "id", ""), getattr(note, "value", ""))


def is_called(tree, name):
    """Whether a module that is run calls one of its functions itself: it has a main block, or its top level uses it."""
    if any(isinstance(node, ast.If) and is_main_guard(node.test) for node in tree.body):
        return True
    return name in top_level(tree)[1]


def children(node):
    """The nodes right below one."""
    values = (getattr(node, field, None) for field in node._fields)
    return [item for value in values for item in (value if isinstance(value, list) else (value,)) if isinstance(item, ast.AST)]


def reads_command_line(tree, name):
    """Whether a module reads its command line or its standard input for its function of this name, and is to be run as a
    command therefore. Its main block does not count for a function that takes the message: it is another way to it."""
    guards = not takes_text(own_function(tree, name))
    todo = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Attribute) and node.attr in ARGUMENT_MEMBERS.get(getattr(node.value, "id", ""), ()):
            return True
        if isinstance(node, ast.ImportFrom) and not node.level:
            if {alias.name for alias in node.names} & {*ARGUMENT_MEMBERS.get(node.module, ())}:
                return True
        if isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in ARGUMENT_CALLS or getattr(node.func, "id", "") == "input":
                return True
        if guards or not (isinstance(node, ast.If) and is_main_guard(node.test)):
            todo += children(node)
    return False

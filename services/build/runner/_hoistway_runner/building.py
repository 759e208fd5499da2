"""Files whose top level only builds an object or prepares it, and which may therefore be imported for analysis."""

from .commands import children
from .discovery import ast, inside, is_main_guard, is_web_function

# The prefixes of calls that, as statements, build or prepare an object; other calls are a script's work.
BUILDING = ("add", "append", "apply", "attach", "autolog", "basicConfig", "bind", "compile", "configure", "connect", "extend",
            "filterwarnings", "include", "init", "instrument", "load_dotenv", "makedirs", "mkdir", "mount", "register",
            "seed", "set", "tool", "use")
LISTS = ("insert", "update")  # exact names, of lists and dicts; names with this prefix are a database's: `insert_one`
BUILT_IN = ("dict", "list", "set")


def is_built_only(tree):
    """Whether the statements of a file's top level only call functions that build or prepare an object."""
    return all(map(builds, statements(tree)))


def builds_with_others(tree, own):
    """Whether they do so by methods of others' objects and by others' functions alone, since the names of the author's
    own functions prove nothing. `own` are the names imported from the agent's own files. A file with a main block has
    something else to run, so it must not call the author's functions at all; other files may build objects with some of
    their own."""
    functions = {node.name: node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
    guard = any(isinstance(node, ast.If) and is_main_guard(node.test) for node in tree.body)
    others, authors = {*BUILT_IN, *web_classes(tree)}, own | functions.keys()
    doing = own | {name for name, function in functions.items() if not is_built_only(function)}
    for node in statements(tree):
        forbidden = authors if guard or isinstance(node, ast.Expr) else doing
        if any(root(call) in forbidden and not name_of(call)[:1].isupper() for call in calls(node)):  # building an object
            return False
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            others |= {alias.asname or alias.name.partition(".")[0] for alias in node.names} - authors
        elif not builds(node) or isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and root(node.value) not in others:
            return False
        for target, value in bindings(node):
            if isinstance(target, ast.Name):
                (others.add if root(value) in others else others.discard)(target.id)
    return True


def web_classes(tree):
    """Returns the names of the file's classes whose objects are ASGI or WSGI applications."""
    return {node.name for node in tree.body if isinstance(node, ast.ClassDef) for inner in node.body
            if getattr(inner, "name", "") == "__call__" and is_web_function(
                "async function" if isinstance(inner, ast.AsyncFunctionDef) else "function", [one.arg for one in inner.args.args[1:]])}


def statements(tree):
    """Returns the statements of a file's top level in order, including nested ones, but not those in definitions."""
    todo = list(reversed(tree.body))
    while todo:
        node = todo.pop()
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node
            todo += reversed(node.orelse if isinstance(node, ast.If) and is_main_guard(node.test) else inside(node))


def builds(node):
    """Whether a statement builds an object, or does nothing."""
    if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant):
        name = name_of(node.value).lstrip("_")
        return name in LISTS or name.startswith(BUILDING)
    return not isinstance(node, ast.While)


def name_of(call):
    called = getattr(call, "func", None)
    return getattr(called, "attr", getattr(called, "id", ""))


def root(node):
    """Returns the name at the start of an expression: `graph` of `graph.nodes().add(x)`; for a list display its
    class."""
    while node is not None and not isinstance(node, ast.Name):
        if isinstance(node, (ast.List, ast.Dict, ast.Set)):
            return type(node).__name__.lower()
        node = next((getattr(node, field) for field in ("func", "value", "left", "iter") if isinstance(getattr(node, field, None), ast.AST)), None)
    return getattr(node, "id", "")


def calls(statement):
    """Returns the calls of a statement, without those of nested statements and lambdas."""
    skipped = (ast.stmt, ast.ExceptHandler, ast.Lambda) + ((ast.match_case,) if hasattr(ast, "match_case") else ())
    todo = [] if isinstance(statement, ast.If) and is_main_guard(statement.test) else [statement]
    for node in todo:
        todo += [child for child in children(node) if not isinstance(child, skipped)]
    return [node for node in todo if isinstance(node, ast.Call)]


def bindings(node):
    """Returns (target, value) for each name that a statement binds."""
    if isinstance(node, ast.Assign):
        return [(target, node.value) for target in node.targets]
    if isinstance(node, (ast.AnnAssign, ast.For)):
        return [(node.target, node.iter if isinstance(node, ast.For) else node.value)]
    return [(item.optional_vars, item.context_expr) for item in getattr(node, "items", ())]

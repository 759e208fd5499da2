"""The names in an entry file that can be invoked, found in its text: nothing is imported. The build, which checks this
too, has this file and no other one of the runner."""

import _ast as ast  # the node classes; the module `ast` around them takes 3 ms


FRAMEWORK_NAMES = ("agent", "chain", "executor", "graph", "crew")
FACTORIES = ("create_app", "make_app")
KNOWN = frozenset(("handler", "lambda_handler", *FRAMEWORK_NAMES, "app", "main", "run", *FACTORIES))
# Functions without parameters that make the invoked object, as those configured for LangGraph's own server do.
AGENT_FACTORIES = tuple(f"{verb}_{name}" for name in FRAMEWORK_NAMES for verb in ("create", "make", "build", "get")) + FRAMEWORK_NAMES


def is_main_guard(test):
    """Whether an expression is `__name__ == "__main__"`: code guarded by it never runs in an imported module."""
    if not isinstance(test, ast.Compare) or not isinstance(test.ops[0], ast.Eq):
        return False
    return {getattr(side, "id", getattr(side, "value", "")) for side in (test.left, test.comparators[0])} == {
        "__name__", "__main__"}


def top_level(tree):
    """Returns the names that a module binds at its top level, except by import and to plain data; those that it uses
    there; and its imports `from` other modules.

    Every binding outside functions and classes counts, however deeply it is nested. A string or a list cannot be an
    agent (`agent = "billing"` is common), nor can a plain function be a framework's object (`def agent` is often a node
    of a graph).
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
        elif isinstance(node, ast.comprehension):  # its targets are local, but a walrus inside binds outside
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


# Calls whose result is a web application. A file that binds one is imported, regardless of its other statements.
WEB_CALLS = frozenset((
    "FastAPI", "Flask", "Starlette", "Quart", "Litestar", "Sanic", "Bottle", "BlackSheep", "Falcon", "APIFlask", "Esmerald",
    "FastMCP", "MCPServer", "mount_gradio_app", "get_asgi_application", "get_wsgi_application", "streamable_http_app", "sse_app", "http_app", *FACTORIES))
LITERALS = (ast.Constant, ast.JoinedStr, ast.List, ast.Tuple, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp,
            ast.GeneratorExp, ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.Compare)
OF_MODULES = "what a module defines counts if it is imported by its name (from MODULE import handler); or make its file the entry point"
# Calls that only prepare for the file's definitions: they are not the file's work.
PREPARING = frozenset(("load_dotenv", "basicConfig", "filterwarnings", "simplefilter", "setLevel", "dictConfig", "fileConfig", "nest_asyncio.apply"))
REMEDY = "define handler(message), or name the object agent, graph, crew or app, or the function main or run"


class Found:
    """The bindings of a file's top level, by name: (kind, line, parameters, number of required parameters); its
    imported names; the names bound to a web framework's object; and whether it has a main block, and other
    statements."""

    def __init__(self, tree):
        self.bound, self.imported, self.web, self.guard, self.statements = {}, {}, set(), False, False
        todo = list(reversed(tree.body))
        while todo:
            todo += reversed(self.look(todo.pop()))

    def look(self, node):
        """Records the bindings of a statement; returns the nested statements to look at."""
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            given = node.args
            names = [one.arg for one in (*given.posonlyargs, *given.args)]
            required = len(names) - len(given.defaults) + sum(default is None for default in given.kw_defaults)
            kind = "async function" if isinstance(node, ast.AsyncFunctionDef) else "function"
            self.bound[node.name] = ("object" if node.decorator_list else kind, node.lineno, names, required)
        elif isinstance(node, ast.ClassDef):
            starts = [inner.args.args[1:] for inner in node.body if isinstance(inner, ast.FunctionDef) and inner.name == "__init__"]
            web = is_web_function("function", [one.arg for one in starts[-1]] if starts else [])  # as in PEP 3333
            self.bound[node.name] = ("object" if web else "class", node.lineno, [], 0)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                self.imported[alias.asname or alias.name.partition(".")[0]] = node
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            if node.value is not None:
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    self.bind(target, node.value)
        elif isinstance(node, ast.If) and is_main_guard(node.test):
            self.guard = True
            return node.orelse
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in (getattr(node.test, "id", ""), getattr(node.test, "attr", "")):
            return node.orelse
        elif isinstance(node, ast.Try) and all(isinstance(inner, (ast.Import, ast.ImportFrom, ast.Assign, ast.Pass)) for inner in inside(node)):
            return inside(node)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            pass  # a docstring
        elif isinstance(node, ast.Expr) and only_prepares(node.value):
            pass
        elif not (isinstance(node, ast.Pass) or type(node).__name__ == "TypeAlias"):
            self.statements = True
            return inside(node)
        return []

    def bind(self, target, value):
        names = [target] if isinstance(target, ast.Name) else getattr(target, "elts", [])
        if len(names) > 1 and isinstance(value, ast.Tuple) and len(value.elts) == len(names):  # `app, settings = App(), {}`
            for name, part in zip(names, value.elts):
                self.bind(name, part)
            return
        chosen = isinstance(value, ast.BoolOp) and any(isinstance(part, ast.Call) for part in value.values)
        piped = isinstance(value, ast.BinOp) and isinstance(value.op, ast.BitOr)  # a chain of LangChain
        kind = "function" if isinstance(value, ast.Lambda) else "constant" if isinstance(value, LITERALS) and not (piped or chosen) else "object"
        for name in names:
            if isinstance(name, ast.Name):
                self.bound[name.id] = (kind, name.lineno, [], 0)
                called = getattr(value, "func", None)
                if getattr(called, "attr", getattr(called, "id", "")) in WEB_CALLS:
                    self.web.add(name.id)

    def objects(self):
        """Whether it binds something that can only be judged once it exists."""
        return any(kind == "object" or is_web_function(kind, names) for kind, _, names, _ in self.bound.values())

    def offers_nothing(self, is_own):
        """Whether none of it can be invoked, whatever happens during the import. `is_own` tests whether an import is
        from the agent's own files, which may bind anything."""
        if self.statements or self.guard or self.objects() or "handler" in self.imported or any(
                isinstance(node, ast.ImportFrom) and is_own(node) for node in self.imported.values()):
            return False
        return not any(name in AGENT_FACTORIES and "function" in kind and not required or
                       name in KNOWN and name not in FRAMEWORK_NAMES and kind != "constant" and not (name in FACTORIES and required)
                       for name, (kind, _, _, required) in self.bound.items())


def only_prepares(value):
    """Whether an expression is a call that only changes settings: `load_dotenv()`, `sys.path.append(...)`."""
    if not isinstance(value, ast.Call):
        return False
    called, of = getattr(value.func, "attr", getattr(value.func, "id", "")), getattr(value.func, "value", None)
    owner = getattr(of, "attr", getattr(of, "id", ""))
    return called in PREPARING or f"{owner}.{called}" in PREPARING or owner in ("path", "environ") and called in (
        "append", "insert", "setdefault", "update")


def inside(node):
    """Returns the statements nested in a statement."""
    blocks = [getattr(node, field, None) or [] for field in ("body", "orelse", "finalbody")]
    blocks += [handler.body for handler in getattr(node, "handlers", ())] + [case.body for case in getattr(node, "cases", ())]
    return [inner for block in blocks for inner in block]


def is_web_function(kind, names):
    """Whether a function's parameters are those of ASGI or WSGI."""
    return kind == "async function" and names == ["scope", "receive", "send"] or (
        kind == "function" and len(names) == 2 and names[0] in ("environ", "env") and names[1].startswith("start"))


def nothing_to_invoke(entry, found, types=()):
    """Returns (text, details) for a file without anything to invoke. `types` contains the types of its objects, if it
    was imported, and of its imports from the agent's own files."""
    types = dict(types)
    shown = {name: types.get(name) or one[0] for name, one in found.bound.items()
             if one[0] != "constant" and not name.startswith("__")}
    shown |= {name: kind for name, kind in types.items() if name not in found.bound}
    for name, (kind, _, names, required) in found.bound.items():
        if name in FACTORIES and required:
            shown[name] = f"function that needs {', '.join(names)}"
    what = ", ".join(f"{name} ({kind})" for name, kind in list(shown.items())[:5])
    what = f"it has {what}" + (f" and {len(shown) - 5} more" if len(shown) > 5 else "") if shown else (
        "it has nothing but constants" if found.bound else "it has nothing but imports" if found.imported else "it is empty")
    close = meant([name for name, kind in shown.items() if name not in KNOWN and (not kind.startswith("class") or name == "Handler")])
    text = f"{entry} offers nothing to invoke: {what}" + (f'; did you mean "{close}"?' if close else "")
    lines = [f"{entry}, line {found.bound[name][1]}: {name} ({kind})" for name, kind in shown.items() if name in found.bound]
    return text, [*lines[:18], *([OF_MODULES] if found.imported and not found.bound else ()), REMEDY]


def meant(names):
    """Returns the known name that one of these is probably meant to be, or None."""
    names = ["handler" if name.lower().endswith("_handler") else name.lower() for name in names]
    near = ((distance(name, known), len(known), known) for name in names for known in sorted(KNOWN) if name[:1] == known[0])
    return min((one for one in near if one[0] <= (2 if one[1] > 5 else 1)), default=(None,))[-1]


def distance(one, other):
    """Returns the number of letters to add, remove, replace or swap with their neighbour."""
    rows = [list(range(len(other) + 1))]
    for i, letter in enumerate(one, 1):
        row = [i]
        for j, wanted in enumerate(other, 1):
            row.append(min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (letter != wanted)))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                row[-1] = min(row[-1], rows[-2][j - 2] + 1)
        rows.append(row)
    return rows[-1][-1]

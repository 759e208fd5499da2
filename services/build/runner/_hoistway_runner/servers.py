"""Files that start a server of their own when they are run: what they would serve is served here, so nothing waits for it."""

from .commands import children, own_function
from .discovery import Found, ast, is_main_guard
from .errors import NothingToInvoke

# Calls that serve until the process ends, by their names alone or with those of their modules.
SERVING = frozenset(("serve_forever", "run_simple", "run_app", "uvicorn.run", "hypercorn.run", "waitress.serve", "bottle.run", "socketio.run", "cherrypy.quickstart"))
IMPORTED = {"uvicorn": ("run",), "waitress": ("serve",), "bottle": ("run",)}  # `from waitress import serve`


class Servers:
    """What of a file starts a server."""

    def __init__(self, tree):
        self.tree, self.web, self.any, self.in_main_block = tree, Found(tree).web, False, None
        self.calls, self.bound = set(SERVING), set()
        for node in ast_nodes(tree):
            if isinstance(node, ast.ImportFrom):
                known = IMPORTED.get((node.module or "").partition(".")[0], ())
                self.calls |= {alias.asname or alias.name for alias in node.names if alias.name in known}
            elif isinstance(node, ast.Import):
                self.calls |= {f"{alias.asname}.{call}" for alias in node.names for call in IMPORTED.get(alias.name, ()) if alias.asname}
            elif isinstance(node, ast.Assign) and called(node.value)[1] == "Server":
                self.bound |= {target.id for target in node.targets if isinstance(target, ast.Name)}

    def starts(self, node):
        """Whether a call starts a server."""
        owner, name = called(node)
        if name in self.calls or f"{owner}.{name}" in self.calls or owner in self.web and name.startswith("run"):
            return True
        of = getattr(node.func, "value", None)
        return name in ("run", "serve") and (owner in self.bound or called(of)[1] in ("Server", "create_app", "make_app"))

    def serves(self, name):
        """Whether a function that needs no arguments is sure to start one."""
        function = own_function(self.tree, name)
        if function is None or len(function.args.args) > len(function.args.defaults) or function.decorator_list:
            return False
        todo = list(function.body)
        for node in todo:
            if isinstance(node, (ast.With, ast.AsyncWith, ast.Try)):
                todo += node.body
        return any(isinstance(node, ast.Expr) and any(map(self.starts, calls_in(node))) for node in todo)

    def is_start(self, statement):
        """Whether a statement does nothing but start one, by itself or by a function of the file."""
        return isinstance(statement, ast.Expr) and any(
            self.starts(call) or isinstance(call.func, ast.Name) and self.serves(call.func.id) for call in calls_in(statement))

    def end(self, body):
        """Ends a block before it starts a server; the line of that if it is sure to do so."""
        for at, node in enumerate(body):
            if self.is_start(node):
                self.any = True
                body[at:] = [ast.Pass(lineno=node.lineno, col_offset=0, end_lineno=node.lineno, end_col_offset=0)]
                return node.lineno
            line = None
            if isinstance(node, ast.If):
                line = self.end(node.body)
                self.end(node.orelse)
                self.in_main_block = is_main_guard(node.test) and line or self.in_main_block
                continue
            elif isinstance(node, (ast.With, ast.AsyncWith, ast.Try)):
                line = self.end(node.body)
            if line:
                del body[at + 1:]
                return line
        return None


def called(node):
    """(owner, name) of what a call calls: `app` and `run` of `app.run()`."""
    function = getattr(node, "func", None)
    return getattr(getattr(function, "value", None), "id", ""), getattr(function, "attr", getattr(function, "id", ""))


def ast_nodes(tree):
    """A tree's nodes, itself first."""
    todo = [tree]
    for node in todo:
        todo += children(node)
    return todo


def calls_in(tree):
    return [node for node in ast_nodes(tree) if isinstance(node, ast.Call)]


def without_server(source, path):
    """The code of a file without what starts a server when it is imported, and all behind it; None if nothing does."""
    tree = compile(source, path, "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
    tree.body = [inner for node in tree.body
                 for inner in (node.orelse if isinstance(node, ast.If) and is_main_guard(node.test) else [node])]
    servers = Servers(tree)
    servers.end(tree.body)
    return compile(tree, path, "exec", dont_inherit=True) if servers.any else None


def refuse_server(entry, line):
    """Refuses a file that only serves what cannot be called without its server."""
    raise NothingToInvoke(f"{entry} starts a server of its own in line {line}, and offers no application that could be invoked",
                          "bind an ASGI or WSGI application, or a server of MCP, to a name of the file; or define handler(message)")

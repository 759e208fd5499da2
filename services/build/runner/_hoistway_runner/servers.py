"""Files that start their own server when they are run: the runner serves their application, so no server is started."""

import os
import sys

from .commands import children, nodes_of, own_function
from .discovery import Found, ast, is_main_guard
from .errors import NothingToInvoke

# Functions of modules that serve until the process ends.
SERVING = frozenset(("uvicorn.run", "hypercorn.run", "waitress.serve", "bottle.run", "cherrypy.quickstart", "aiohttp.web.run_app",
                     "werkzeug.run_simple", "werkzeug.serving.run_simple"))
RUNS = ("run", "run_server", "run_task", "run_async", "run_stdio_async", "run_sse_async", "run_http_async", "run_streamable_http_async")  # of applications
WAITING = ("run", "run_until_complete", "gather", "wait_for", "exit")  # for the calls that are their arguments


class Servers:
    """Finds the statements of a file that start a server."""

    def __init__(self, tree):
        self.tree, self.web, self.any, self.in_main_block = tree, Found(tree).web, False, None
        self.imported, self.bound = {}, set()
        for node in nodes_of(tree):
            if isinstance(node, ast.ImportFrom):
                self.imported.update((alias.asname or alias.name, f"{'.' * node.level}{node.module}.{alias.name}") for alias in node.names)
            elif isinstance(node, ast.Import):
                self.imported.update((alias.asname, alias.name) for alias in node.names if alias.asname)
            elif isinstance(node, ast.Assign) and called(node.value)[1] in ("Server", "SocketIO"):
                self.bound |= {target.id for target in node.targets if isinstance(target, ast.Name)}

    def starts(self, node):
        """Whether a call starts a server. For a function of the file, its body decides."""
        if isinstance(node.func, ast.Name) and own_function(self.tree, node.func.id):
            return False
        if self.full_name(node.func) in SERVING:
            return True
        owner, name = called(node)
        of = getattr(node.func, "value", None)
        return of is not None and (
            name == "serve_forever" or owner in self.web and name in RUNS or f"{owner}.{name}" == "socketio.run" or
            name in ("run", "serve") and (owner in self.bound or called(of)[1] in ("Server", "create_app", "make_app")))

    def full_name(self, node):
        """Returns the qualified name of an expression; for other expressions a text that is no name."""
        if isinstance(node, ast.Attribute):
            return f"{self.full_name(node.value)}.{node.attr}"
        return self.imported.get(node.id, node.id) if isinstance(node, ast.Name) else ""

    def serves(self, name):
        """Whether a function that needs no arguments certainly starts a server."""
        function = own_function(self.tree, name)
        if function is None or len(function.args.args) > len(function.args.defaults) or function.decorator_list:
            return False
        todo = list(function.body)
        for node in todo:
            if isinstance(node, (ast.With, ast.AsyncWith, ast.Try)):
                todo += node.body
        return any(isinstance(node, ast.Expr) and any(map(self.starts, calls_of(node.value))) for node in todo)

    def is_start(self, statement):
        """Whether a statement only starts a server, directly or by a function of the file."""
        return isinstance(statement, ast.Expr) and any(
            self.starts(call) or isinstance(call.func, ast.Name) and self.serves(call.func.id) for call in calls_of(statement.value))

    def end(self, body):
        """Cuts a block before it starts a server; returns the line if it certainly does so."""
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
    """Returns (owner, name) of a call's function: `app` and `run` of `app.run()`."""
    function = getattr(node, "func", None)
    return getattr(getattr(function, "value", None), "id", ""), getattr(function, "attr", getattr(function, "id", ""))


def calls_of(expression):
    """Returns the calls whose end an expression waits for; not those passed to a thread or a task."""
    todo, found = [expression], []
    for node in todo:
        if isinstance(node, ast.Call):
            found.append(node)
            todo += node.args if called(node)[1] in WAITING else ()
        elif not isinstance(node, ast.Lambda):
            todo += children(node)
    return found


def without_server(source, path):
    """Returns the code of a file without the start of a server on import and everything after it; None if it starts
    none."""
    tree = compile(source, path, "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
    tree.body = [inner for node in tree.body
                 for inner in (node.orelse if isinstance(node, ast.If) and is_main_guard(node.test) else [node])]
    servers, before = Servers(tree), own_function(tree, "handler")
    line = servers.end(tree.body)
    if line and before and not own_function(tree, "handler"):
        print(f"{os.path.basename(path)}, line {line} starts a server that would not end, so handler below it is left out: "
              "define it above, or leave the server out", file=sys.stderr)
    return compile(tree, path, "exec", dont_inherit=True) if servers.any else None


def refuse_server(entry, line):
    """Refuses a file whose content cannot be called without its server."""
    raise NothingToInvoke(f"{entry} starts a server of its own in line {line}, and offers no application that could be invoked",
                          "bind an ASGI or WSGI application, or a server of MCP, to a name of the file; or define handler(message)")

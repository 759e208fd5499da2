"""Imports the entry file and finds the agent in it."""

import os
import sys
from _frozen_importlib import module_from_spec  # importlib.util's function, without its 4 ms
from _frozen_importlib_external import SourceFileLoader, spec_from_file_location
from types import ModuleType

from .annotations import is_model
from .arguments import NONE, Agent, FunctionAgent, MessageAgent, Plan, parameters
from .errors import NothingToInvoke, StartError
from .paths import module_of, package_of


def import_entry(app, entry):
    """Imports the entry file under the name that its own package, or pickle in a child process, would import.

    It is loaded from its path whatever its name: `my-agent.py` is no identifier, and `queue.py`, a directory `src`
    without __init__.py or an `agent.py` beside a package `agent` might lose against a module of the same name.
    """
    path = os.path.join(app, entry)
    root, parts = module_of(app, entry)
    if not all(map(str.isidentifier, parts)) or parts[0] in sys.modules or ".".join(parts) in sys.stdlib_module_names or (
            any(os.path.isfile(os.path.join(place, *parts, "__init__.py")) for place in (root, os.path.dirname(path)))):
        from .environment import add_module

        parts = ["agent_" + "".join(c if c.isalnum() else "_" for c in ".".join(parts))]
        add_module(parts[0], path)
    name, package = ".".join(parts), package_of(root, parts)
    if package:
        from importlib import import_module

        import_module(package)
        if name in sys.modules:  # the package's __init__.py has imported it
            return sys.modules[name]
    spec = spec_from_file_location(name, path, loader=SourceFileLoader(name, path))
    module = sys.modules[name] = module_from_spec(spec)
    execute(spec.loader, module, path)
    if package:
        setattr(sys.modules[package], parts[-1], module)
    return module


def execute(loader, module, path):
    """Executes a file as a module, without a server that it starts, which would never end."""
    with open(path, "rb") as file:
        source = file.read()
    if may_start_a_server(source):
        from .servers import without_server

        if code := without_server(source, path):
            exec(code, module.__dict__)
            return
    loader.exec_module(module)


class LambdaAgent(FunctionAgent):
    """A function in the style of AWS Lambda: the event is the request, whatever its parameter's name, and whatever its
    annotation unless it is a model."""

    def __init__(self, function):
        super().__init__(function)
        found = parameters(function)
        event = [("event", way, note if is_model(note) else NONE, default) for _, way, note, default in found[:1]]
        context = [("context", way, NONE, default) for _, way, _, default in found[1:2]]
        self.plan = Plan(event + context + found[2:])


def choose(module, bound, imported, entry, tree):
    """Returns (name, agent) of a module's names; for `main` and `run` the agent is the function itself. None if there
    is none."""
    found = {name: getattr(module, name) for name in bound | imported if hasattr(module, name)}
    for name in imported & found.keys():  # modules, classes and logging's handlers have these names, too
        thing = found[name]
        if not callable(thing) if name == "handler" else isinstance(thing, (ModuleType, type)):
            del found[name]
    if "handler" in found and not callable(found["handler"]):
        raise StartError(f"{entry}: handler is {type(found['handler']).__name__}, which cannot be called")
    if any(base.__module__ == "http.server" for base in getattr(found.get("handler"), "__mro__", ())):
        raise NothingToInvoke(f"{entry}: handler is a class for a server of http.server", "define a function handler(message), or an ASGI or WSGI application")
    if type(found.get("handler")).__module__.startswith("mangum"):  # wraps an application for AWS Lambda
        from .web import web_agent

        return "handler", web_agent(found["handler"].app)
    for name in ("handler", "lambda_handler"):
        if callable(found.get(name)):
            return name, FunctionAgent(found[name]) if name == "handler" else LambdaAgent(found[name])
    from .discovery import FRAMEWORK_NAMES

    names = [name for name in FRAMEWORK_NAMES if name in found]
    if len(names) > 1:
        from .steering import parts

        of_others = parts(tree)
        names.sort(key=lambda name: name in of_others)
    if hasattr(found.get("app"), "invoke"):
        names.append("app")
    if names:
        from .frameworks import framework_agent

        for name in names:
            if agent := framework_agent(found[name]):
                return name, agent
    for name in ("main", "run"):
        if callable(found.get(name)):
            return name, found[name]
    if "app" not in found:
        return None
    from .web import web_agent

    agent = web_agent(found["app"])
    return agent and ("app", agent)


# Words in files that start a server or contain a self-serving application, from the names in servers.py and
# discovery.py.
OF_SERVERS = (b"uvicorn", b"hypercorn", b"waitress", b"bottle", b"cherrypy", b"aiohttp", b"werkzeug", b"socketio", b"SocketIO", b"serve_forever",
              b"Server(", b"FastAPI", b"Flask", b"Starlette", b"Quart", b"Litestar", b"Sanic", b"Bottle", b"BlackSheep", b"Falcon", b"Esmerald",
              b"FastMCP", b"MCPServer", b"_app")


def may_start_a_server(source):
    """Whether a file must be parsed to find servers that it starts."""
    return (b"run(" in source or b"run_" in source or b"serve" in source or b"quickstart" in source) and any(
        word in source for word in OF_SERVERS)


def defines_handler(source):
    """Whether a file obviously defines a handler. Others are parsed, which takes 1.5 ms."""
    text = b"\n" + source
    at = max(text.find(b"\ndef handler("), text.find(b"\nasync def handler("))
    return at >= 0 and b'"""' not in text[:at] and b"'''" not in text[:at]


def load_agent(app, entry, script_command, framework=None):
    """Returns the agent. Its import, if it is imported at all, is strict."""
    path = os.path.join(app, entry)
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError as error:
        raise StartError(f"the entry point {entry} cannot be read: {error.strerror}") from None
    Agent.loops, module = b"asyncio" in source, None
    if defines_handler(source):
        module = import_entry(app, entry)
        if callable(handler := getattr(module, "handler", None)):
            return FunctionAgent(handler)
    from .discovery import FACTORIES, ast
    from .own_files import agent_names

    tree = compile(source, path, "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
    serving = servers = None
    if may_start_a_server(source):
        from .servers import Servers

        servers = Servers(tree)
        serving = servers.end(tree.body) or servers.in_main_block
    bound, imported = agent_names(tree, app, path)
    names = (bound | imported).difference(FACTORIES)
    if framework and not names & {"handler", "lambda_handler"}:
        from .steering import FUNCTIONS, OBJECTS, WEB, steered

        if framework in OBJECTS or framework in WEB:
            agent, module = steered(tree, app, entry, framework, names, module)
            if agent:
                return agent
        elif framework == "custom" and (own := names.intersection(FUNCTIONS)):
            bound, imported, names = bound & own, imported & own, own
    if names <= {"main", "run"}:
        from .pages import refuse_page

        refuse_page(tree, app, entry, names)
    function = "main" if "main" in names else "run"
    if function in names and names <= {"main", "run", "app"}:
        from .commands import is_command, served_application

        if servers and servers.serves(function):
            bound, imported, names = (some - {"main", "run"} for some in (bound, imported, names))
        elif served := served_application(tree, function):
            from .web import web_agent

            module = module or import_entry(app, entry)
            if agent := web_agent(getattr(module, served, None)):
                return agent
        elif "app" not in names and is_command(tree, app, path, function):
            return script_agent(tree, app, path, script_command, function)  # its import may read the command line already
    if names:
        module = module or import_entry(app, entry)
        if chosen := choose(module, bound, imported, entry, tree):
            name, agent = chosen
            if isinstance(agent, Agent):
                return agent
            from .commands import is_command

            if is_command(tree, app, path, name):
                return script_agent(tree, app, path, script_command, name)
            return FunctionAgent(agent, name)
    from .unnamed import unnamed_agent

    if agent := unnamed_agent(tree, app, entry, module):
        return agent
    if serving:
        from .servers import refuse_server

        refuse_server(entry, serving)
    if names:
        print(f"{entry}: nothing to invoke in {', '.join(sorted(names))}; each invoke runs the file as a script",
              file=sys.stderr)
    return script_agent(tree, app, path, script_command)


def script_agent(tree, app, path, command, function=None):
    """Returns the file as a script, which calls the function if it does not do so itself."""
    compile(tree, path, "exec", dont_inherit=True)  # a script is ready when it compiles, since no run was requested yet
    from .commands import is_called, needs_message

    if function and not is_called(tree, function):
        command = [*command, "--call", function]
    from .scripts import run_script

    told = []

    def run(message, seen):
        printed = False
        for piece in run_script(command, message, seen.get("user_id", "")):
            printed = True
            yield piece
        if not printed and not told:
            told.append(True)
            print("the script printed nothing, so its answer is empty: print the answer, or define handler(message)", file=sys.__stderr__, flush=True)

    return MessageAgent(run, needed=function is not None or needs_message(tree, app, path))

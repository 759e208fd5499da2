#!/usr/bin/env python3
"""Runs one agent: finds what its entry point offers, and answers HTTP with it.

    hoistway_runner.py [--app DIR] [--site DIR]... [--listen-fd N] [--notify-fd N] [--config-fd N]

USER_ENTRY_POINT names the entry file below the app directory. The agent in it is, in this order: `handler`; an object
named `agent`, `chain`, `executor`, `graph` or `crew`, or an `app` that has `.invoke`; `main`; `run`; `app` as an ASGI or
WSGI application. Names count that the file binds itself, a `handler` imported from anywhere (`from x import handler`),
and others imported from the agent's own files, unless the file's top level uses them: it is a script then. Without any,
it is a script: each invoke runs it in a process of its own, with the message on stdin, in argv[1] and in AGENT_MESSAGE,
and what it prints is the answer.

Whose invoke it is, where an identity provider vouches for its users, comes in the header X-End-User-ID, from the gateway
and from nobody else: a handler finds it as `user_id` of its request and of its context's session, a script in
AGENT_USER_ID, a web application in the header. The agent's tools are told by egress, from a statement that the gateway
sends as X-Hoistway-End-User and that goes along with every call of the agent's HTTP clients.

A web application is called here, without a server of its own: POST /invoke of the agent is POST /invoke of the
application with the same body, or POST / where it answers 404; POST /invoke/stream tries /invoke/stream first.

    GET /healthz   GET /readyz   POST /invoke   POST /invoke/stream      body: {"message": "...", "history": [...], ...}

In a container it listens on PORT. A supervisor hands over more: a listening socket, a pipe that is told once how the
start went ({"event": "ready"} or {"event": "failed", "error": ...}), and a pipe with {"token": ..., "mask": [...],
"closed_network": ...}.
SIGTERM drains: everything that has connected is still answered, then the exit status is 0.

Standard library only, Python 3.10 or later. How soon an agent answers after an edit is decided here, so what most
agents never need (asyncio, inspect, traceback, subprocess: 5 to 35 ms each) is imported where it is used.
"""

import _ast as ast  # the node classes; the module `ast` around them takes 3 ms
import errno
import faulthandler
import importlib.util
import json
import os
import re  # which json has imported
import select
import signal
import socket
import sys
import threading
import time
from _contextvars import ContextVar
from _operator import _compare_digest as same_in_constant_time  # what hmac.compare_digest is, without loading OpenSSL
from importlib.machinery import SourceFileLoader
from types import FunctionType, ModuleType

sys.dont_write_bytecode = True  # also for multiprocessing's children, which import this file as __mp_main__

INVOKES = 64  # at once; one more is told to come back
CONNECTIONS = 128  # at once, so health is answered while all invokes are busy; for one more, the oldest without a token goes
BODY_LIMIT = 32 << 20
HEAD_LIMIT = 64 << 10
SCRIPT_OUTPUT_LIMIT = 8 << 20
DETAIL_LINES = 20
HEAD_SECONDS = 5  # between connecting and the last header
SOCKET_SECONDS = 60  # for a peer that stops reading or writing
STREAM_DRAIN_SECONDS = 30
SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}  # they pass, when a connection ends for one
EXIT_SECONDS = 5  # for the agent's own threads, exit hooks and tasks

FRAMEWORK_NAMES = ("agent", "chain", "executor", "graph", "crew")
AGENT_NAMES = frozenset(("handler", *FRAMEWORK_NAMES, "app", "main", "run"))
TEXT_PARAMETERS = frozenset(("message", "msg", "text", "query", "prompt", "input", "user_input"))
REASONS = {200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
           411: "Length Required", 413: "Content Too Large", 431: "Request Header Fields Too Large",
           500: "Internal Server Error", 503: "Service Unavailable"}


# ---- Errors -------------------------------------------------------------------------------------------------------


class StartError(Exception):
    """The agent cannot be started, for a reason that is ours to explain."""


class ScriptError(Exception):
    """A script's run failed; `details` are the last lines that it wrote to stderr."""

    def __init__(self, headline, details):
        super().__init__(headline)
        self.details = details


class AppError(ScriptError):
    """A web application answered with an error; `details` are the last lines of its answer."""


class Mask:
    """Replaces secret values in texts of errors, also in the escaped forms in which an exception may show them.

    `places` are directories of this machine and what the image calls them: where files really are is of no use to
    whoever reads the text.
    """

    places = []

    def __init__(self, secrets=()):
        texts = {part for s in secrets for part in (s, s.strip(), *map(str.strip, s.splitlines())) if self.hides(part)}
        forms = {form for s in texts for form in (
            s, repr(s)[1:-1], ascii(s)[1:-1], json.dumps(s)[1:-1], json.dumps(s, ensure_ascii=False)[1:-1])}
        self._forms = sorted(forms, key=len, reverse=True)  # a secret within a longer one must not spoil the match

    @staticmethod
    def hides(text):
        """Whether hiding it hides anything: not of short values, plain words and numbers ("true", "info", "8080")."""
        plain = text.isascii() and (text.isdigit() or text.isalpha() and text.islower())
        return len(text) >= (6 if plain else 4)

    def __call__(self, text):
        text = text.encode("utf-8", "backslashreplace").decode()  # a lone surrogate is not for JSON
        for form in self._forms:
            text = text.replace(form, "********")
        for here, name in self.places:
            text = text.replace(here, name)
        return text


def headline(error):
    """`Type: text`, as the last line of a traceback has it; of a text of many lines all, within reason."""
    module, name = type(error).__module__, type(error).__qualname__
    if module not in ("builtins", "__main__"):
        name = f"{module}.{name}"
    try:
        text = str(error)
    except Exception:
        text = "<exception str() failed>"
    return (f"{name}: {text}" if text else name)[:2000]


def user_traceback(error):
    """The formatted traceback from the first frame that is the agent's own: ours would only bury it."""
    import traceback

    frames = error.__traceback__
    ours = (__file__, importlib.__file__)
    while frames and ((name := frames.tb_frame.f_code.co_filename) in ours or name.startswith("<frozen importlib")):
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames))


def report(error, mask, request=None):
    """Writes the traceback to stderr, where the logs come from, and gives the headline and the last lines of it. What
    failed an invoke begins with a line that has the request's id, which is what ties it to the caller's answer."""
    told = ""
    if request:
        request_id = ascii(request["request_id"]).strip("'\"")[:128]  # the body may say anything
        told = mask(f"request {request_id} failed\n")
    if isinstance(error, ScriptError):  # its own output has been in the logs already
        print(told, end="", file=sys.__stderr__, flush=True)
        return mask(str(error)), [mask(line) for line in error.details]
    text = f"{error}\n" if isinstance(error, StartError) else mask(user_traceback(error))
    print(told + text, end="", file=sys.__stderr__, flush=True)
    return mask(str(error) if isinstance(error, StartError) else headline(error)), text.splitlines()[-DETAIL_LINES:]


def flush_output():
    """Sends off what was printed without a newline; Python itself does that with the next one."""
    for stream in filter(None, (sys.__stdout__, sys.__stderr__)):
        try:
            stream.flush()
        except (OSError, ValueError):  # the agent's code has closed it
            pass


def leave(why):
    """Ends a process that can answer nobody any more, so that its supervisor starts another one."""
    try:
        print(f"the agent cannot go on: {why}", file=sys.__stderr__, flush=True)
        sys.__stdout__.flush()
    finally:  # at once: what the agent still runs may never end
        os._exit(1)


# ---- Finding the agent --------------------------------------------------------------------------------------------


def arrange_path(app, sites, entry, hermetic):
    """Sets sys.path: the app, the entry's own directory, the standard library, the image's packages.

    `hermetic` is the case of a host's interpreter: what happens to be installed on the host is not part of the image
    and stays out of reach, as in a virtual environment. In a container the interpreter's packages are the image's.
    """
    import site

    if sys.flags.no_site:  # a supervisor may start us with -S, which spares the host's .pth files; scripts use exit()
        site.setquit()
    rest = [p for p in sys.path if p not in ("", os.path.dirname(os.path.abspath(__file__)))]
    library = [p for p in rest if p == os.path.dirname(os.__file__) or p.endswith((".zip", "lib-dynload"))]
    sys.path[:] = dict.fromkeys([app, os.path.dirname(os.path.join(app, entry)), *library])
    for directory in sites:
        if os.path.isdir(directory):
            site.addsitedir(directory)
    if not hermetic:
        sys.path.extend(p for p in rest if p not in sys.path)


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


def import_entry(app, entry):
    """Imports the entry file under the name by which its own package, or pickle in a child process, would import it.

    It is loaded from its path whatever its name: `my-agent.py` is no identifier, and `queue.py` or a directory `src`
    without __init__.py might lose against a module of the same name elsewhere.
    """
    path = os.path.join(app, entry)
    parts = entry.removesuffix(".py").split("/")
    if not all(map(str.isidentifier, parts)) or parts[0] in sys.modules or ".".join(parts) in sys.stdlib_module_names:
        parts = ["agent_" + "".join(c if c.isalnum() else "_" for c in ".".join(parts))]
    name, package = ".".join(parts), ".".join(parts[:-1])
    is_package = package and all(
        os.path.isfile(os.path.join(app, *parts[:n], "__init__.py")) for n in range(1, len(parts)))
    if is_package:
        importlib.import_module(package)
        if name in sys.modules:  # the package's __init__.py has imported it
            return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path, loader=SourceFileLoader(name, path))
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if is_package:
        setattr(sys.modules[package], parts[-1], module)
    return module


def choose(module, bound, imported, entry):
    """The agent among a module's names: a function of (request, context) or a web application; or None."""
    found = {name: getattr(module, name) for name in bound | imported if hasattr(module, name)}
    for name in imported & found.keys():  # modules, classes and logging's handlers have these names, too
        thing = found[name]
        if not callable(thing) if name == "handler" else isinstance(thing, (ModuleType, type)):
            del found[name]
    if "handler" in found and not callable(found["handler"]):
        raise StartError(f"{entry}: handler is {type(found['handler']).__name__}, which cannot be called")
    if "handler" in found:
        return adapt(found["handler"])
    for name in FRAMEWORK_NAMES:
        if agent := framework_agent(found.get(name)):
            return agent
    if hasattr(found.get("app"), "invoke"):
        return framework_agent(found["app"])
    for name in ("main", "run"):
        if callable(found.get(name)):
            return adapt(found[name])
    return web_agent(found.get("app"))


def load_agent(app, entry, script_command):
    """The agent as a function of (request, context), whose import, if it has to be imported, is strict."""
    path = os.path.join(app, entry)
    try:
        with open(path, "rb") as file:
            tree = compile(file.read(), path, "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
    except OSError as error:
        raise StartError(f"the entry point {entry} cannot be read: {error.strerror}") from None
    bound, imported = agent_names(tree, app, path)
    if names := bound | imported:
        if agent := choose(import_entry(app, entry), bound, imported, entry):
            return agent
        print(f"{entry}: nothing to invoke in {', '.join(sorted(names))}; each invoke runs the file as a script",
              file=sys.stderr)
    compile(tree, path, "exec", dont_inherit=True)  # a script is ready when it compiles; nobody has asked for a run yet
    return lambda request, context: run_script(script_command, request["message"], request.get("user_id", ""))


# ---- Calling the agent --------------------------------------------------------------------------------------------


class RunContext:
    """The second argument of a handler: where its tools and its model are, and whose conversation this is."""

    def __init__(self, request):
        env = os.environ
        self.tools = {k[9:].lower().replace("_", "-"): v for k, v in env.items() if k.startswith("TOOL_URL_")}
        self.llm_url = env.get("LLM_GATEWAY_URL", "")
        self.model = env.get("LLM_MODEL", "")
        self.system_prompt = env.get("SYSTEM_PROMPT", "")
        self.session = {k: request[k] for k in ("history", "request_id", "run_id", "user_id") if k in request}


def positional_parameters(function):
    """[(name, annotation)] of what a callable takes by position; *args counts as one."""
    if isinstance(function, FunctionType) and function.__dict__.keys().isdisjoint(("__wrapped__", "__signature__")):
        code = function.__code__  # what inspect.signature would say, without its 6 ms
        names = list(code.co_varnames[:code.co_argcount])
        if code.co_flags & 0x04:  # *args, which stands behind the keyword-only ones
            names.append(code.co_varnames[code.co_argcount + code.co_kwonlyargcount])
        return [(name, function.__annotations__.get(name)) for name in names]
    import inspect

    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some builtins have none
        return [("request", None)]
    return [(p.name, None if p.annotation is p.empty else p.annotation)
            for p in parameters if p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD)]


def adapt(function):
    """A user's function as one of (request, context): its own parameters decide what it gets."""
    parameters = positional_parameters(function)
    if not parameters:
        return lambda request, context: function()
    if len(parameters) > 1:
        return function
    name, annotation = parameters[0]
    if annotation in (str, "str") or annotation is None and name in TEXT_PARAMETERS:
        return lambda request, context: function(request["message"])
    return lambda request, context: function(request)


def framework_agent(thing):
    """An object of LangChain, LangGraph, CrewAI or the like as a function of (request, context), or None."""
    if thing is None:
        return None
    kind, invoke = type(thing).__name__, getattr(thing, "invoke", None)
    if callable(invoke) and (kind == "AgentExecutor" or hasattr(thing, "agent")):
        return lambda request, context: output_of(resolve(invoke({"input": request["message"]})))
    if callable(invoke) and (kind == "CompiledGraph" or hasattr(thing, "nodes")):
        return lambda request, context: last_message(resolve(invoke({"messages": [human_message(request["message"])]})))
    for call in (invoke, getattr(thing, "run", None), getattr(thing, "kickoff", None)):
        if callable(call):
            return lambda request, context: output_of(resolve(call(request["message"])))
    return None


def human_message(text):
    """A message as LangGraph wants it."""
    try:
        from langchain_core.messages import HumanMessage
    except ImportError:
        return {"role": "user", "content": text}
    return HumanMessage(content=text)


def last_message(state):
    """The content of the last message in a graph's final state."""
    messages = state.get("messages") if isinstance(state, dict) else None
    if not messages:
        return output_of(state)
    last = messages[-1]
    return {"response": last.get("content") if isinstance(last, dict) else getattr(last, "content", str(last))}


def output_of(result):
    """What a framework's object answered, without the state around it."""
    if isinstance(result, dict) and "response" not in result:
        return {"response": result.get("output", result.get("result", result))}
    return result


class EventLoop:
    """One loop for all async code of the agent, so that a client bound to it at the first call works ever after."""

    def __init__(self):
        self._lock, self._loop, self._ending = threading.Lock(), None, False

    def _started(self):
        import asyncio

        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._run, name="event-loop", daemon=True).start()
        return self._loop

    def _run(self):
        import asyncio

        asyncio.set_event_loop(self._loop)
        while not self._ending:
            try:
                self._loop.run_forever()  # and again when the agent's code has stopped it: other invokes wait for it
            except (SystemExit, KeyboardInterrupt) as error:  # a background task called exit(): its business alone
                print(f"a task ended with {headline(error)}", file=sys.stderr)
            except Exception as error:  # it was closed, or what it waits with was
                leave(f"its event loop broke: {headline(error)}")

    def submit(self, coroutine):
        """Runs a coroutine on the loop; a concurrent Future of its result."""
        import asyncio

        return asyncio.run_coroutine_threadsafe(coroutine, self._started())

    def wait(self, awaitable):
        """The result of an awaitable. Exceptions travel as values: asyncio would let SystemExit end the loop."""

        async def outcome():
            try:
                return await awaitable, None
            except BaseException as error:
                return None, error

        value, error = self.submit(outcome()).result()
        if error is not None:
            raise error
        return value

    def iterate(self, chunks):
        """An async iterator as a plain one. A single task drives it: time-outs and task groups may span its yields."""
        import asyncio
        from queue import SimpleQueue

        ready, wanted, end = SimpleQueue(), asyncio.Semaphore(0), object()

        async def drive():
            try:
                async for chunk in chunks:
                    ready.put((chunk, None))
                    await wanted.acquire()
                ready.put((end, None))
            except BaseException as error:
                ready.put((end, error))
            finally:
                if hasattr(chunks, "aclose"):
                    await chunks.aclose()

        task = self.submit(drive())
        try:
            while True:
                chunk, error = ready.get()
                if error is not None:
                    raise error
                if chunk is end:
                    return
                yield chunk
                self._loop.call_soon_threadsafe(wanted.release)
        finally:
            task.cancel()

    def close(self):
        """Cancels what still runs and gives it a moment to clean up."""
        if self._loop is None:
            return
        import asyncio

        async def cancel_all():
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._loop.shutdown_asyncgens()

        try:
            self.submit(cancel_all()).result(EXIT_SECONDS)
        except Exception as error:
            print(f"tasks did not end: {headline(error)}", file=sys.stderr)
        self._ending = True
        self._loop.call_soon_threadsafe(self._loop.stop)


LOOP = EventLoop()


# ---- Web applications -----------------------------------------------------------------------------------------------


def web_agent(app):
    """An ASGI or WSGI application as an agent; None for any other thing."""
    if not callable(app) or isinstance(app, type):
        return None
    import inspect

    count = len(positional_parameters(app))
    try:
        exact = all(p.kind is not p.VAR_POSITIONAL for p in inspect.signature(app).parameters.values())
    except (TypeError, ValueError):
        return None
    if inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(getattr(app, "__call__", None)):
        return AsgiAgent(app) if count == 3 or not exact else None
    return WsgiAgent(app) if count == 2 and exact else None


class Pieces:
    """The body of an application's answer: as bytes in `raw`, as text when it is iterated."""

    def __init__(self, status, kind, raw):
        self.status, self.kind, self.raw = status, kind.partition(";")[0].strip().lower(), raw
        self.events = self.kind == "text/event-stream"
        self._text = None

    def __iter__(self):
        return self

    def __next__(self):
        if self._text is None:
            import codecs

            self._text = codecs.iterdecode(self.raw, "utf-8", "replace")
        return next(self._text)

    def close(self):
        self.raw.close()


class WebAgent:
    """A web application, called with what the agent was invoked with: POST /invoke, or POST / where that is a 404."""

    def __init__(self, app):
        self.app = app

    def answer(self, path, headers, body):
        """What it answers to an invoke: JSON read, or pieces of text."""
        headers = {k: v for k, v in headers.items() if k not in (
            "x-hoistway-invoke-token", "connection", "expect", "content-length", "content-type")}
        headers |= {"content-type": "application/json", "content-length": str(len(body))}
        tried = {}
        for path in dict.fromkeys((path, "/invoke", "/")):
            answer = tried[path] = self.call(path, headers, body)
            if answer.status != 404:
                break
        else:  # it knows none of them: what it says to the first tells most
            path, answer = next(iter(tried.items()))
        for other in tried.values():
            if other is not answer:
                other.close()
        if not 200 <= answer.status < 300:
            lines = "".join(answer).splitlines()
            raise AppError(f"the app answered POST {path} with status {answer.status}", lines[-DETAIL_LINES:])
        if answer.kind == "application/json" or answer.kind.endswith("+json"):
            text = "".join(answer)
            return json.loads(text) if text else None
        return answer

    def call(self, path, headers, body):
        """Sends one request; the answer is there as soon as its head is."""
        raise NotImplementedError

    def start(self):
        """What comes before the first request."""

    def stop(self):
        """What comes after the last answer."""


class WsgiAgent(WebAgent):
    """A WSGI application (Flask, Django, Bottle ...), called in the thread that answers the invoke."""

    def call(self, path, headers, body):
        import io

        environ = {
            "REQUEST_METHOD": "POST", "SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": "",
            "SERVER_NAME": "localhost", "SERVER_PORT": os.environ.get("PORT") or "8080", "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "127.0.0.1", "wsgi.version": (1, 0), "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(body),
            "wsgi.errors": sys.stderr, "wsgi.multithread": True, "wsgi.multiprocess": False, "wsgi.run_once": False,
            **{"HTTP_" + k.upper().replace("-", "_"): v for k, v in headers.items() if not k.startswith("content-")},
            "CONTENT_TYPE": headers["content-type"], "CONTENT_LENGTH": headers["content-length"]}
        head, written = {}, []

        def start_response(status, fields, exc_info=None):
            head.update(status=int(status.split()[0]), kind=dict((k.lower(), v) for k, v in fields).get("content-type", ""))
            return written.append

        result = self.app(environ, start_response)

        def pieces():
            try:
                yield b""  # so that it has begun, and closing it closes the result
                for piece in result:
                    while written:
                        yield written.pop(0)
                    yield piece
                yield from written
            finally:
                if hasattr(result, "close"):
                    result.close()

        raw = pieces()
        first = next(raw)
        while not head and first is not None:  # it may want to be asked for its first piece before it says anything
            first = next(raw, None)
        if not head:
            raise RuntimeError("the WSGI application did not call start_response")
        return Pieces(head["status"], head["kind"], continued(first, raw) if first else raw)


class continued:
    """An iterator with one piece put back; unlike a generator it can be closed before it has begun."""

    def __init__(self, first, rest):
        self.first, self.rest = [first], rest

    def __iter__(self):
        return self

    def __next__(self):
        return self.first.pop() if self.first else next(self.rest)

    def close(self):
        self.rest.close()


class AsgiAgent(WebAgent):
    """An ASGI application (FastAPI, Starlette, Quart, Litestar ...), on the agent's event loop."""

    def __init__(self, app):
        super().__init__(app)
        self.state, self.lifespan, self.tasks = {}, None, set()

    def call(self, path, headers, body):
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST",
            "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
            "headers": [(k.encode("latin-1"), v.encode("latin-1")) for k, v in headers.items()],
            "client": ("127.0.0.1", 0), "server": ("localhost", int(os.environ.get("PORT") or 8080)),
            "state": dict(self.state)}
        messages = LOOP.iterate(self.exchange(scope, body))
        head = next(messages)
        fields = {bytes(k).decode("latin-1").lower(): bytes(v).decode("latin-1") for k, v in head.get("headers") or ()}

        def pieces():
            try:
                yield b""
                for message in messages:
                    if piece := message.get("body"):
                        yield bytes(piece)
            finally:
                messages.close()

        raw = pieces()
        next(raw)
        return Pieces(head["status"], fields.get("content-type", ""), raw)

    async def exchange(self, scope, body):
        """The messages that the application sends for one request. It is cancelled when nobody wants more of them."""
        import asyncio

        ready, gone, unread, status = asyncio.Queue(1), asyncio.Event(), [body], 0

        async def receive():
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            if not gone.is_set():
                await ready.put(message)

        async def run():
            try:
                await self.app(scope, receive, send)
                await send(RuntimeError("the ASGI application ended without a complete answer"))
            except BaseException as error:
                if not gone.is_set():
                    await ready.put(error)
                elif not isinstance(error, asyncio.CancelledError):  # in what it does after its answer
                    print(user_traceback(error), end="", file=sys.stderr)

        task = asyncio.ensure_future(run())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        complete = False
        try:
            while not complete:
                message = await ready.get()
                if isinstance(message, BaseException):
                    raise message
                status = message.get("status", status)
                complete = message["type"] == "http.response.body" and not message.get("more_body")
                yield message
            if status >= 500:  # frameworks answer first and let the exception through then: it says more
                try:
                    error = await asyncio.wait_for(ready.get(), 1)
                except (TimeoutError, asyncio.TimeoutError):
                    return
                if not (type(error) is RuntimeError and "without a complete answer" in str(error)):
                    raise error
        finally:
            gone.set()
            if not complete:  # what it does after its answer it may finish
                task.cancel()

    def start(self):
        LOOP.wait(self.begin())

    async def begin(self):
        """Runs the application's start-up, if it has one."""
        import asyncio

        inbox, outbox = asyncio.Queue(), asyncio.Queue()
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}

        async def run():
            try:
                await self.app(scope, inbox.get, outbox.put)
                await outbox.put(None)
            except BaseException as error:
                await outbox.put(error)

        task = asyncio.ensure_future(run())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        await inbox.put({"type": "lifespan.startup"})
        message = await outbox.get()
        if isinstance(message, (SystemExit, KeyboardInterrupt)):
            raise message
        if not isinstance(message, dict):  # it ended or failed at once: it has no start-up
            return
        if message["type"] == "lifespan.startup.failed":
            try:
                error = await asyncio.wait_for(outbox.get(), 1)  # what went wrong, if it is let through
            except (TimeoutError, asyncio.TimeoutError):
                error = None
            text = message.get("message") or "it does not say why"
            raise error if isinstance(error, BaseException) else StartError(f"the app's start-up failed: {text}")
        self.lifespan = inbox, outbox

    def stop(self):
        if not self.lifespan:
            return
        import asyncio

        async def end():
            inbox, outbox = self.lifespan
            await inbox.put({"type": "lifespan.shutdown"})
            await asyncio.wait_for(outbox.get(), EXIT_SECONDS - 1)

        try:
            LOOP.wait(end())
        except Exception as error:
            print(f"the app's shutdown did not end: {headline(error)}", file=sys.stderr)


def resolve(result):
    """A result, awaited if it has to be."""
    return LOOP.wait(result) if hasattr(result, "__await__") else result


def is_chunks(result):
    """Whether a result comes piece by piece: a generator, an async generator or another iterator."""
    return hasattr(result, "__anext__") or hasattr(result, "__next__")


def text_chunks(result):
    """The texts that an iterator of either kind gives."""
    chunks = LOOP.iterate(result) if hasattr(result, "__anext__") else result
    try:
        for chunk in chunks:
            content = getattr(chunk, "content", chunk)  # a language model's message chunk
            if isinstance(content, bytes):
                content = content.decode("utf-8", "replace")
            elif isinstance(content, list) and content is not chunk:  # its content blocks
                content = "".join(b if isinstance(b, str) else str(b.get("text", "")) for b in content)
            if content := as_text(content):
                yield content
    finally:
        if hasattr(chunks, "close"):  # a generator stops when nobody listens any more
            chunks.close()


def as_text(value):
    """A value as text for a stream."""
    return value if isinstance(value, str) else "" if value is None else to_json(value)


def normalise(result):
    """What a handler returned as the object that answers: at least `response`, of any JSON type; all keys are kept."""
    if not isinstance(result, dict):
        if result is not None and not isinstance(result, (str, int, float, list, tuple)):
            content = getattr(result, "content", None)  # of a language model's message
            result = content if isinstance(content, (str, list)) else str(result)
        return {"response": result}
    answer = dict(result)
    if "response" not in answer:
        answer["response"] = answer["output"] if "output" in answer else result
    return answer


# In JSON's ASCII: an escaped backslash, a whole pair, and in a group of its own what is neither.
SURROGATES = re.compile(r"\\\\|\\ud[89ab]..\\ud[c-f]..|(\\ud[89a-f]..)")


def to_json(value):
    """JSON of what agents return: what JSON does not know is its str(), NaN and infinities are null, and half a
    surrogate pair, which strict parsers refuse, is U+FFFD."""
    text = dumped(value)
    if "\\ud" not in text:
        return text
    return SURROGATES.sub(lambda found: r"\ufffd" if found[1] else found[0], text)


def dumped(value):
    """The JSON that Python makes of a value."""
    try:
        return json.dumps(value, default=str, allow_nan=False)
    except (TypeError, ValueError):  # keys that are no strings, numbers that are none

        def plain(item):
            if isinstance(item, dict):
                return {k if isinstance(k, str) else str(k): plain(v) for k, v in item.items()}
            if isinstance(item, (list, tuple)):
                return [plain(v) for v in item]
            return None if isinstance(item, float) and item - item != 0 else item

        return json.dumps(plain(value), default=str, allow_nan=False)


# ---- Invokes --------------------------------------------------------------------------------------------------------

STATEMENT = "x-hoistway-end-user"
STATEMENT_VARIABLE = "HOISTWAY_END_USER"  # to the process of a script, which does not keep it
END_USER = ContextVar("hoistway_end_user", default="")  # the statement about the invoke that goes on here


def place(url):
    """Host and port of a URL; nothing of one that has none."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        return parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None, None


class EndUsers:
    """Sends the statement about an invoke (its user, its request id and its trace) along with the calls of that invoke,
    whichever library makes them. It is installed with the first statement."""

    def __init__(self):
        self._lock, self._installed = threading.Lock(), False
        self.closed_network = False  # as the supervisor says: whatever is called, egress is asked
        self._hooks = {"http.client": self._http_client, "httpx": self._httpx, "httpx2": self._httpx,
                       "aiohttp": self._aiohttp, "concurrent.futures.thread": self._threads}

    def install(self):
        with self._lock:
            if self._installed:
                return
            # In a closed network every call goes to egress, which takes the statement out of what goes on. In an open one
            # it is for nobody but egress and the agent's tools.
            names = [name for name in os.environ if name.startswith("TOOL_URL_")]
            places = {place(os.environ.get(name, "")) for name in (*names, "LLM_GATEWAY_URL", "OPENAI_BASE_URL")}
            self._places = None if self.closed_network else places - {(None, None)}
            sys.meta_path.insert(0, self)
            for name, hook in self._hooks.items():
                if name in sys.modules:
                    hook(sys.modules[name])
            self._installed = True

    def find_spec(self, name, path=None, target=None):
        """A module that is imported later is changed once it has been executed."""
        hook = self._hooks.get(name)
        if hook is None:
            return None
        specs = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                hook(module)

            spec.loader.exec_module = exec_module
        return spec

    def _statement_for(self, host, port):
        """What goes along with a call to a host, or None."""
        return END_USER.get() if self._places is None or (host, port) in self._places else None

    def _http_client(self, module):  # urllib, requests, urllib3, boto3
        put = module.HTTPConnection.putrequest

        def putrequest(connection, method, url, *args, **options):
            put(connection, method, url, *args, **options)
            if connection._tunnel_host:
                to = connection._tunnel_host, connection._tunnel_port
            else:
                to = place(url) if url.startswith("http://") else (connection.host, connection.port)
            if statement := self._statement_for(*to):
                connection.putheader(STATEMENT, statement)

        module.HTTPConnection.putrequest = putrequest

    def _httpx(self, module):  # and its successor httpx2; the SDKs of models too
        def with_statement(handle):
            def handled(transport, request):
                request.headers.pop(STATEMENT, None)  # one that is sent again, or was redirected, has it already
                url = request.url
                if statement := self._statement_for(url.host, url.port or place(str(url))[1]):
                    request.headers[STATEMENT] = statement
                return handle(transport, request)

            return handled

        for kind, method in ((module.HTTPTransport, "handle_request"), (module.AsyncHTTPTransport, "handle_async_request")):
            setattr(kind, method, with_statement(getattr(kind, method)))

    def _aiohttp(self, module):
        send = module.ClientRequest.send

        def sent(request, *args, **options):
            if statement := self._statement_for(request.url.host, request.url.port):
                request.headers[STATEMENT] = statement
            return send(request, *args, **options)

        module.ClientRequest.send = sent

    def _threads(self, module):  # a pool's threads serve many invokes: each task belongs to the one that submitted it
        submit = module.ThreadPoolExecutor.submit

        def submitted(pool, function, /, *args, **options):
            statement = END_USER.get()

            def within(*args, **options):
                token = END_USER.set(statement)
                try:
                    return function(*args, **options)
                finally:
                    END_USER.reset(token)

            return submit(pool, within, *args, **options)

        module.ThreadPoolExecutor.submit = submitted


END_USERS = EndUsers()


# ---- Scripts ------------------------------------------------------------------------------------------------------


def run_script(command, message, user):
    """Runs a script once and yields what it prints, but for its final newline. A failed run raises ScriptError."""
    import collections
    import io
    import subprocess
    import tempfile

    with tempfile.TemporaryFile() as stdin:  # no pipe: a script need not read it, and a message may be large
        stdin.write(message.encode("utf-8", "replace"))
        stdin.seek(0)
        process = subprocess.Popen(
            command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "AGENT_USER_ID": user, STATEMENT_VARIABLE: END_USER.get()})
    tail = collections.deque(maxlen=DETAIL_LINES)

    def follow_stderr():
        while line := process.stderr.readline(HEAD_LIMIT):
            sys.__stderr__.buffer.write(line)
            sys.__stderr__.buffer.flush()
            tail.append(line.decode("utf-8", "replace").rstrip("\r\n"))

    follower = threading.Thread(target=follow_stderr, daemon=True)
    follower.start()
    try:
        size, newline = 0, ""
        with io.TextIOWrapper(process.stdout, "utf-8", "replace", newline="\n") as stdout:
            while line := stdout.readline(HEAD_LIMIT):
                size += len(line)
                if size > SCRIPT_OUTPUT_LIMIT:
                    raise ScriptError(f"the script printed more than {SCRIPT_OUTPUT_LIMIT >> 20} MiB", list(tail))
                text = newline + line.removesuffix("\n")
                newline = "\n" if line.endswith("\n") else ""
                yield text
        status = process.wait()
        follower.join(1)  # it ends with the script, unless a child of the script keeps stderr open
        if status != 0:
            how = f"exit status {status}" if status > 0 else f"signal {-status}"
            details = [line for line in tail if line.strip()]
            raise ScriptError(details[-1] if details else f"the script ended with {how}", details)
    finally:
        if process.poll() is None:  # nobody listens any more
            process.kill()
            process.wait()


def be_script(app, entry, closed_network):
    """In a process of its own: is the script, as `python3 ENTRY MESSAGE < MESSAGE` would be."""
    global END_USER
    END_USERS.closed_network = closed_network
    if statement := os.environ.pop(STATEMENT_VARIABLE, ""):
        END_USER = ContextVar("hoistway_end_user", default=statement)  # in every thread
        END_USERS.install()
    with open(0, "rb", closefd=False) as stdin:
        message = stdin.read().decode("utf-8", "replace")
        stdin.seek(0)
    path = os.path.join(app, entry)
    sys.argv[:] = [path, message]  # set here, not by the parent: an argument to exec is limited to 128 KiB
    if "\0" not in message:
        os.environ["AGENT_MESSAGE"] = message
    main = sys.modules["__main__"] = ModuleType("__main__")
    main.__file__ = path
    try:
        with open(path, "rb") as file:
            code = compile(file.read(), path, "exec", dont_inherit=True)
        exec(code, main.__dict__)
    except SystemExit:
        raise
    except BaseException as error:
        error.with_traceback(error.__traceback__.tb_next)  # the first frame is this one
        sys.excepthook(type(error), error, error.__traceback__)
        sys.exit(1)


# ---- HTTP ---------------------------------------------------------------------------------------------------------


class HttpError(Exception):
    """An answer other than the agent's."""

    def __init__(self, status, code, text, *headers):
        super().__init__(text)
        self.status, self.code, self.headers = status, code, headers


class PeerGone(Exception):
    """The client does not wait for the answer any more."""


class Exchange:
    """One connection and its one request. Connections are not kept: an idle one could be closed, by a drain, in the
    very moment in which the gateway sends an invoke on it, and an invoke is never sent twice."""

    def __init__(self, server, peer):
        self.server, self.peer, self.file = server, peer, peer.makefile("rb")
        self.streaming, self.chunked, self.unread = False, False, False

    def run(self):
        """Reads the request, answers it and hangs up."""
        try:
            self.peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                self.handle(*self.read_head())
            except HttpError as error:
                self.send_json(error.status, {"error": str(error), "code": error.code}, *error.headers)
            self.hang_up()
        except (PeerGone, OSError):  # or silent for too long
            pass
        finally:
            self.file.close()
            self.peer.close()

    def read_head(self):
        """Method, path and headers (names in lower case)."""
        lines, size, until = [], 0, time.monotonic() + HEAD_SECONDS
        while not lines or lines[-1]:
            self.peer.settimeout(max(until - time.monotonic(), 0.001))
            line = self.file.readline(HEAD_LIMIT)
            size += len(line)
            if not line:
                raise PeerGone
            if size > HEAD_LIMIT or not line.endswith(b"\n"):
                self.unread = True
                raise HttpError(431, "invalid_argument", "the request's headers are too large")
            if not line.endswith(b"\r\n"):  # some servers see a line's end there and some do not
                self.unread = True
                raise HttpError(400, "invalid_argument", "a line of the request's head does not end with CR LF")
            lines.append(line.decode("latin-1").strip())
        self.peer.settimeout(SOCKET_SECONDS)
        try:
            method, target, version = lines[0].split(" ")
        except ValueError:
            raise HttpError(400, "invalid_argument", "the request line is not HTTP") from None
        self.chunked = version == "HTTP/1.1"
        headers, hosts = {}, 0
        for line in lines[1:-1]:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
            hosts += name.lower() == "host"
        if hosts > 1 or self.chunked and not hosts:
            self.unread = True
            raise HttpError(400, "invalid_argument", "a request needs the header Host, once")
        return method, target.partition("?")[0], headers

    def handle(self, method, path, headers):
        """Finds the route."""
        self.unread = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
        methods = {"/healthz": "GET", "/readyz": "GET", "/invoke": "POST", "/invoke/stream": "POST"}
        if path not in methods:
            raise HttpError(404, "not_found", f"there is no {path} here")
        if method != methods[path]:
            raise HttpError(405, "method_not_allowed", f"{path} takes {methods[path]}", f"Allow: {methods[path]}")
        if path == "/healthz":
            return self.send_json(200, {"status": "ok", "agent": self.server.name})
        if path == "/readyz":  # nothing is accepted before the import is done
            return self.send_json(200, {"status": "ready"})
        token = headers.get("x-hoistway-invoke-token", "")
        if self.server.token and not same_in_constant_time(token.encode("latin-1"), self.server.token.encode()):
            raise HttpError(403, "permission_denied", "only the gateway may invoke this agent")
        self.server.knows(self.peer)
        statement = headers.pop(STATEMENT, "")
        if not self.server.invokes.acquire(blocking=False):
            raise HttpError(503, "unavailable", f"the agent is busy with {INVOKES} invokes", "Retry-After: 1")
        try:
            request, body = self.read_request(headers)
            agent = self.server.agent
            call = ((lambda: agent.answer(path, headers, body)) if isinstance(agent, WebAgent) else
                    (lambda: resolve(agent(request, RunContext(request)))))
            if statement:
                END_USERS.install()
            END_USER.set(statement)
            (self.stream if path == "/invoke/stream" else self.invoke)(request, call)
        finally:
            END_USER.set("")
            self.server.invokes.release()
            flush_output()

    def read_request(self, headers):
        """The body as a handler sees it (message and history, who asks, whatever else was sent), and as it was sent."""
        if "transfer-encoding" in headers:
            raise HttpError(411, "invalid_argument", "the body needs a Content-Length")
        digits = headers.get("content-length", "0")
        if not (digits.isascii() and digits.isdigit()):
            raise HttpError(400, "invalid_argument", "Content-Length is not a number")
        if int(digits) > BODY_LIMIT:
            raise HttpError(413, "payload_too_large", f"the body is larger than {BODY_LIMIT >> 20} MiB")
        if headers.get("expect", "").lower() == "100-continue":
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = self.file.read(int(digits))
        if len(body) < int(digits):
            raise PeerGone
        self.unread = False
        try:
            sent = json.loads(body or b"{}")
        except (ValueError, RecursionError):
            raise HttpError(400, "invalid_argument", "invalid JSON body") from None
        if not isinstance(sent, dict):
            raise HttpError(400, "invalid_argument", "the body must be a JSON object")
        message = sent.get("message")
        if message is None or message == "":
            raise HttpError(400, "invalid_argument", "message is required")
        if not isinstance(message, str):
            raise HttpError(400, "invalid_argument", "message must be a string")
        request = {**sent, "message": message, "history": sent.get("history") or []}
        request.pop("user_id", None)  # who asks is what the gateway has verified, whatever a body says
        for key, header in (("request_id", "x-request-id"), ("run_id", "x-run-id"), ("user_id", "x-end-user-id")):
            if headers.get(header):
                request[key] = headers[header].encode("latin-1").decode("utf-8", "replace")
        if not request.get("request_id"):
            request["request_id"] = os.urandom(16).hex()
        return request, body

    def complete(self, answer, request, started):
        """An answer with what every answer tells; what the agent says itself wins."""
        answer.setdefault("model", os.environ.get("LLM_MODEL", ""))
        answer.setdefault("usage", {})
        answer.setdefault("tool_calls_made", [])
        answer.setdefault("duration_ms", int((time.monotonic() - started) * 1000))
        answer.setdefault("request_id", request["request_id"])
        answer.setdefault("handler", "user")
        return answer

    def invoke(self, request, call):
        """Answers with one JSON object."""
        started = time.monotonic()
        try:
            result = call()
            if is_chunks(result):
                result = "".join(text_chunks(result))
            status, body = 200, to_json(self.complete(normalise(result), request, started))
        except BaseException as error:  # exit() in a handler ends that invoke, not the agent
            text, details = report(error, self.server.mask, request)
            status, body = 500, json.dumps({"error": text, "code": "agent_error", "details": details})
        self.send_json(status, body)

    def stream(self, request, call):
        """Answers with server-sent events, each piece of the answer as soon as the agent has it."""
        started = time.monotonic()
        self.server.count(streams=1)
        self.streaming = True
        extra = "Transfer-Encoding: chunked\r\nTrailer: X-Hoistway-Outcome\r\n" if self.chunked else ""
        self.send((f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n{extra}"
                   f"Connection: close\r\n\r\n").encode())
        answer, outcome = {}, "ok"
        try:
            result = call()
            if isinstance(result, Pieces) and result.events:
                chunks = result
                for piece in result.raw:  # its own events, as they are
                    self.send_part(piece)
                return self.end_stream(outcome)
            if is_chunks(result):
                chunks = text_chunks(result)
            else:
                answer = normalise(result)
                chunks = (text for text in (as_text(answer.pop("response")),) if text)
            for text in chunks:
                self.send_event({"type": "content", "delta": text})
            self.send_event({**self.complete(answer, request, started), "type": "done"})
        except PeerGone:
            chunks.close()
            raise
        except BaseException as error:
            text, _ = report(error, self.server.mask, request)
            outcome = "agent_error"
            self.send_event({"type": "error", "message": text, "code": outcome, "request_id": request["request_id"]})
        self.send_part(b"data: [DONE]\n\n")
        self.end_stream(outcome)

    def end_stream(self, outcome):
        """Ends a stream, and tells the gateway how it went: what the agent streams may be of any form."""
        if self.chunked:
            self.send(f"0\r\nX-Hoistway-Outcome: {outcome}\r\n\r\n".encode())

    def send_event(self, event):
        self.send_part(f"data: {to_json(event)}\n\n".encode())

    def send_part(self, data):
        if data:  # an empty chunk would be the last
            self.send(b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data)

    def send_json(self, status, body, *headers):
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        head = [f"HTTP/1.1 {status} {REASONS[status]}", "Content-Type: application/json",
                f"Content-Length: {len(data)}", "Connection: close", *headers, "", ""]
        self.send("\r\n".join(head).encode("latin-1") + data)

    def send(self, data):
        try:
            self.peer.sendall(data)
        except OSError as error:
            raise PeerGone from error

    def hang_up(self):
        """Ends the connection. With a body unread, closing at once would reset it and destroy the answer on its way."""
        self.peer.shutdown(socket.SHUT_WR)
        if self.unread:
            until = time.monotonic() + HEAD_SECONDS
            while (left := until - time.monotonic()) > 0:
                self.peer.settimeout(left)
                if not self.peer.recv(1 << 16):
                    break


class Server:
    """Accepts connections until it is told to drain, and knows what is still being answered."""

    def __init__(self, listener, agent, config):
        self.listener, self.agent = listener, agent
        self.token, self.mask = config.get("token") or "", Mask(config.get("mask") or ())
        self.name = os.environ.get("AGENT_NAME", "")
        self.invokes = threading.BoundedSemaphore(INVOKES)
        self._changed, self._connections, self._streams = threading.Condition(), 0, 0
        self._strangers = {}  # connections that have not shown the token, the oldest first
        self._draining = False
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_writer, False)

    def drain(self, *_):
        """Asks for the end. It is a signal handler, so it only leaves a note."""
        self._draining = True
        try:
            os.write(self._wake_writer, b"x")
        except OSError:  # it is full of notes, or the agent's code has closed it, which wakes as well
            pass

    def count(self, connections=0, streams=0):
        with self._changed:
            self._connections += connections
            self._streams += streams
            self._changed.notify_all()

    def knows(self, peer):
        """The token was shown on a connection: it is closed for nobody."""
        with self._changed:
            self._strangers.pop(peer, None)

    def make_room(self):
        """Waits until one more connection may be open. Whoever holds connections without the token keeps nobody out."""
        with self._changed:
            while self._connections >= CONNECTIONS:
                if oldest := next(iter(self._strangers), None):
                    del self._strangers[oldest]
                    try:
                        oldest.shutdown(socket.SHUT_RDWR)  # its thread ends
                    except OSError:
                        pass  # it has ended
                self._changed.wait()

    def serve(self):
        """Serves until drained."""
        self.listener.setblocking(False)
        poll = select.poll()
        poll.register(self.listener, select.POLLIN)
        poll.register(self._wake_reader, select.POLLIN)
        while not any(fd == self._wake_reader for fd, _ in poll.poll()):
            self.accept()
        if not self._draining:
            leave("its code has closed descriptors of the runner")
        while self.accept():  # whoever has connected is answered
            pass
        self.listener.close()
        with self._changed:
            if not self._changed.wait_for(lambda: self._connections == 0, STREAM_DRAIN_SECONDS):
                self._changed.wait_for(lambda: self._connections == self._streams)

    def accept(self):
        """Takes one connection; False if there is none."""
        self.make_room()
        try:
            peer, _ = self.listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return False
        except OSError as error:
            if error.errno not in SHORTAGES:
                leave(f"its listening socket is gone ({error.strerror})")
            print(f"cannot accept: {error}", file=sys.stderr)
            with self._changed:
                self._changed.wait(1)
            return True
        self.count(connections=1)
        with self._changed:
            self._strangers[peer] = None
        try:
            threading.Thread(target=self.exchange, args=(peer,), name="exchange", daemon=True).start()
        except RuntimeError as error:  # no thread left within the agent's limits
            print(f"cannot answer: {error}", file=sys.stderr)
            self.knows(peer)
            peer.close()
            self.count(connections=-1)
        return True

    def exchange(self, peer):
        exchange = Exchange(self, peer)
        try:
            exchange.run()
        finally:
            self.knows(peer)
            self.count(connections=-1, streams=-1 if exchange.streaming else 0)


# ---- Start and end ------------------------------------------------------------------------------------------------


def parse(arguments):
    """The command line as {option: values}. (argparse takes 10 ms.)"""
    known = {"--app": [], "--site": [], "--listen-fd": [], "--notify-fd": [], "--config-fd": [], "--closed-network": [],
             "--script": []}
    rest = iter(arguments)
    for option in rest:
        value = next(rest, None)
        if option not in known or value is None:
            sys.exit(f"{os.path.basename(__file__)}: unknown option or missing value: {option}")
        known[option].append(value)
    return known


def inherited(values):
    """A descriptor that the supervisor handed over, from now on ours alone."""
    if not values:
        return None
    os.set_inheritable(int(values[-1]), False)
    return int(values[-1])


def close_foreign(known):
    """Closes every descriptor that was not meant for us: what a careless parent left open is not the agent's."""
    try:
        open_fds = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        return
    for fd in open_fds:
        if fd > 2 and fd not in known:
            try:
                os.close(fd)
            except OSError:
                pass  # the listing's own, which is gone already


def notify(fd, event):
    """Tells the supervisor how the start went."""
    if fd is not None:
        with open(fd, "w") as pipe:
            pipe.write(json.dumps(event) + "\n")


def keep_children_apart(listener):
    """Lets forked children, as multiprocessing makes them, neither hold our port nor take a signal for a drain."""
    signals = {signal.SIGTERM, signal.SIGINT}

    def in_child():
        listener.close()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)

    os.register_at_fork(  # blocked meanwhile: a signal right after the fork would find our handler and be lost
        before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, signals),
        after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, signals), after_in_child=in_child)


def main():
    options = parse(sys.argv[1:])
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if stream is not None:
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    app = os.path.abspath((options["--app"] or ["/app"])[-1])
    sites = [os.path.abspath(d) for d in options["--site"] or ["/opt/hoistway/site-packages"]]
    Mask.places = [(app, "/app"), *((site, "/opt/hoistway/site-packages") for site in sites)]
    entry = os.path.normpath((options["--script"] or [os.environ.get("USER_ENTRY_POINT", "")])[-1])
    arrange_path(app, sites, entry, hermetic=bool(options["--app"]))  # an app elsewhere: unpacked on a host
    commands = [directory for site in sites if os.path.isdir(directory := os.path.join(site, "bin"))]
    os.environ["PATH"] = os.pathsep.join([*commands, os.environ.get("PATH") or os.defpath])
    if options["--script"]:
        return be_script(app, entry, bool(options["--closed-network"]))

    sys.stdout.reconfigure(line_buffering=True)  # logs are read while the agent runs
    faulthandler.enable()
    listen_fd, notify_fd, config_fd = (inherited(options[o]) for o in ("--listen-fd", "--notify-fd", "--config-fd"))
    close_foreign({listen_fd, notify_fd, config_fd})
    config = {}
    if config_fd is not None:
        with open(config_fd, encoding="utf-8") as pipe:
            config = json.load(pipe)
    END_USERS.closed_network = bool(config.get("closed_network"))
    if listen_fd is not None:
        listener = socket.socket(fileno=listen_fd)
    else:
        listener = socket.create_server(("0.0.0.0", int(os.environ.get("PORT") or 8080)), backlog=1024)
    keep_children_apart(listener)

    keep = [word for option in ("--app", "--site") for value in options[option] for word in (option, value)]
    flags = ["-s"] + ["-S"] * sys.flags.no_site + ["-E"] * sys.flags.ignore_environment
    command = [sys.executable, *flags, os.path.abspath(__file__), *keep,
               *(["--closed-network", "yes"] if END_USERS.closed_network else []), "--script", entry]
    sys.argv[:] = [os.path.join(app, entry)]  # a main() that parses its arguments finds none, not ours
    try:
        if entry == ".":
            raise StartError("USER_ENTRY_POINT does not name the entry file")
        agent = load_agent(app, entry, command)
        if isinstance(agent, WebAgent):
            agent.start()
    except BaseException as error:
        text, _ = report(error, Mask(config.get("mask") or ()))
        notify(notify_fd, {"event": "failed", "error": text})
        sys.stdout.flush()
        os._exit(1)  # at once: a thread that the import has started may never end

    server = Server(listener, agent, config)
    signal.signal(signal.SIGTERM, server.drain)
    signal.signal(signal.SIGINT, server.drain)
    flush_output()
    notify(notify_fd, {"event": "ready"})
    server.serve()

    def end():
        time.sleep(EXIT_SECONDS)
        os._exit(0)

    threading.Thread(target=end, daemon=True).start()  # threads and exit hooks of the agent get that long
    if isinstance(agent, WebAgent):
        agent.stop()
    LOOP.close()
    return None


if __name__ == "__main__":
    sys.exit(main())

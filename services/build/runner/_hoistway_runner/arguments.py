"""The arguments of a function call: parameters are filled from the request by meaning, by name and by annotation."""

import os
from types import FunctionType, SimpleNamespace

from .annotations import TEXT_NAMES, is_any, is_foreign, is_model, is_plain, is_request, is_text, resolved
from .capture import NoMoreInput, Taker, take
from .errors import Unfit
from .results import resolve

NONE = object()  # no annotation, no default
POSITIONAL, STAR, KEYWORD, REST = range(4)
NO_MESSAGE = "message is required", 'send it in the body: {"message": "…"}'


class RunContext:
    """The second argument of a handler: the addresses of its tools and model, and the session."""

    def __init__(self, request):
        env = os.environ
        self.tools = {k[9:].lower().replace("_", "-"): v for k, v in env.items() if k.startswith("TOOL_URL_")}
        self.llm_url = env.get("LLM_GATEWAY_URL", "")
        self.model = env.get("LLM_MODEL", "")
        self.system_prompt = env.get("SYSTEM_PROMPT", "")
        self.session = {k: request[k] for k in ("history", "request_id", "run_id", "user_id") if k in request}

    def __reduce__(self):  # a process that the agent starts does not have this class
        return SimpleNamespace, (), vars(self)


class Request:
    """One invoke: as it was sent (`body`, and its JSON as `sent`), and with the platform's additions, as handlers
    receive it (`seen`). The `user_id` of a body is in neither; an `unverified` one is for parameters alone."""

    def __init__(self, path, headers, body, sent, seen, unverified=None):
        self.path, self.headers, self.body, self.sent, self.seen = path, headers, body, sent, seen
        self.given = sent if unverified is None or "user_id" in seen else {**sent, "user_id": unverified}
        self.named = {**self.given, **seen}  # the values of parameters by name

    def text(self, name="message"):
        """Returns the message, or None. It can also be sent under the parameter's own name."""
        for member in dict.fromkeys(("message", name)):
            text = self.given.get(member)
            if text is not None and not isinstance(text, str):
                raise Unfit(f"{member} must be a string")
            if text and not text.isspace():
                return text
        return None

    def message(self):
        """Returns the message, which is required."""
        if text := self.text():
            return text
        raise Unfit(*NO_MESSAGE)


class Agent:
    """An agent that answers invokes. `blocking` code runs in the thread of the invoke, other code on the event loop."""

    blocking = True
    loops = False  # whether its file mentions asyncio, which it may import during the invoke

    def prepare(self, request):
        """Returns a call that answers a request. Raises Unfit if the request does not fit, before an answer begins."""
        raise NotImplementedError

    def start(self, seconds=None):
        """Runs before the first request; it may take at most `seconds`."""

    def stop(self):
        """Runs after the last answer."""


class MessageAgent(Agent):
    """A function of the message and the request. The message is optional unless `needed`."""

    def __init__(self, function, needed=True):
        self.function, self.needed = function, needed

    def prepare(self, request):
        message = request.message() if self.needed else request.text() or ""
        return lambda: resolve(self.function(message, request.seen))


class FunctionAgent(Agent):
    """A function called with the arguments that its parameters require. If it returns nothing, its output is the
    answer. The same applies to a function named `main` or `run` that exits with the status 0, and to a `main` that
    returns 0."""

    def __init__(self, function, name="handler"):
        self.function, self.name, self.plan = function, name, Plan(parameters(function))
        code = getattr(function, "__code__", None)
        self.blocking = not (code and code.co_flags & (0x80 | 0x200))  # async def, also an async generator

    def prepare(self, request):
        positional, named = self.plan.fill(request)
        message = request.sent.get("message")
        return lambda: self.call(positional, named, message if isinstance(message, str) else "")

    def call(self, positional, named, message):
        taker = take(Taker(message.splitlines()))
        try:
            result = resolve(self.function(*positional, **named))
            done = result is None or self.name == "main" and type(result) is int and result == 0
            return taker.text() if done else result
        except NoMoreInput:
            return taker.text()
        except EOFError:
            if message.strip() or not taker.asked:
                raise
            raise Unfit(*NO_MESSAGE) from None
        except SystemExit as error:
            if self.name == "handler" or error.code:
                raise
            return taker.text()
        finally:
            taker.end()


class Plan:
    """The values of a function's parameters. The plan is made once."""

    def __init__(self, parameters):
        self.steps = []
        for index, (name, way, note, default) in enumerate(parameters):
            step = self.step(index, name, way, note, default)
            if step:
                self.steps.append((name, way, note, default, step))
        taken = [step for *_, step in self.steps]
        self.whole = any(step == self.request and default is NONE for _, way, _, default, step in self.steps if way != REST)
        self.alone = taken == [self.rest]
        self.nothing_left = self.request in taken

    def step(self, index, name, way, note, default):
        """Returns the method that finds the value of a parameter, or None."""
        plain = note is NONE and default is NONE
        if way == REST:
            return self.rest
        if way == STAR:
            return (self.request, self.context)[index] if index < 2 else None
        if index == 0 and (name in TEXT_NAMES if note is NONE else is_text(note)):
            return self.message
        if note is not NONE and is_model(note) and (index == 0 or name == "request"):
            return self.model
        if name == "history" and (note is NONE or not is_plain(note)):
            return self.history
        foreign = note is NONE or is_any(note) or is_foreign(note)
        if name == "request" and (foreign or is_request(note)):
            return self.request
        if name == "context" and foreign:
            return self.context
        if name == "context" and not is_plain(note):  # a list of documents, or the context if none is sent
            return self.named_or_context
        if index == 0 and way == POSITIONAL and (plain or note is not NONE and is_request(note)):
            return self.request
        if index == 1 and plain and name in TEXT_NAMES and self.steps[0][-1] == self.history:
            return self.message
        if index == 1 and way == POSITIONAL and default is NONE and (note is NONE or is_foreign(note) or is_any(note)):
            return self.context if plain else self.named_or_context
        return self.named

    def fill(self, request):
        """Returns (positional, named) arguments."""
        if self.whole and all(value is None or value == "" for value in request.sent.values()):
            raise Unfit("message is required", "send it in the body, or other members that the agent reads")
        positional, named, used = [], {}, set()
        for name, way, note, default, step in self.steps:
            value = step(request, name, note, default, used)
            if way == REST:
                named |= value
            elif way == KEYWORD:
                named[name] = value
            else:
                positional.append(value)
        return positional, named

    def message(self, request, name, note, default, used):
        used |= {"message", name}
        text = request.text(name)
        if text is None and default is NONE:
            raise Unfit(*NO_MESSAGE)
        return default if text is None else text

    def request(self, request, name, note, default, used):
        return request.seen

    def context(self, request, name, note, default, used):
        return RunContext(request.seen)

    def history(self, request, name, note, default, used):
        used.add(name)
        return self.fitted(request.seen["history"], name, note)

    def model(self, request, name, note, default, used):
        from .fitting import fitted, members_of

        members = members_of(note, request.given)
        used |= members
        if default is not NONE and members.isdisjoint(request.given):
            return default
        given = {k: v for k, v in request.named.items() if k != "history" or k in request.sent}  # includes the user
        if members == request.given.keys():  # a model that accepts any member
            given = request.given
        return fitted(given, note, "")

    def named(self, request, name, note, default, used):
        used.add(name)
        value = request.named.get(name)
        if value is None and (default is not NONE or name not in request.named):
            if default is NONE:
                raise Unfit(f"{name} is required", f'send it in the body: {{"{name}": …}}')
            return default
        return self.fitted(value, name, note)

    def named_or_context(self, request, name, note, default, used):
        if name in request.named or default is not NONE:
            return self.named(request, name, note, default, used)
        return self.context(request, name, note, default, used)

    def rest(self, request, name, note, default, used):
        if self.alone:
            return request.seen
        return {} if self.nothing_left else {k: v for k, v in request.given.items() if k not in used}

    @staticmethod
    def fitted(value, name, note):
        if note is NONE:
            return value
        from .fitting import fitted

        return fitted(value, note, name)


def parameters(function):
    """Returns [(name, way, annotation, default)] of a callable."""
    if isinstance(function, FunctionType) and function.__dict__.keys().isdisjoint(("__wrapped__", "__signature__")):
        code = function.__code__  # the result of inspect.signature, without its 6 ms
        names, count, keywords = code.co_varnames, code.co_argcount, code.co_kwonlyargcount
        defaults, by_keyword = function.__defaults__ or (), function.__kwdefaults__ or {}
        try:
            notes = function.__annotations__
        except Exception:  # from Python 3.14 on they are evaluated now, and may refer to missing names
            notes = {}
        note = lambda name: resolved(notes[name], function.__globals__, NONE) if name in notes else NONE
        found = [(name, POSITIONAL, note(name), default)
                 for name, default in zip(names, [NONE] * (count - len(defaults)) + list(defaults))]
        at = count + keywords
        if code.co_flags & 0x04:  # *args, which is after the keyword-only ones
            found.append((names[at], STAR, NONE, NONE))
            at += 1
        found += [(name, KEYWORD, note(name), by_keyword.get(name, NONE)) for name in names[count:count + keywords]]
        if code.co_flags & 0x08:
            found.append((names[at], REST, NONE, NONE))
        return found
    import inspect

    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some builtins have none
        return [("request", POSITIONAL, NONE, NONE)]
    ways = {inspect.Parameter.VAR_POSITIONAL: STAR, inspect.Parameter.KEYWORD_ONLY: KEYWORD, inspect.Parameter.VAR_KEYWORD: REST}
    target = inspect.unwrap(getattr(function, "func", function))
    scope = getattr(target if hasattr(target, "__globals__") else getattr(type(target), "__call__", None), "__globals__", {})
    some = lambda value: NONE if value is inspect.Parameter.empty else value
    return [(p.name, ways.get(p.kind, POSITIONAL), resolved(some(p.annotation), scope, NONE), some(p.default))
            for p in signature.parameters.values()]

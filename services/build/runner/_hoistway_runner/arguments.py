"""What a handler is called with: its own parameters decide."""

import os
from types import FunctionType, SimpleNamespace

from .results import resolve

TEXT_PARAMETERS = frozenset(("message", "msg", "text", "query", "prompt", "input", "user_input"))


class RunContext:
    """The second argument of a handler: where its tools and its model are, and whose conversation this is."""

    def __init__(self, request):
        env = os.environ
        self.tools = {k[9:].lower().replace("_", "-"): v for k, v in env.items() if k.startswith("TOOL_URL_")}
        self.llm_url = env.get("LLM_GATEWAY_URL", "")
        self.model = env.get("LLM_MODEL", "")
        self.system_prompt = env.get("SYSTEM_PROMPT", "")
        self.session = {k: request[k] for k in ("history", "request_id", "run_id", "user_id") if k in request}

    def __reduce__(self):  # a process that the agent starts does not have this class
        return SimpleNamespace, (), vars(self)


class FunctionAgent:
    """A function of (request, context) as an agent."""

    def __init__(self, function):
        self.function = function

    def answer(self, request, path, headers, body):
        """What it answers to an invoke."""
        return resolve(self.function(request, RunContext(request)))

    def start(self, seconds=None):
        """What comes before the first request; it may take so many seconds."""

    def stop(self):
        """What comes after the last answer."""


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

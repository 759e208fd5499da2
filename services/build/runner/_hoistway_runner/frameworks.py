"""Objects of agent frameworks. Each is called with the message as its own documentation describes, and its answer is
extracted from the result. They are recognized by the packages of their classes; only packages that the agent has
imported are used."""

import threading

from .annotations import TEXT_NAMES, is_any, is_text
from .arguments import KEYWORD, NONE, POSITIONAL, STAR, Agent, parameters
from .data import of
from .results import is_chunks, resolve

SDKS = ("agents", "pydantic_ai", "smolagents", "crewai", "llama_index", "workflows", "autogen_agentchat", "strands", "agno", "semantic_kernel", "dspy")  # packages whose objects `sdks` knows


def framework_agent(thing):
    """Returns an object of LangChain, LangGraph, CrewAI or the like as an agent, or None."""
    if thing is None or isinstance(thing, type) or of(type(thing), "google"):  # Google's ADK needs a runner and a session
        return None
    from .web import mcp_mount, web_agent

    if mcp_mount(thing):  # its run() is for a transport
        return web_agent(thing)
    if any(of(type(thing), package) for package in SDKS):
        from .sdks import sdk_agent

        if agent := sdk_agent(thing):
            return agent
    from .graphs import chain_agent

    return chain_agent(thing) or plain_agent(thing)


class FrameworkAgent(Agent):
    """An object that is called with the message and the earlier ones; `stream`, if present, answers in pieces."""

    def __init__(self, call, stream=None, blocking=True):
        self.call, self.stream, self.blocking = call, stream, blocking

    def prepare(self, request):
        message, earlier = request.message(), history(request)
        call = self.stream if self.stream and request.path == "/invoke/stream" else self.call
        return lambda: output_of(resolve(call(message, earlier)))


def history(request):
    """Returns the earlier messages that have a role and a text."""
    given = request.seen["history"]
    return [{"role": turn["role"], "content": turn["content"]} for turn in given if isinstance(turn, dict) and turn.get("role") in (
        "user", "assistant", "system") and isinstance(turn.get("content"), str)] if isinstance(given, list) else []


def one_at_a_time(call):
    """Serializes the calls of an object that keeps its working state in itself."""
    lock = threading.Lock()

    def locked(*args, **named):
        with lock:
            return call(*args, **named)

    return locked


def output_of(result):
    """Returns the answer in the result of a framework's object, without the state around it."""
    if isinstance(result, dict) and "response" not in result:
        return {"response": result.get("output", result.get("result", result))}
    if is_chunks(result):
        return result
    content = getattr(result, "content", None)  # of a language model's message, of any library
    return content if isinstance(content, (str, list)) else result


class Told:
    """The texts of a stream, with an empty line before each new message."""

    def __init__(self):
        self.anything = self.begins = False

    def begin(self):
        self.begins = self.anything

    def __call__(self, text):
        text = f"\n\n{text}" if self.begins else text
        self.anything, self.begins = True, False
        return text


def plain_agent(thing):
    """Returns an agent for an object with a method `invoke`, `run` or `kickoff` that needs only a message."""
    for name in ("invoke", "ainvoke", "run", "kickoff"):
        if call := with_message(getattr(thing, name, None)):
            return FrameworkAgent(lambda message, earlier, call=call: call(message))
    return None


def with_message(method):
    """Returns a method as a function of the message, or None."""
    if not callable(method):
        return None
    found = parameters(method)
    needed = [name for name, way, _, default in found if way in (POSITIONAL, KEYWORD) and default is NONE]
    if found and found[0][1] in (POSITIONAL, STAR):
        if not is_for_text(*found[0], alone=len(found) == 1):
            return None
        return method if len(needed) <= 1 and needed in ([], [found[0][0]]) else None
    for name in (*TEXT_NAMES, "task"):
        if any(name == other for other, way, _, _ in found if way == KEYWORD) and needed in ([], [name]):
            return lambda message: last_of(resolve(method(**{name: message})))
    return None


def is_for_text(name, way, note, default, alone):
    """Whether a method's first parameter is probably for the message. One with a default needs a suitable name:
    `transport="stdio"` and `debug=False` are for something else."""
    if default is NONE or name in TEXT_NAMES or name in ("task", "inputs"):
        return True
    return alone and (default is None or isinstance(default, str) if note is NONE else is_text(note) or is_any(note))


def last_of(result):
    """Returns the last message of a result that has several."""
    messages = getattr(result, "messages", None)
    return messages[-1] if isinstance(messages, (list, tuple)) and messages else result

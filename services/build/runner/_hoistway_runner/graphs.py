"""Objects of LangChain and LangGraph, and similar ones: they are filled by the names that they declare, and streamed by
the messages of their models."""

import json

from .annotations import TEXT_NAMES
from .arguments import Agent
from .data import of
from .errors import Unfit
from .frameworks import FrameworkAgent, history, output_of
from .results import chunk_text, resolve

STREAMED = ["messages", "values"]


def chain_agent(thing):
    """Returns a chain, an executor or a graph as an agent; None for other objects."""
    invoke = getattr(thing, "invoke", None)
    if not callable(invoke):
        return None
    if type(thing).__name__ == "AgentExecutor" or hasattr(thing, "agent"):
        return FrameworkAgent(lambda message, earlier: invoke({"input": message}))
    if of(type(thing), "langgraph"):
        return GraphAgent(thing)
    if type(thing).__name__ == "CompiledGraph" or hasattr(thing, "nodes"):
        return FrameworkAgent(
            lambda message, earlier: last_message(resolve(invoke({"messages": [*earlier, human_message(message)]}))))
    if of(type(thing), "langchain_core"):
        return ChainAgent(thing)
    return None


def human_message(text):
    """Returns a message in LangGraph's format."""
    try:
        from langchain_core.messages import HumanMessage
    except ImportError:
        return {"role": "user", "content": text}
    return HumanMessage(content=text)


def last_message(state):
    """Returns the content of the last message in a graph's final state, or the request of an interrupt."""
    if asked := interrupts(state):
        values = [one["value"] for one in asked]
        return {"response": values[0] if len(values) == 1 else values, "interrupted": True, "interrupts": asked}
    messages = state.get("messages") if isinstance(state, dict) else None
    if not messages:
        return output_of(state)
    last = messages[-1]
    if isinstance(last, dict):
        return {"response": last.get("content")}
    content = getattr(last, "content", last)
    return {"response": (isinstance(content, list) and chunk_text(last)) or content}  # the text of content blocks


def interrupts(state):
    """Returns the request of a graph's `interrupt()`."""
    asked = state.get("__interrupt__") if isinstance(state, dict) else None
    return [{"id": getattr(one, "id", None), "value": getattr(one, "value", None)} for one in asked or ()]


def thread_of(request):
    """Returns the name that a request gives its conversation, in this platform's or LangGraph's own format; None
    without one."""
    config = request.sent.get("config")
    config = config.get("configurable") if isinstance(config, dict) else None
    for given in (request.sent, config if isinstance(config, dict) else {}):
        for name in ("thread_id", "session_id"):
            if given.get(name):
                return str(given[name])
    return None


def filled(names, request, required=None):
    """Returns the values of these names in a request, and the `required` names without a value. The message is also the
    value of one missing name: of a typical name for messages, or of the only required one, or of the first if nothing
    is declared required."""
    given = {name: request.seen[name] for name in names if name in request.seen}
    given |= {name: history(request) for name in names if name in ("history", "chat_history") and not given.get(name)}
    if "messages" in names and "messages" not in request.sent:
        given["messages"] = [*history(request), human_message(request.message())]
    missing = [name for name in names if name not in given]
    needed = [name for name in missing if required is None or name in required]
    left = needed or missing
    if left and "messages" not in names and (text := request.text()) and "message" not in names:
        name = next((name for name in left if name in TEXT_NAMES), left[0] if required is None or len(needed) == 1 else None)
        if name:
            given[name] = text
    return given, [name for name in needed if name not in given]


def only_async(thing, seen=None):
    """Whether a chain or a graph contains a step that exists only as a coroutine."""
    seen = set() if seen is None else seen
    if thing is None or id(thing) in seen or len(seen) > 5000:
        return False
    seen.add(id(thing))
    if getattr(thing, "func", None) is None and (getattr(thing, "afunc", None) or getattr(thing, "coroutine", None)):
        return True
    parts = [getattr(thing, "bound", None)]
    for name in ("nodes", "steps", "steps__", "tools_by_name", "_tools_by_name", "branches"):
        inner = getattr(thing, name, None)
        parts += inner.values() if isinstance(inner, dict) else inner if isinstance(inner, (list, tuple)) else ()
    return any(only_async(part, seen) for part in parts)


class ChainAgent(Agent):
    """A runnable of LangChain. A prompt's variables are members of the request; a missing one gets the message."""

    def __init__(self, thing):
        self.thing, self.blocking = thing, not only_async(thing)
        try:
            schema = thing.get_input_jsonschema()
        except Exception:  # of types without a schema
            schema = {}
        self.names = [name for name in schema.get("properties") or () if name != "root"]
        self.required = schema.get("required") or ()

    def prepare(self, request):
        if self.names:
            value, left = filled(self.names, request, self.required)
            if left:
                raise Unfit(f"{left[0]} is required", f'the prompt names it: send it in the body, {{"{left[0]}": "…"}}')
        else:
            value = request.message()
        if request.path == "/invoke/stream":
            return lambda: self.thing.stream(value) if self.blocking else self.thing.astream(value)
        return lambda: output_of(self.thing.invoke(value) if self.blocking else resolve(self.thing.ainvoke(value)))


class GraphAgent(Agent):
    """A graph of LangGraph. With a memory, it remembers by the request's `thread_id` or `session_id`, separately for
    each user; without one, each invoke is a new conversation. After an interrupt it continues with the request's
    `resume`."""

    def __init__(self, graph):
        self.graph, self.blocking = graph, not only_async(graph)
        saver = getattr(graph, "checkpointer", None)
        self.saver = saver if hasattr(saver, "get_tuple") else None
        try:
            builder = graph.builder
            self.names = list(builder.schemas[getattr(builder, "input_schema", None) or builder.input])
        except (AttributeError, KeyError):  # made with decorators
            self.names = []

    def prepare(self, request):
        resumes = self.saver and "resume" in request.sent and "resume" not in self.names
        if resumes:
            from langgraph.types import Command

            value = Command(resume=request.sent["resume"])
        elif self.names:
            if "messages" in self.names and not isinstance(request.sent.get("messages", []), list):
                raise Unfit("messages must be a list", 'send it as {"messages": [{"role": "user", "content": "…"}]}')
            value, _ = filled(self.names, request)  # most members of a state are filled by the graph itself
            if not value:
                raise Unfit(f"{self.names[0]} is required", "send it in the body, or a message")
        else:
            value = request.message()
        config = forget = None
        if self.saver:
            thread = thread_of(request)
            if resumes and not thread:
                raise Unfit("thread_id is required", "an answer to an interrupt needs the thread_id of the invoke that was interrupted")
            if thread:
                thread_id = json.dumps([request.seen.get("user_id"), thread])  # a pair's text is unique
            else:
                from uuid import uuid4

                thread_id = forget = str(uuid4())  # not chosen by a client, unlike a request's id
            config = {"configurable": {"thread_id": thread_id}}
            if resumes and not self.state(config).next:
                raise Unfit("resume does not fit: this thread is not interrupted", 'send a message; only after an answer with "interrupted": true something is resumed')
            if thread and not resumes and "messages" in self.names and "messages" not in request.sent and self.remembers(config):
                value["messages"] = value["messages"][-1:]  # without the request's history
        if request.path == "/invoke/stream" and "messages" in (self.names if resumes else value if isinstance(value, dict) else ()):
            return lambda: self.pieces(value, config, forget) if self.blocking else self.pieces_async(value, config, forget)
        return lambda: last_message(self.answer(value, config, forget))

    def state(self, config):
        """Returns the state of a conversation."""
        return self.graph.get_state(config) if self.blocking else resolve(self.graph.aget_state(config))

    def remembers(self, config):
        """Whether a conversation has messages already."""
        state = self.state(config)
        return isinstance(state.values, dict) and bool(state.values.get("messages"))

    def answer(self, value, config, forget):
        try:
            return self.graph.invoke(value, config) if self.blocking else resolve(self.graph.ainvoke(value, config))
        finally:
            self.forget(forget)

    def forget(self, thread):
        """Deletes a conversation that cannot be continued: a memory in this process would only grow."""
        if thread and type(self.saver).__name__ in ("InMemorySaver", "MemorySaver") and hasattr(self.saver, "delete_thread"):
            self.saver.delete_thread(thread)

    def pieces(self, value, config, forget):
        said = Said()
        try:
            for part in self.graph.stream(value, config, stream_mode=STREAMED):
                if text := said.text(*part):
                    yield text
            yield said.rest()
        finally:
            self.forget(forget)

    async def pieces_async(self, value, config, forget):
        said = Said()
        try:
            async for part in self.graph.astream(value, config, stream_mode=STREAMED):
                if text := said.text(*part):
                    yield text
            yield said.rest()
        finally:
            self.forget(forget)


class Said:
    """The texts of a graph's models in a stream, message by message."""

    def __init__(self):
        self.state, self.id, self.current = None, None, ""

    def text(self, mode, data):
        """Returns the text of a part of the stream, with an empty line between messages."""
        if mode == "values":
            self.state = data
            return ""
        chunk, _ = data
        kind = type(chunk).__name__
        text = chunk_text(chunk) if kind in ("AIMessage", "AIMessageChunk") else ""
        if not text or kind == "AIMessage" and text == self.current:  # a node returns its model's message again
            return ""
        begins = self.current and chunk.id != self.id
        self.current = text if chunk.id != self.id else self.current + text
        self.id = chunk.id
        return f"\n\n{text}" if begins else text

    def rest(self):
        """Returns the answer of a graph whose models produced no text, or the request of its interrupt."""
        if asked := interrupts(self.state):
            return {"interrupted": True, "interrupts": asked}
        answer = None if self.current else last_message(self.state)
        return answer["response"] if isinstance(answer, dict) else answer

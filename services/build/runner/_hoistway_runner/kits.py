"""Objects of more agent SDKs: Strands Agents, Agno, Semantic Kernel, and programs of DSPy."""

import json
import sys
import threading
from uuid import uuid4

from .arguments import Agent, parameters
from .errors import Unfit
from .frameworks import FrameworkAgent, Told, history
from .graphs import filled, thread_of
from .results import resolve


def strands_agent(thing):
    """Returns an agent of Strands, which keeps its conversation: each invoke begins with the state after loading."""
    if not callable(thing) or not isinstance(getattr(thing, "messages", None), list):
        return None
    loaded, lock = list(thing.messages), threading.Lock()

    def remember(earlier):
        thing.messages[:] = [*loaded, *({"role": turn["role"], "content": [{"text": turn["content"]}]} for turn in earlier if turn["role"] != "system")]

    def answer(result):
        structured = getattr(result, "structured_output", None)
        return str(result).rstrip("\n") if structured is None else structured

    def call(message, earlier):
        with lock:
            remember(earlier)
            return answer(thing(message))

    def stream(message, earlier):
        from .loop import LOOP

        with lock:
            remember(earlier)
            told, result = Told(), None
            for event in LOOP.iterate(thing.stream_async(message)):
                if "messageStart" in (event.get("event") or ()):
                    told.begin()
                elif text := event.get("data"):
                    yield told(text)
                result = event.get("result", result)
            if not told.anything and result is not None:
                yield answer(result)

    plain = hasattr(thing, "stream_async") and getattr(thing, "_default_structured_output_model", None) is None
    return FrameworkAgent(call, stream if plain else None)


class AgnoAgent(Agent):
    """An agent, a team or a workflow of Agno. Its stored data belongs to the request's `thread_id` or `session_id`,
    separately for each user, or to this invoke alone."""

    def __init__(self, thing):
        self.thing = thing

    def prepare(self, request):
        turns, thread, user = history(request), thread_of(request), request.seen.get("user_id")
        message = request.message()
        given = [*turns, {"role": "user", "content": message}] if turns and not thread else message
        session = json.dumps([user, thread]) if thread else str(uuid4())  # not chosen by a client, as ids are
        more = {"session_id": session, **({"user_id": user} if user else {})}
        if request.path == "/invoke/stream":
            return lambda: self.pieces(given, more)
        return lambda: self.thing.run(given, **more).content

    def pieces(self, given, more):
        for event in self.thing.run(given, stream=True, **more):
            if getattr(event, "event", "") in ("RunContent", "TeamRunContent") and isinstance(event.content, str):
                yield event.content


def agno_agent(thing):
    """Returns an agent, a team or a workflow of Agno; its models and tools have no `arun`."""
    return AgnoAgent(thing) if callable(getattr(thing, "run", None)) and hasattr(thing, "arun") else None


def kernel_agent(thing):
    """Returns an agent of Semantic Kernel, with a new thread for each invoke."""
    if not hasattr(thing, "get_response"):
        return None

    def turns(message, earlier):
        from semantic_kernel.contents import ChatMessageContent

        return [ChatMessageContent(role=turn["role"], content=turn["content"]) for turn in (*earlier, {"role": "user", "content": message})]

    async def call(message, earlier):
        return str((await thing.get_response(messages=turns(message, earlier))).message)

    async def stream(message, earlier):
        async for item in thing.invoke_stream(messages=turns(message, earlier)):
            yield str(item.message)

    return FrameworkAgent(call, stream, blocking=False)


class ProgramAgent(Agent):
    """A program of DSPy. The inputs of its signature, or of its `forward`, are members of the request; missing ones get
    the message."""

    def __init__(self, thing):
        self.thing = thing
        inner = thing if hasattr(thing, "signature") else getattr(thing, "predict", None)
        fields = getattr(getattr(inner, "signature", None), "input_fields", None)
        self.names = list(fields) if fields else [name for name, *_ in parameters(type(thing).forward)[1:]]
        self.field, self.predictor = streamed_field(thing, inner)

    def prepare(self, request):
        given, left = filled(self.names, request, self.names)
        if left:
            raise Unfit(f"{left[0]} is required", f'it is an input of the program: send it in the body, {{"{left[0]}": "…"}}')
        if request.path == "/invoke/stream" and self.field:
            if (listener := self.listener()) is not None:
                return lambda: self.pieces(listener, given)
        return lambda: self.answer(resolve(self.thing(**given)))

    def listener(self):
        """Returns a listener for the output in one stream; None where it does not support the format of the program's
        adapter."""
        dspy = sys.modules["dspy"]
        adapter = dspy.settings.adapter
        if adapter is not None and type(adapter).__name__ not in ("ChatAdapter", "JSONAdapter", "XMLAdapter"):
            return None
        return dspy.streaming.StreamListener(signature_field_name=self.field, predict=self.predictor)

    async def pieces(self, listener, given):
        told = False
        async for value in sys.modules["dspy"].streamify(self.thing, stream_listeners=[listener])(**given):
            if chunk := getattr(value, "chunk", None):
                told = True
                yield chunk
            elif hasattr(value, "toDict") and not told:  # from a cache, or of a model that does not stream
                yield self.answer(value)["response"]

    @staticmethod
    def answer(result):
        """Returns a prediction's one output as the response, with its reasoning and others beside it."""
        if not hasattr(result, "toDict"):
            return result
        outputs = result.toDict()
        names = [name for name in outputs if name != "reasoning"]
        return {**outputs, "response": outputs[names[0]] if len(names) == 1 else outputs}


def streamed_field(thing, inner):
    """Returns (name, predictor) of the text that one of DSPy's own programs answers, if it is the only output besides
    the reasoning. The use of predictors' outputs by other programs is unknown. (None, None) without it."""
    outputs = getattr(getattr(inner, "signature", None), "output_fields", None) or {}
    names = [name for name in outputs if name != "reasoning"]
    if len(names) != 1 or getattr(outputs[names[0]], "annotation", None) is not str or type(thing).__module__.partition(".")[0] != "dspy" or not (
            hasattr(sys.modules["dspy"], "streamify")):
        return None, None
    found = [one for _, one in thing.named_predictors() if names[0] in one.signature.output_fields]
    return (names[0], found[0]) if len(found) == 1 else (None, None)


def dspy_agent(thing):
    """Returns a module of DSPy, except its models."""
    return ProgramAgent(thing) if callable(getattr(type(thing), "forward", None)) and hasattr(thing, "named_predictors") else None

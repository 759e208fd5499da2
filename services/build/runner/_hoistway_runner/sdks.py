"""Objects of agent SDKs whose methods differ in name and form from LangChain's."""

import sys

from .arguments import Agent
from .data import of
from .errors import StartError, Unfit
from .frameworks import FrameworkAgent, Told, last_of, one_at_a_time, output_of
from .results import resolve


def sdk_agent(thing):
    """Returns an object of one of these SDKs as an agent, or None."""
    if isinstance(thing, getattr(sys.modules.get("agents"), "Agent", ())) and hasattr(sys.modules["agents"], "Runner"):
        return openai_agent(thing, sys.modules["agents"].Runner)
    for package, make in (("pydantic_ai", pydantic_agent), ("smolagents", smol_agent), ("crewai", crew_agent),
                          ("llama_index", llama_agent), ("workflows", llama_agent), ("autogen_agentchat", autogen_agent)):
        if of(type(thing), package):
            return make(thing)
    from . import kits

    for package, make in (("strands", kits.strands_agent), ("agno", kits.agno_agent), ("semantic_kernel", kits.kernel_agent),
                          ("dspy", kits.dspy_agent)):
        if of(type(thing), package):
            return make(thing)
    return None


def openai_agent(thing, runner):
    """Returns an agent of OpenAI's Agents SDK."""
    def turns(message, earlier):
        return [*earlier, {"role": "user", "content": message}] if earlier else message

    async def call(message, earlier):
        return (await runner.run(thing, turns(message, earlier))).final_output

    async def stream(message, earlier):
        running, told = runner.run_streamed(thing, turns(message, earlier)), Told()
        try:
            async for event in running.stream_events():
                data = getattr(event, "data", None)
                kind = getattr(data, "type", "")
                if kind == "response.content_part.added":
                    told.begin()
                elif kind == "response.output_text.delta" and data.delta:
                    yield told(data.delta)
            if not told.anything:
                yield running.final_output
        finally:
            running.cancel()

    plain = getattr(thing, "output_type", None) in (None, str)
    return FrameworkAgent(call, stream if plain else None, blocking=False)


def pydantic_agent(thing):
    """Returns an agent of Pydantic AI."""
    if not hasattr(thing, "run_sync"):
        return None

    def turns(earlier):
        from pydantic_ai import messages as kinds

        made = {"user": lambda text: kinds.ModelRequest(parts=[kinds.UserPromptPart(content=text)]),
                "system": lambda text: kinds.ModelRequest(parts=[kinds.SystemPromptPart(content=text)]),
                "assistant": lambda text: kinds.ModelResponse(parts=[kinds.TextPart(content=text)])}
        return [made[turn["role"]](turn["content"]) for turn in earlier] or None

    def output(result):
        return result.output if hasattr(result, "output") else result.data

    async def call(message, earlier):
        return output(await thing.run(message, message_history=turns(earlier)))

    async def texts(events):
        told = Told()
        async for event in events:
            kind, text = getattr(event, "event_kind", ""), ""
            if kind == "part_start" and event.part.part_kind == "text":
                told.begin()
                text = event.part.content
            elif kind == "part_delta" and event.delta.part_delta_kind == "text":
                text = event.delta.content_delta
            elif kind == "agent_run_result" and not told.anything:
                yield output(event.result)
            if text:
                yield told(text)

    async def stream(message, earlier):
        events = thing.run_stream_events(message, message_history=turns(earlier))
        if not hasattr(events, "__aenter__"):
            async for text in texts(events):
                yield text
            return
        async with events as entered:
            async for text in texts(entered):
                yield text

    plain = getattr(thing, "output_type", None) is str and hasattr(thing, "run_stream_events")
    return FrameworkAgent(call, stream if plain else None, blocking=False)


def smol_agent(thing):
    """Returns an agent of smolagents, which keeps its memory in itself."""
    run = getattr(thing, "run", None)

    def call(message, earlier):
        result = run(message)
        return result.output if type(result).__name__ == "RunResult" else result

    return FrameworkAgent(one_at_a_time(call)) if callable(run) else None


class CrewAgent(Agent):
    """A crew or a flow of CrewAI, whose templates are filled with the members of the request. The message is one of
    them, and also the value of a single missing name. Runs change crews and flows, so each invoke has its own."""

    def __init__(self, thing):
        self.thing, self.copy = thing, thing.copy if hasattr(thing, "tasks") else maker(thing)

    def prepare(self, request):
        given = {name: value for name, value in request.sent.items() if value is not None}
        needed = self.thing.fetch_inputs() if hasattr(self.thing, "fetch_inputs") else ()
        needed = [name for name in sorted(needed) if name.isidentifier()]  # braces may also be JSON's
        if text := request.text():
            given |= {"message": text, "input": given.get("input", text)}
            missing = [name for name in needed if name not in given]
            if len(missing) == 1 and not {"message", "input"}.intersection(needed):
                given[missing[0]] = text
        elif not needed:
            request.message()
        for name in needed:
            if name not in given:
                raise Unfit(f"{name} is required", f'the crew names it: send it in the body, {{"{name}": "…"}}')
        return lambda: self.run(given)

    def run(self, given):
        result = resolve(self.copy().kickoff(inputs=given))
        for name in ("pydantic", "json_dict", "raw"):
            if type(result).__name__ == "CrewOutput" and getattr(result, name, None) is not None:
                return getattr(result, name)
        return output_of(result)


def maker(flow):
    """Returns a function that makes a flow as it was loaded: a copy, or a new object if it contains something that
    cannot be copied, such as a lock."""
    from copy import deepcopy

    fields = {name: getattr(flow, name) for name in getattr(flow, "model_fields_set", ())}
    for make in (lambda: deepcopy(flow), lambda: type(flow)(**fields), lambda: type(flow)()):
        try:
            make()
            return make
        except Exception:
            continue
    name = type(flow).__name__
    raise StartError(f"the flow {name} cannot be made anew, and each invoke needs its own", f"let {name}() need no arguments")


def crew_agent(thing):
    """Returns a crew or a flow of CrewAI, or a single agent of it."""
    if not callable(getattr(thing, "kickoff", None)):
        return None
    if hasattr(thing, "tasks") or hasattr(thing, "flow_id"):
        return CrewAgent(thing)
    return FrameworkAgent(one_at_a_time(lambda message, earlier: thing.kickoff(message).raw))


def autogen_agent(thing):
    """Returns an agent or a team of AutoGen. It remembers its messages, so each invoke restores its state after
    loading."""
    reset = getattr(thing, "on_reset", None) or getattr(thing, "reset", None)
    if not all(map(callable, (reset, *(getattr(thing, name, None) for name in ("run", "save_state", "load_state"))))):
        return None
    loaded = []

    def turns(message, earlier):
        from autogen_agentchat.messages import TextMessage

        return [TextMessage(content=turn["content"], source=turn["role"]) for turn in (*earlier, {"role": "user", "content": message})]

    async def call(message, earlier):
        if not loaded:
            loaded.append(await thing.save_state())
        if hasattr(thing, "on_reset"):  # of an agent, which may have no state to save
            from autogen_core import CancellationToken

            await reset(CancellationToken())
        else:
            await reset()
        await thing.load_state(loaded[0])
        return last_of(await thing.run(task=turns(message, earlier) if earlier else message))

    return FrameworkAgent(one_at_a_time(lambda message, earlier: resolve(call(message, earlier))))


def llama_agent(thing):
    """Returns a chat engine, a query engine or a workflow of LlamaIndex."""
    def turns(earlier):
        from llama_index.core.llms import ChatMessage

        return [ChatMessage(role=turn["role"], content=turn["content"]) for turn in earlier]

    def text(result):
        result = getattr(result, "response", result)
        return getattr(result, "content", result)

    def pieces(result):
        return (piece for piece in result.response_gen) if hasattr(result, "response_gen") else text(result)

    def start(message, earlier):
        return thing.run(user_msg=message, chat_history=turns(earlier) or None)

    async def call(message, earlier):
        return text(await start(message, earlier))

    async def stream(message, earlier):
        running, told = start(message, earlier), Told()
        async for event in running.stream_events():
            if type(event).__name__ == "AgentInput":
                told.begin()
            elif delta := type(event).__name__ == "AgentStream" and event.delta:
                yield told(delta)
        answer = await running
        if not told.anything:
            yield text(answer)

    if hasattr(thing, "chat"):
        return FrameworkAgent(one_at_a_time(lambda message, earlier: text(thing.chat(message, chat_history=turns(earlier)))))
    if hasattr(thing, "query"):
        return FrameworkAgent(lambda message, earlier: pieces(thing.query(message)))
    if not hasattr(thing, "run"):
        return None
    return FrameworkAgent(call, stream, blocking=False) if of(type(thing), "llama_index") else WorkflowAgent(thing)


class WorkflowAgent(Agent):
    """A workflow of LlamaIndex, whose first event has the members of the request; the message is also its `input`."""

    blocking = False

    def __init__(self, thing):
        self.thing = thing

    def prepare(self, request):
        given = {name: value for name, value in request.sent.items() if name not in ("ctx", "start_event")}
        if text := request.text() if given else request.message():
            given = {"input": text, **given}

        async def call():
            return await self.thing.run(**given)

        return lambda: output_of(resolve(call()))

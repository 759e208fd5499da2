"""Objects of agent frameworks, called with a message and asked for the answer in what they return."""

from .results import resolve


def framework_agent(thing):
    """An object of LangChain, LangGraph, CrewAI or the like as a function of a message, or None."""
    if thing is None:
        return None
    kind, invoke = type(thing).__name__, getattr(thing, "invoke", None)
    if callable(invoke) and (kind == "AgentExecutor" or hasattr(thing, "agent")):
        return lambda message, seen: output_of(resolve(invoke({"input": message})))
    if callable(invoke) and (kind == "CompiledGraph" or hasattr(thing, "nodes")):
        return lambda message, seen: last_message(resolve(invoke({"messages": [human_message(message)]})))
    for call in (invoke, getattr(thing, "run", None), getattr(thing, "kickoff", None)):
        if callable(call):
            return lambda message, seen: output_of(resolve(call(message)))
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
    return {"response": last.get("content") if isinstance(last, dict) else getattr(last, "content", last)}


def output_of(result):
    """What a framework's object answered, without the state around it."""
    if isinstance(result, dict) and "response" not in result:
        return {"response": result.get("output", result.get("result", result))}
    content = getattr(result, "content", None)  # of a language model's message, whichever library's it is
    return content if isinstance(content, (str, list)) else result

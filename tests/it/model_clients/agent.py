"""Calls models with common packages: no key, no address and no setting of them is in the code."""

import asyncio
import os

import agents
import anthropic
import litellm
import openai
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

GPT = os.environ["LLM_MODEL"]
VECTORS = os.environ["LLM_MODEL_EMBEDDING"]
CLAUDE = os.environ["LLM_MODEL_RERANKING"]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def say(text):
    return [{"role": "user", "content": text}]


def roles():
    """Calls each role's model by its name, without any address."""
    client = openai.OpenAI()
    chat = client.chat.completions.create(model=GPT, messages=say("hi"))
    vectors = client.embeddings.create(model=VECTORS, input=["a", "b"])
    ranked = client.chat.completions.create(model=CLAUDE, messages=say("hi"))
    return {
        "chat": [chat.model, chat.choices[0].message.content],
        "embedding": [vectors.model, len(vectors.data)],
        "reranking": [ranked.model, ranked.choices[0].message.content],
        "listed": sorted(model.id for model in client.models.list()),
        "listed_by_anthropic": sorted(model.id for model in anthropic.Anthropic().models.list()),
    }


def with_anthropic():
    client = anthropic.Anthropic(max_retries=0)
    ask = dict(model=CLAUDE, max_tokens=64)
    with client.messages.stream(messages=say("hi"), **ask) as stream:
        pieces = list(stream.text_stream)
    tools = [{"name": "get_weather", "input_schema": SCHEMA}]
    called = client.messages.create(messages=say("weather"), tools=tools, **ask)
    use = next(block for block in called.content if block.type == "tool_use")
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "warm"}
    turns = [*say("weather"), {"role": "assistant", "content": called.content}, {"role": "user", "content": [result]}]

    async def asynchronously():
        async with anthropic.AsyncAnthropic() as other:
            answer = await other.messages.create(messages=say("hi"), **ask)
            async with other.messages.stream(messages=say("hi"), **ask) as stream:
                return [answer.content[0].text, "".join([text async for text in stream.text_stream])]

    return {
        "sync": client.messages.create(messages=say("hi"), **ask).content[0].text,
        "stream": ["".join(pieces), stream.get_final_message().usage.output_tokens],
        "async": asyncio.run(asynchronously()),
        "tool": [called.stop_reason, use.input],
        "after_tool": client.messages.create(messages=turns, tools=tools, **ask).content[0].text,
        "beta": client.beta.messages.create(messages=say("hi"), betas=["x-2025-01-01"], **ask).content[0].text,
        "counted": client.messages.count_tokens(model=CLAUDE, messages=say("hi")).input_tokens,
    }


def with_openai():
    client = openai.OpenAI(max_retries=0)
    stream = client.chat.completions.create(
        model=CLAUDE, messages=say("hi"), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}]
    called = client.chat.completions.create(model=CLAUDE, messages=say("weather"), tools=tools).choices[0]
    call = called.message.tool_calls[0]
    turns = [*say("weather"), called.message, {"role": "tool", "tool_call_id": call.id, "content": "warm"}]
    after = client.chat.completions.create(model=CLAUDE, messages=turns, tools=tools)
    pieces = client.chat.completions.create(model=CLAUDE, messages=say("weather"), tools=tools, stream=True)
    calls = [call for chunk in pieces for call in chunk.choices[0].delta.tool_calls or []]

    class Place(BaseModel):
        city: str

    parsed = client.chat.completions.parse(model=CLAUDE, messages=say("as json"), response_format=Place)
    return {
        "stream": "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices),
        "usage": chunks[-1].usage.model_dump(exclude_none=True),
        "tool": [called.finish_reason, call.function.name, call.function.arguments],
        "after_tool": after.choices[0].message.content,
        "streamed_tool": [calls[0].function.name, "".join(call.function.arguments for call in calls)],
        "parsed": parsed.choices[0].message.parsed.city,
    }


def with_langchain():
    @tool
    def get_weather(city: str) -> str:
        """Tells the weather."""
        return "warm"

    def all_of(model):
        called = model.bind_tools([get_weather]).invoke("weather")
        return {
            "whole": model.invoke([HumanMessage("hi")]).text,
            "stream": "".join(chunk.text for chunk in model.stream("hi")),
            "tool": [call["args"] for call in called.tool_calls],
            "usage": called.usage_metadata["total_tokens"],
        }

    return {
        "openai": all_of(ChatOpenAI(model=GPT)),
        "openai_claude": all_of(ChatOpenAI(model=CLAUDE)),
        "anthropic": all_of(ChatAnthropic(model=CLAUDE)),
        "vectors": len(OpenAIEmbeddings(model=VECTORS, check_embedding_ctx_length=False).embed_query("a")),
    }


def with_litellm():
    def all_of(model):
        stream = litellm.completion(model=model, messages=say("hi"), stream=True)
        return [
            litellm.completion(model=model, messages=say("hi")).choices[0].message.content,
            "".join(chunk.choices[0].delta.content or "" for chunk in stream),
        ]

    return {
        "openai": all_of(f"openai/{GPT}"),
        "openai_claude": all_of(f"openai/{CLAUDE}"),
        "anthropic": all_of(f"anthropic/{CLAUDE}"),
        "vectors": len(litellm.embedding(model=f"openai/{VECTORS}", input=["a", "b"]).data),
    }


def with_openai_agents():
    @agents.function_tool
    def get_weather(city: str) -> str:
        """Tells the weather."""
        return f"warm in {city}"

    agents.set_tracing_disabled(True)
    agents.set_default_openai_api("chat_completions")
    asked = agents.Agent(name="Forecaster", instructions="Be kind.", model=CLAUDE, tools=[get_weather])

    async def both():
        whole = await agents.Runner.run(asked, "weather")
        streamed = agents.Runner.run_streamed(asked, "weather")
        async for _ in streamed.stream_events():
            pass
        return [whole.final_output, streamed.final_output]

    return asyncio.run(both())


def failure(call):
    try:
        call()
    except Exception as e:
        response = getattr(e, "response", None)
        retry = response.headers.get("retry-after") if response is not None else None
        return [type(e).__name__, getattr(e, "status_code", None), retry]
    return None


def errors():
    """Returns each package's report of the same errors, and of a truncated stream."""
    def by(call):
        texts = ["status 401", "status 429", "status 500", "cut"]
        return [failure(lambda text=text: call(text)) for text in texts]

    native, compatible = anthropic.Anthropic(max_retries=0), openai.OpenAI(max_retries=0)
    chains = {"chat_openai": ChatOpenAI, "chat_anthropic": ChatAnthropic}
    chains = {name: kind(model=CLAUDE, max_retries=0) for name, kind in chains.items()}
    told = {
        "anthropic": by(lambda text: list(native.messages.create(
            model=CLAUDE, max_tokens=9, messages=say(text), stream=True))),
        "openai": by(lambda text: list(compatible.chat.completions.create(
            model=CLAUDE, messages=say(text), stream=True))),
        "gpt": by(lambda text: list(compatible.chat.completions.create(model=GPT, messages=say(text), stream=True))),
    }
    for name, chain in chains.items():
        told[name] = by(lambda text, chain=chain: list(chain.stream(text)))
    for kind in ["openai", "anthropic"]:
        told[f"litellm_{kind}"] = by(lambda text, kind=kind: list(litellm.completion(
            model=f"{kind}/{CLAUDE}", messages=say(text), stream=True, num_retries=0, max_retries=0)))
    try:
        compatible.responses.create(model=CLAUDE, input="hi")
    except openai.BadRequestError as e:
        told["responses"] = e.message
    try:
        native.messages.create(model=GPT, max_tokens=9, messages=say("hi"))
    except anthropic.BadRequestError as e:
        told["messages"] = e.body["error"]["message"]
    return told


def handler(message):
    return {"response": globals()[message]()}

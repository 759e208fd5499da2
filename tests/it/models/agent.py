"""Calls models as programs do: with the public package, and no key and no address in the code."""

import asyncio
import os

import openai

MODEL = os.environ["LLM_MODEL"]
client = openai.OpenAI(max_retries=0)
weather = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
tools = [{"type": "function", "function": {"name": "get_weather", "parameters": weather}}]


def ask(text, **more):
    return dict(model=MODEL, messages=[{"role": "user", "content": text}], **more)


async def asynchronously(text):
    async with openai.AsyncOpenAI(max_retries=0) as other:
        answer = await other.chat.completions.create(**ask(text))
        stream = await other.chat.completions.create(**ask(text, stream=True))
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
    return [answer.choices[0].message.content, "".join(pieces)]


def failure(call):
    try:
        call()
    except openai.APIStatusError as e:
        return [type(e).__name__, e.code, e.message, e.response.headers.get("retry-after")]
    return None


def handler(message):
    whole = client.chat.completions.create(**ask(message))
    stream = client.chat.completions.create(**ask(message, stream=True, stream_options={"include_usage": True}))
    chunks = list(stream)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    called = client.chat.completions.create(**ask("get the weather", tools=tools)).choices[0]
    vectors = client.embeddings.create(model=os.environ["LLM_MODEL_EMBEDDING"], input=["a", "b"])
    return {
        "response": {
            "sync": [whole.choices[0].message.content, whole.system_fingerprint],
            "stream": ["".join(pieces), chunks[-1].usage.total_tokens == whole.usage.total_tokens],
            "async": asyncio.run(asynchronously(message)),
            "tool": [called.finish_reason, called.message.tool_calls[0].function.name],
            "arguments": called.message.tool_calls[0].function.arguments,
            "vectors": [len(vector.embedding) for vector in vectors.data],
            "responses": client.responses.create(model=MODEL, input=message).output_text,
            "listed": sorted({model.id for model in client.models.list()}),
            "wrong": failure(lambda: client.chat.completions.create(**{**ask("x"), "model": "gpt-9"})),
            "limited": failure(lambda: client.chat.completions.create(**ask("too many"))),
            "key": os.environ["OPENAI_API_KEY"],
        }
    }

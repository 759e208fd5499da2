"""Calls a model of Amazon Bedrock as a program for the OpenAI API does: nothing of AWS is in it."""

import os

import openai

MODEL = os.environ["LLM_MODEL"]
client = openai.OpenAI(max_retries=0)
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]


def ask(text, **more):
    return client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": text}], **more)


def failure(text, **more):
    try:
        list(ask(text, **more))
    except openai.APIStatusError as e:
        return [type(e).__name__, e.status_code, e.code]
    except openai.APIError as e:
        return [type(e).__name__, e.code]
    return None


def handler(message):
    whole = ask(message)
    chunks = list(ask(message, stream=True, stream_options={"include_usage": True}))
    called = ask(message, tools=TOOLS).choices[0]
    streamed = [call for chunk in ask(message, tools=TOOLS, stream=True) for call in chunk.choices[0].delta.tool_calls or []]
    turns = [
        {"role": "user", "content": message},
        called.message,
        {"role": "tool", "tool_call_id": called.message.tool_calls[0].id, "content": "warm"},
    ]
    return {
        "response": {
            "whole": [whole.choices[0].message.content, whole.model, whole.usage.total_tokens, whole.id],
            "stream": "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices),
            "usage": chunks[-1].usage.total_tokens,
            "tool": [called.finish_reason, called.message.tool_calls[0].function.arguments],
            "streamed_tool": "".join(call.function.arguments for call in streamed),
            "after_tool": client.chat.completions.create(model=MODEL, messages=turns, tools=TOOLS).choices[0].message.content,
            "throttled": failure("ThrottlingException"),
            "denied": failure("AccessDeniedException", stream=True),
            "invalid": failure("ValidationException"),
            "broken_stream": failure("modelStreamErrorException", stream=True),
        }
    }

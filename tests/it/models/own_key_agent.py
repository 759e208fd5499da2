"""Calls models with a key of its own, and with the address of the public API in the code."""

import json
import os
import urllib.request

import openai


def direct():
    request = urllib.request.Request(
        "https://api.openai.com/v1/chat/completions",
        json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}).encode(),
        {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"},
    )
    return json.load(urllib.request.urlopen(request))["choices"][0]["message"]["content"]


def handler(message):
    messages = [{"role": "user", "content": message}]
    client = openai.OpenAI(max_retries=0)
    whole = client.chat.completions.create(model="gpt-4o-mini", messages=messages)
    stream = client.chat.completions.create(model="gpt-4o-mini", messages=messages, stream=True)
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    return {"response": {"whole": whole.choices[0].message.content, "stream": "".join(pieces), "direct": direct()}}

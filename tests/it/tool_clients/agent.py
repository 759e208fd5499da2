import asyncio

import httpx
import websockets
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client
from runagents import Agent

URL = "https://tool.example"


async def with_mcp():
    async with streamablehttp_client(URL + "/mcp") as (read, write, _), ClientSession(read, write) as session:
        await session.initialize()
        tools = sorted(tool.name for tool in (await session.list_tools()).tools)
        total = await session.call_tool("add", {"a": 2, "b": 3})
        key = await session.call_tool("key", {})
        return [tools, total.content[0].text, key.content[0].text]


def with_http2():
    with httpx.Client(http2=True) as client:
        answer = client.post(URL + "/echo", json={"by": "httpx"})
        return [answer.http_version, answer.json()]


async def with_websocket():
    async with websockets.connect("wss://tool.example/ws") as connection:
        key = await connection.recv()
        await connection.send("hello")
        return [key, await connection.recv()]


async def handler(message):
    return {"response": {
        "mcp": await with_mcp(),
        "http2": with_http2(),
        "websocket": await with_websocket(),
        "call_tool": await asyncio.to_thread(Agent().call_tool, "probe", "/echo", {"by": "runagents"}),
    }}

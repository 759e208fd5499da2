"""A tool with TLS: an MCP server (streamable HTTP) at /mcp, a WebSocket at /ws and plain JSON at /echo, each of which
returns the key that it was called with.

    server.py CERTIFICATE KEY          prints its port
"""

import socket
import sys

import uvicorn
from mcp.server.fastmcp import Context, FastMCP
from mcp.server.transport_security import TransportSecuritySettings
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute

# It is called by a name that differs from its address.
server = FastMCP("probe", transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False))


@server.tool()
def add(a: int, b: int) -> int:
    return a + b


@server.tool()
async def key(context: Context) -> str:
    await context.report_progress(1, 2)  # an event before the answer
    return context.request_context.request.headers.get("authorization", "")


async def echo(request):
    return JSONResponse({"got": await request.json(), "key": request.headers.get("authorization")})


async def websocket(connection):
    await connection.accept()
    await connection.send_text(connection.headers.get("authorization", ""))
    async for text in connection.iter_text():
        await connection.send_text(text.upper())


app = server.streamable_http_app()
app.router.routes += [Route("/echo", echo, methods=["POST"]), WebSocketRoute("/ws", websocket)]
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
config = uvicorn.Config(app, ssl_certfile=sys.argv[1], ssl_keyfile=sys.argv[2], log_level="warning")
uvicorn.Server(config).run(sockets=[listener])

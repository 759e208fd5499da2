"""Runs one agent: loads it from its entry point and serves it over HTTP.

    hoistway_runner.py [--app DIR] [--site DIR]... [--listen-fd N] [--notify-fd N] [--config-fd N]

USER_ENTRY_POINT names the entry file below the app directory. The agent in it is, in this order: `handler`, or
`lambda_handler`; an object named `agent`, `chain`, `executor`, `graph` or `crew`, or an `app` that has `.invoke`;
`main`; `run`; `app` as an ASGI or WSGI application; the only such application of another name, or one made by a
factory. A name counts if the file binds it itself, if it is a `handler` imported from anywhere (`from x import
handler`), or if it is imported from the agent's own files and not used by the file's top level. Without any, a file
with statements is a script: each invoke runs it in a new process, with the message on stdin, in argv[1] and in
AGENT_MESSAGE, and its output is the answer. So is a file whose `main` reads its command line. A file of definitions
alone is refused.

The user of an invoke, where an identity provider verifies users, comes in the header X-End-User-ID, from the gateway
only. A handler receives it as `user_id` of its request and of its context's session, a script in AGENT_USER_ID, a web
application in the header. The agent's tools receive it from egress, from a statement that the gateway sends as
X-Hoistway-End-User and that is added to every call of the agent's HTTP clients.

    GET /healthz   GET /readyz   POST /invoke   POST /invoke/stream      body: {"message": "...", "history": [...], ...}
    GET /stack   the stack of the invoke with the request's X-Request-ID, for a gateway that gives it up
    /app/...   any method: the other routes of a web application

In a container it listens on PORT. A supervisor passes more descriptors: a listening socket, a pipe for one event that
reports the start ({"event": "ready"} or {"event": "failed", "error": ..., "code": ..., "details": [...]}), and a pipe
with {"token": ..., "mask": [...], "closed_network": ..., "start_seconds": ..., "stack_signal": ..., "framework": ...};
unknown members are for later runners. Until it is ready, the stack signal makes it write its stack to the first pipe.
SIGTERM drains: all open connections are still answered, then the exit status is 0.

Standard library only, Python 3.10 or later. This package determines the delay until an agent answers after an edit, so
modules that most agents never need are imported where they are used: asyncio, inspect, traceback, subprocess (5 to 35
ms each), and the modules of this package that a plain handler does not need (a test lists them).
"""

EXIT_SECONDS = 5  # for the agent's own threads, exit hooks and tasks

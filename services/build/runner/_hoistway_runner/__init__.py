"""Runs one agent: finds what its entry point offers, and answers HTTP with it.

    hoistway_runner.py [--app DIR] [--site DIR]... [--listen-fd N] [--notify-fd N] [--config-fd N]

USER_ENTRY_POINT names the entry file below the app directory. The agent in it is, in this order: `handler`, or
`lambda_handler`; an object named `agent`, `chain`, `executor`, `graph` or `crew`, or an `app` that has `.invoke`; `main`;
`run`; `app` as an ASGI or WSGI application; the only such application of another name, or what a factory makes. Names
count that the file binds itself, a `handler` imported from anywhere (`from x import handler`), and others imported from
the agent's own files, unless the file's top level uses them. Without any, a file with statements is a script: each
invoke runs it in a process of its own, with the message on stdin, in argv[1] and in AGENT_MESSAGE, and what it prints is
the answer. So is one whose `main` reads its command line. A file of definitions alone is refused.

Whose invoke it is, where an identity provider vouches for its users, comes in the header X-End-User-ID, from the gateway
and from nobody else: a handler finds it as `user_id` of its request and of its context's session, a script in
AGENT_USER_ID, a web application in the header. The agent's tools are told by egress, from a statement that the gateway
sends as X-Hoistway-End-User and that goes along with every call of the agent's HTTP clients.

    GET /healthz   GET /readyz   POST /invoke   POST /invoke/stream      body: {"message": "...", "history": [...], ...}
    GET /stack   where the invoke with the request's X-Request-ID stands, for a gateway that gives it up
    /app/...   any method: the other routes of a web application

In a container it listens on PORT. A supervisor hands over more: a listening socket, a pipe that is told once how the
start went ({"event": "ready"} or {"event": "failed", "error": ..., "code": ..., "details": [...]}), and a pipe with
{"token": ..., "mask": [...], "closed_network": ..., "start_seconds": ..., "stack_signal": ..., "framework": ...}; members that are not
known here are for later runners. Until it is ready the stack signal makes it write its stack to the first pipe. SIGTERM
drains: everything that has connected is still answered, then the exit status is 0.

Standard library only, Python 3.10 or later. How soon an agent answers after an edit is decided here, so what most
agents never need is imported where it is used: asyncio, inspect, traceback, subprocess (5 to 35 ms each), and the
modules of this package that a plain handler does not need (a test says which).
"""

EXIT_SECONDS = 5  # for the agent's own threads, exit hooks and tasks

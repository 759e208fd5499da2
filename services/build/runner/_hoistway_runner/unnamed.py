"""Entry files without an agent's name: a web application of any name, a factory of one, a script, or nothing at all."""

import os
from types import ModuleType

from .arguments import KEYWORD, NONE, POSITIONAL, parameters
from .commands import reads_command_line
from .discovery import FACTORIES, Found, ast, nothing_to_invoke, top_level
from .errors import NothingToInvoke
from .frameworks import framework_agent
from .loading import import_entry
from .own_files import own_file
from .results import resolve
from .web import mcp_mount, web_agent


def unnamed_agent(tree, app, entry, module):
    """The web application that a file offers; None for a script. `module` is the file if it was imported already."""
    found = Found(tree)
    path = os.path.join(app, entry)
    own = {name for name, node in found.imported.items() if isinstance(node, ast.ImportFrom) and own_file(app, path, node)}
    if module is None and (found.web or not found.statements and (
            own or found.objects() or any(name in found.bound for name in FACTORIES))):
        if found.web or not (found.guard and reads_command_line(tree, "")):
            module = import_entry(app, entry)
    if module is not None:
        values = {name: getattr(module, name) for name in (*found.bound, *own) if hasattr(module, name)}
        if agent := the_web_application(values, entry) or from_factory(values, entry):
            return agent
    elif found.statements or found.guard:
        return None
    else:
        values = {}
    if found.statements or found.guard:
        return None
    objects = {name: value for name, value in values.items() if name in own or found.bound[name][0] == "object"}
    text, details = nothing_to_invoke(entry, found, {name: type(value).__qualname__ for name, value in objects.items()})
    used = top_level(tree)[1]  # in others, as a model or a prompt is in a chain
    whole = {name: value for name, value in objects.items() if name not in used}
    raise NothingToInvoke(text, *details[:-1], *advice(whole or objects), details[-1])


def the_web_application(values, entry):
    """The one web application among these; those that another one wraps, or routes to, are parts of it. Servers
    of MCP count where there is no other, which may have mounted them."""
    found, servers = {}, {name: value for name, value in values.items() if mcp_mount(value)}
    for name, value in values.items():
        try:
            agent = None if name in servers or isinstance(value, (type, ModuleType)) else web_agent(value, exactly=True)
        except Exception:  # a proxy of what is there during a request alone
            continue
        if agent and id(value) not in found:
            found[id(value)] = name, agent
    if not found:
        found = {id(value): (name, web_agent(value)) for name, value in servers.items()}
    parts = {id(part) for _, agent in found.values() for part in getattr(agent.app, "__dict__", {}).values() if part is not agent.app}
    whole = [(name, agent) for key, (name, agent) in found.items() if key not in parts] or list(found.values())
    whole = [one for one in whole if not type(one[1].app).__name__.endswith("Router")] or whole
    if len(whole) > 1:
        names = [name for name, _ in whole]
        raise NothingToInvoke(f"{entry} has {len(names)} web applications, {', '.join(names[:-1])} and {names[-1]}",
                              "name the one that is to be invoked app")
    return whole[0][1] if whole else None


def from_factory(values, entry):
    """The web application that a factory makes."""
    for name in FACTORIES:
        factory = values.get(name)
        if callable(factory) and not any(way in (POSITIONAL, KEYWORD) and default is NONE for _, way, _, default in parameters(factory)):
            made = resolve(factory())
            if agent := web_agent(made):
                return agent
            raise NothingToInvoke(f"{entry} offers nothing to invoke: {name}() gives {type(made).__qualname__}, which is no web application",
                                  "let it return the ASGI or WSGI application")
    return None


def advice(objects):
    """What to do about objects under names that are not known."""
    for name, value in objects.items():
        if type(value).__module__.startswith("google.adk"):
            yield f"{name} is an agent of Google ADK: define handler(message) that runs it with google.adk.runners.InMemoryRunner"
        elif framework_agent(value):
            yield f"{name} can be invoked: name it agent"

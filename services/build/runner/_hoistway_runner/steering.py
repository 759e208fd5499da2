"""The choice among an entry file's names, where the deploy names the agent's framework."""

import os
from types import ModuleType

from .building import is_built_only
from .commands import names_in, reads_command_line
from .discovery import FRAMEWORK_NAMES, Found, ast, top_level
from .loading import import_entry
from .own_files import own_file
from .web import mcp_mount, web_agent

# The packages of a framework's objects, and their usual name.
OBJECTS = {
    "langchain": (("langchain", "langchain_classic", "langchain_core", "langgraph"), "chain"),
    "langgraph": (("langgraph",), "graph"),
    "crewai": (("crewai",), "crew"),
    "openai": (("agents",), "agent"),
    "pydantic-ai": (("pydantic_ai",), "agent"),
    "smolagents": (("smolagents",), "agent"),
    "llamaindex": (("llama_index", "workflows"), "agent"),
    "autogen": (("autogen_agentchat",), "agent"),
}
WEB = ("fastapi", "starlette", "flask", "django", "mcp")
FUNCTIONS = ("handler", "lambda_handler", "main", "run")


def steered(tree, app, entry, framework, names, module):
    """Returns the framework's object as an agent, or None if there is none or the choice is ambiguous; and the file's
    module, if it was imported. It is imported only if it binds an object that its top level does not use itself: used
    ones are a script's."""
    path, found = os.path.join(app, entry), Found(tree)
    _, used, _ = top_level(tree)
    made = [name for name, (kind, *_) in found.bound.items() if kind == "object" and name not in used]
    made += [name for name, node in found.imported.items()
             if isinstance(node, ast.ImportFrom) and name not in used and own_file(app, path, node)]
    packages, usual = OBJECTS.get(framework, ((), "app"))
    first = [name for name in dict.fromkeys((usual, *FRAMEWORK_NAMES, "app")) if name in names]
    if not first and (not made or reads_command_line(tree, "") or module is None and not is_built_only(tree)):
        return None, module
    module = module or import_entry(app, entry)
    for name in first:
        if agent := chosen(module, name, framework, packages):
            return agent, module
    agents = {name: agent for name in made if name not in first and (agent := chosen(module, name, framework, packages))}
    same = len({id(getattr(module, name)) for name in agents}) == 1
    return next(iter(agents.values())) if same else None, module


def chosen(module, name, framework, packages):
    """Returns the object of a name as an agent, if it belongs to the framework."""
    value = getattr(module, name, None)
    try:
        if value is None or isinstance(value, (type, ModuleType)):
            return None
        if framework in WEB and not mcp_mount(value):
            return web_agent(value, exactly=name != "app")
    except Exception:  # a proxy for something that exists only during a request
        return None
    return web_agent(value) if framework in WEB else made_with(value, packages)


def made_with(value, packages):
    """Returns an object of these packages that can be called with a message; not a part of an agent, such as a model or
    a prompt."""
    from .data import of
    from .frameworks import framework_agent

    kind = type(value)
    if not any(of(kind, package) for package in packages):
        return None
    place = kind.__module__
    if place.startswith("langchain_") and not place.startswith(("langchain_core.runnables.", "langchain_classic.")):
        return None
    if place.startswith("llama_index") and ".agent" not in place and "engine" not in place:
        return None
    return framework_agent(value)


def parts(tree):
    """Returns the names whose objects are arguments of another framework object: `executor =
    AgentExecutor(agent=agent)`."""
    found = set()
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") in FRAMEWORK_NAMES for target in node.targets):
            found |= names_in(node.value).intersection(FRAMEWORK_NAMES)
    return found

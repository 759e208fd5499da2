"""Entry files without an agent's standard name: a web application or an agent of any name, a factory of one, a script,
or nothing at all."""

import os
import sys
from types import ModuleType

from .arguments import KEYWORD, NONE, POSITIONAL, parameters
from .building import builds_with_others, root
from .commands import modules_of, reads_command_line, without_main_block
from .discovery import AGENT_FACTORIES, FACTORIES, Found, ast, nothing_to_invoke, top_level
from .errors import NothingToInvoke
from .frameworks import framework_agent
from .loading import import_entry
from .offered import entered, is_part, the_agent, the_web_application
from .own_files import own_file
from .results import resolve
from .web import web_agent

DATA = (str, bytes, int, float, type(None), list, tuple, dict, set)  # values that cannot be meant to be invoked


def unnamed_agent(tree, app, entry, module):
    """Returns the invocable object of a file; None for a script. `module` is the file if it was imported already."""
    found = Found(tree)
    path = os.path.join(app, entry)
    own = {name for name, node in found.imported.items() if isinstance(node, ast.ImportFrom) and own_file(app, path, node)}
    if not found.statements and not found.guard:
        looked = own or found.objects() or not found.bound.keys().isdisjoint((*FACTORIES, *AGENT_FACTORIES))
    else:
        looked = (own or found.objects() or not found.bound.keys().isdisjoint(FACTORIES)) and only_builds(tree, app, path, found)
    bottled = routes_of_bottle(tree, found)
    if module is None and (found.web or looked or bottled):
        module = import_entry(app, entry)
    values = {}
    if module is not None:
        if "*" in own:
            own = own.union(name for name in vars(module) if not name.startswith("_")).difference(found.bound)
        values = {name: getattr(module, name) for name in (*found.bound, *own) if hasattr(module, name)}
        if bottled and getattr(default := sys.modules["bottle"].default_app(), "routes", None):
            values["default_app()"] = default
        if agent := the_web_application(values, entry) or from_factory(values, entry):
            return agent
        if looked and not (found.guard and reads_command_line(tree, "")):  # such a main block is the way to the agent
            if agent := the_agent(values, entry, tree, alone=found.guard) or not found.guard and from_agent_factory(
                    values, entry, whole=not found.statements):
                return agent
    for name, value in values.items():
        if type(value).__module__.startswith("aiohttp.web"):
            raise NothingToInvoke(f"{entry} offers nothing to invoke: {name} is an application of aiohttp, which has a server of its own",
                                  "define handler(message), or make it an ASGI application")
    if found.statements or found.guard:
        return None
    objects = {name: value for name, value in values.items() if name in own or found.bound.get(name, "?")[0] == "object"}
    kinds = {name: type(value).__qualname__ for name, value in objects.items() if name not in own}
    used = top_level(tree)[1]  # in others, as a model or a prompt is in a chain
    for name in sorted(own.difference(used) & objects.keys()):
        kind = type(objects[name])
        if not issubclass(kind, (ModuleType, *DATA)):
            place = own_file(app, path, found.imported.get(name) or found.imported["*"])
            kinds[name] = f"{'class' if issubclass(kind, type) else kind.__qualname__}, from {os.path.relpath(place, app)}"
    text, details = nothing_to_invoke(entry, found, kinds)
    whole = {name: value for name, value in objects.items() if name not in used}
    raise NothingToInvoke(text, *details[:-1], *advice(whole or objects), details[-1])


def routes_of_bottle(tree, found):
    """Whether a file adds routes to Bottle's default application, as its tutorial does."""
    names = {name for name, node in found.imported.items() if any(one.module == "bottle" for one in modules_of(node))}
    return any(root(decorator) in names for node in tree.body for decorator in getattr(node, "decorator_list", ()))


def only_builds(tree, app, path, found):
    """Whether a file with a main block or other statements may be imported to find its objects, since the import does
    none of an invoke's work."""
    if not found.statements and not reads_command_line(tree, ""):
        return True
    own = {name for name, node in found.imported.items() for inner in modules_of(node) if own_file(app, path, inner)}
    return not (own and found.guard or "*" in own) and builds_with_others(tree, own) and not reads_command_line(without_main_block(tree), "")


def needs_nothing(function):
    """Whether a function can be called without arguments."""
    return callable(function) and not isinstance(function, type) and not any(
        way in (POSITIONAL, KEYWORD) and default is NONE for _, way, _, default in parameters(function))


def from_factory(values, entry):
    """Returns the web application that a factory makes."""
    for name in FACTORIES:
        if needs_nothing(factory := values.get(name)):
            made = resolve(factory())
            if agent := web_agent(made):
                return agent
            raise NothingToInvoke(f"{entry} offers nothing to invoke: {name}() gives {type(made).__qualname__}, which is no web application",
                                  "let it return the ASGI or WSGI application")
    return None


def from_agent_factory(values, entry, whole):
    """Returns the agent that a factory makes. If the file is not `whole` without it, the agent may be of any type."""
    for name in AGENT_FACTORIES:
        if needs_nothing(factory := values.get(name)):
            made = entered(resolve(factory()))
            if agent := framework_agent(made):
                return agent
            if whole:
                raise NothingToInvoke(f"{entry} offers nothing to invoke: {name}() gives {type(made).__qualname__}, which cannot be invoked",
                                      "let it return the compiled graph, the chain, the crew or the agent, or define handler(message)")
    return None


def advice(objects):
    """Advises on objects under unknown names."""
    for name, value in objects.items():
        if type(value).__module__.startswith("google.adk"):
            yield f"{name} is an agent of Google ADK: define handler(message) that runs it with google.adk.runners.InMemoryRunner"
        elif not is_part(type(value)) and framework_agent(value):
            yield f"{name} can be invoked: name it agent"

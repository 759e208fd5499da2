"""The one object of an entry file, whatever its name, that can be invoked."""

from types import ModuleType

from .commands import names_in
from .discovery import ast, top_level
from .errors import NothingToInvoke
from .steering import OBJECTS, made_with
from .web import mcp_mount, web_agent

PACKAGES = frozenset(package for packages, _ in OBJECTS.values() for package in packages) | {"dspy", "strands", "agno", "semantic_kernel"}
MOST_PARTS = 5000  # of an application that are inspected


def the_web_application(values, entry):
    """Returns the one web application among these; applications that another one wraps, mounts or routes to are parts
    of it. MCP servers count only if there is no other application, which may have mounted them."""
    found, servers = {}, {name: value for name, value in values.items() if mcp_mount(value)}
    for name, value in values.items():
        try:
            agent = None if name in servers or isinstance(value, ModuleType) else web_agent(value, exactly=True)
        except Exception:  # a proxy for something that exists only during a request
            continue
        if agent and id(value) not in found:
            found[id(value)] = name, agent
    if not found:
        found = {id(value): (name, web_agent(value)) for name, value in servers.items()}
    parts = {id(part) for _, agent in found.values() for part in parts_of(agent.app) if part is not agent.app}
    whole = [(name, agent) for key, (name, agent) in found.items() if key not in parts] or list(found.values())
    whole = [one for one in whole if not type(one[1].app).__name__.endswith("Router")] or whole
    if len(whole) > 1:
        raise NothingToInvoke(f"{entry} has {counted(whole, 'web applications')}", "name the one that is to be invoked app")
    return whole[0][1] if whole else None


def counted(found, what):
    """Returns a text such as `2 web applications, one and two`."""
    names = [name for name, _ in found]
    return f"{len(names)} {what}, {', '.join(names[:-1])} and {names[-1]}"


def parts_of(application):
    """Returns the parts of an application at any depth: those that it wraps, mounts, routes to or calls as a
    closure."""
    todo, seen = [application], set()
    for thing in todo:
        if id(thing) in seen or issubclass(type(thing), (type, ModuleType, str, bytes)):
            continue
        if len(seen) > MOST_PARTS:
            break
        seen.add(id(thing))
        try:
            todo += inside(thing)
        except Exception:  # a proxy for something that exists only during a request
            pass
    return todo


def inside(thing):
    """Returns the direct parts of an object."""
    if isinstance(thing, dict):
        return list(thing.values())[:MOST_PARTS]
    if isinstance(thing, (list, tuple)):
        return thing[:MOST_PARTS]
    own = list(getattr(thing, "__dict__", {}).values())
    for cell in getattr(thing, "__closure__", None) or ():
        try:
            own.append(cell.cell_contents)
        except ValueError:  # the cell is still empty
            pass
    return own


def the_agent(values, entry, tree, alone):
    """Returns the one object of a known framework among these that no other one uses. Several ones are an error if they
    are `alone` in the file; beside a main block they are parts of its work."""
    used, in_functions = names_in_others(tree), names_in_functions(tree)
    found = {}
    for name, value in values.items():
        try:
            agent = None if isinstance(value, (type, ModuleType)) else made_with(value, PACKAGES)
        except Exception:  # a proxy, of whatever kind
            continue
        kind = type(value)
        if agent and not is_part(kind) and not (name in in_functions and kind.__module__.startswith("langchain_core.")):
            found.setdefault(id(value), (name, agent))
    whole = [one for one in found.values() if one[0] not in used] or list(found.values())
    if len(whole) > 1 and not alone:
        raise NothingToInvoke(f"{entry} has {counted(whole, 'agents')}", "name the one that is to be invoked agent")
    return whole[0][1] if len(whole) == 1 else None


def is_part(kind):
    """Whether objects of a class are parts of agents: tools and models."""
    return any("tool" in base.__module__ or "chat_models" in base.__module__ for base in kind.__mro__)


def names_in_others(tree):
    """Returns the names that a file's top level passes to others or builds others from; not those whose methods it only
    calls."""
    body = []
    for node in tree.body:
        told = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute)
        body += [*node.value.args, *node.value.keywords] if told else [node]
    return top_level(ast.Module(body, []))[1]


def names_in_functions(tree):
    """Returns the names that functions of a file use: a chain among them is one of their steps."""
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {name for node in tree.body if isinstance(node, definitions) for name in names_in(node)}


def entered(made):
    """Returns a factory's object; for an async context manager, as for clients of MCP servers, its value on entry. It
    is never exited."""
    if not hasattr(made, "__aenter__") or callable(getattr(made, "invoke", None)):
        return made
    from .loop import LOOP

    return LOOP.wait(made.__aenter__())

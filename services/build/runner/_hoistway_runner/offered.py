"""The one object among those of an entry file, whatever its name, that is there to be invoked."""

from types import ModuleType

from .commands import names_in
from .discovery import ast, top_level
from .errors import NothingToInvoke
from .steering import OBJECTS, made_with
from .web import mcp_mount, web_agent

PACKAGES = frozenset(package for packages, _ in OBJECTS.values() for package in packages) | {"dspy", "strands", "agno", "semantic_kernel"}
MOST_PARTS = 5000  # of an application that are looked at


def the_web_application(values, entry):
    """The one web application among these; those that another one wraps, mounts or routes to, are parts of it. Servers
    of MCP count where there is no other, which may have mounted them."""
    found, servers = {}, {name: value for name, value in values.items() if mcp_mount(value)}
    for name, value in values.items():
        try:
            agent = None if name in servers or isinstance(value, ModuleType) else web_agent(value, exactly=True)
        except Exception:  # a proxy of what is there during a request alone
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
    """`2 web applications, one and two`."""
    names = [name for name, _ in found]
    return f"{len(names)} {what}, {', '.join(names[:-1])} and {names[-1]}"


def parts_of(application):
    """What an application has in itself, however deep: what it wraps, mounts, routes to or calls as a closure."""
    todo, seen = [application], set()
    for thing in todo:
        if id(thing) in seen or issubclass(type(thing), (type, ModuleType, str, bytes)):
            continue
        if len(seen) > MOST_PARTS:
            break
        seen.add(id(thing))
        try:
            todo += inside(thing)
        except Exception:  # a proxy of what is there during a request alone
            pass
    return todo


def inside(thing):
    """What an object has right in itself."""
    if isinstance(thing, dict):
        return list(thing.values())[:MOST_PARTS]
    if isinstance(thing, (list, tuple)):
        return thing[:MOST_PARTS]
    own = list(getattr(thing, "__dict__", {}).values())
    for cell in getattr(thing, "__closure__", None) or ():
        try:
            own.append(cell.cell_contents)
        except ValueError:  # nothing is in it yet
            pass
    return own


def the_agent(values, entry, tree, alone):
    """The one object of a known framework among these that no other one uses. Of several, those that are not `alone` in the
    file, as beside a main block, are what it works with."""
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
    """Whether objects of a class are what agents are made of: tools and models."""
    return any("tool" in base.__module__ or "chat_models" in base.__module__ for base in kind.__mro__)


def names_in_others(tree):
    """The names that a file's top level makes others of, or gives to them; not those that it only tells something."""
    body = []
    for node in tree.body:
        told = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute)
        body += [*node.value.args, *node.value.keywords] if told else [node]
    return top_level(ast.Module(body, []))[1]


def names_in_functions(tree):
    """The names that functions of a file use: a chain among them is a step of theirs."""
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {name for node in tree.body if isinstance(node, definitions) for name in names_in(node)}


def entered(made):
    """What a factory made; of an async context manager, as the clients of MCP's servers need one, what it gives, and it is
    never left."""
    if not hasattr(made, "__aenter__") or callable(getattr(made, "invoke", None)):
        return made
    from .loop import LOOP

    return LOOP.wait(made.__aenter__())

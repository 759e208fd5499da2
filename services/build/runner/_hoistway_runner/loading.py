"""Imports the entry file and takes the agent from it."""

import _ast as ast
import os
import sys
from _frozen_importlib import module_from_spec  # what importlib.util has, without its 4 ms
from _frozen_importlib_external import SourceFileLoader, spec_from_file_location
from types import ModuleType

from .arguments import FunctionAgent, MessageAgent
from .discovery import FRAMEWORK_NAMES, agent_names
from .errors import StartError


def import_entry(app, entry):
    """Imports the entry file under the name by which its own package, or pickle in a child process, would import it.

    It is loaded from its path whatever its name: `my-agent.py` is no identifier, and `queue.py` or a directory `src`
    without __init__.py might lose against a module of the same name elsewhere.
    """
    path = os.path.join(app, entry)
    parts = entry.removesuffix(".py").split("/")
    if not all(map(str.isidentifier, parts)) or parts[0] in sys.modules or ".".join(parts) in sys.stdlib_module_names:
        parts = ["agent_" + "".join(c if c.isalnum() else "_" for c in ".".join(parts))]
    name, package = ".".join(parts), ".".join(parts[:-1])
    is_package = package and all(
        os.path.isfile(os.path.join(app, *parts[:n], "__init__.py")) for n in range(1, len(parts)))
    if is_package:
        from importlib import import_module

        import_module(package)
        if name in sys.modules:  # the package's __init__.py has imported it
            return sys.modules[name]
    spec = spec_from_file_location(name, path, loader=SourceFileLoader(name, path))
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    if is_package:
        setattr(sys.modules[package], parts[-1], module)
    return module


def choose(module, bound, imported, entry):
    """The agent among a module's names, or None."""
    found = {name: getattr(module, name) for name in bound | imported if hasattr(module, name)}
    for name in imported & found.keys():  # modules, classes and logging's handlers have these names, too
        thing = found[name]
        if not callable(thing) if name == "handler" else isinstance(thing, (ModuleType, type)):
            del found[name]
    if "handler" in found and not callable(found["handler"]):
        raise StartError(f"{entry}: handler is {type(found['handler']).__name__}, which cannot be called")
    if "handler" in found:
        return FunctionAgent(found["handler"])
    objects = [found[name] for name in FRAMEWORK_NAMES if name in found]
    if hasattr(found.get("app"), "invoke"):
        objects.append(found["app"])
    if objects:
        from .frameworks import framework_agent

        for thing in objects:
            if function := framework_agent(thing):
                return MessageAgent(function)
    for name in ("main", "run"):
        if callable(found.get(name)):
            return FunctionAgent(found[name])
    if "app" not in found:
        return None
    from .web import web_agent

    return web_agent(found["app"])


def load_agent(app, entry, script_command):
    """The agent, whose import, if it has to be imported, is strict."""
    path = os.path.join(app, entry)
    try:
        with open(path, "rb") as file:
            tree = compile(file.read(), path, "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
    except OSError as error:
        raise StartError(f"the entry point {entry} cannot be read: {error.strerror}") from None
    bound, imported = agent_names(tree, app, path)
    if names := bound | imported:
        if agent := choose(import_entry(app, entry), bound, imported, entry):
            return agent
        print(f"{entry}: nothing to invoke in {', '.join(sorted(names))}; each invoke runs the file as a script",
              file=sys.stderr)
    compile(tree, path, "exec", dont_inherit=True)  # a script is ready when it compiles; nobody has asked for a run yet
    from .scripts import run_script

    return MessageAgent(lambda message, seen: run_script(script_command, message, seen.get("user_id", "")))

"""Functions that are commands: they read the command line or the standard input, so they are run as scripts."""

from .annotations import TEXT_NAMES
from .discovery import Found, ast, is_main_guard, top_level
from .own_files import own_file, parsed

# Functions and classes, by name, and members of modules that read the command line or the standard input.
PARSER_CALLS = frozenset(("ArgumentParser", "parse_args", "parse_known_args"))
ARGUMENT_CALLS = PARSER_CALLS | {"OptionParser", "docopt", "Fire", "Typer"}
ARGUMENT_MEMBERS = {"sys": ("argv", "stdin"), **dict.fromkeys(
    ("click", "rich_click", "typer"), ("command", "group", "argument", "option", "run", "Argument", "Option"))}
# Functions, by module, that can open, read or write the descriptors of standard input and output directly. The
# descriptors belong to the process: a thread has none of its own.
DESCRIPTOR_CALLS = {"": ("open",), "io": ("open",), "os": ("fdopen", "read", "write")}
DESCRIPTORS = (0, 1, "/dev/stdin", "/dev/stdout")

# Names through which a script may get its message otherwise: the environment, and starting other programs.
HANDING_ON = frozenset(("AGENT_MESSAGE", "environ", "environb", "getenv", "getenvb", "getpass", "subprocess", "create_subprocess_exec",
                        "create_subprocess_shell", "system", "popen", "exec", "runpy", "import_module", "__import__"))

REQUEST_NAMES = ("request", "req", "payload", "event", "data", "body", "inputs")


def is_command(tree, app, file, name):
    """Whether the file's function of this name, or the file of the agent's own that it is imported from, reads the
    command line, and can be run as a command: either it is called with its arguments, or it needs none."""
    own = own_function(tree, name)
    called = is_called(tree, name)
    if own and not own.decorator_list and len(own.args.args) > len(own.args.defaults) and not called:
        return False
    # A function that only reads input() can also be called, which preserves the type of its result.
    called_as_well = own and not called and returns_value(own) and not reads(without_main_block(tree), aliases_of(tree))
    if reads_command_line(tree, name, ("input",) if called_as_well else ()):
        return True
    used = names_in(own) if own else set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                bound = alias.asname or alias.name
                found = bound in (name, *used) and own_file(app, file, node)
                if not found or not (inner := parsed(found)):
                    continue
                helper = own_function(inner, alias.name)
                if reads_command_line(inner, alias.name) if bound == name else helper and reads_in(inner, helper, takes_invoke(own)):
                    return True
    return False


def returns_value(function):
    """Whether a function returns something that may be an answer."""
    return any(isinstance(node, ast.Return) and node.value is not None and getattr(node.value, "value", node) not in (None, 0)
               for node in nodes_of(function))


def names_in(function):
    """Returns the names that a function, or another part of a file, uses."""
    return {node.id for node in nodes_of(function) if isinstance(node, ast.Name)}


def aliases_of(tree):
    """Returns the modules that a module imports under another name, by that name."""
    return {alias.asname: alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names if alias.asname}


def own_function(tree, name):
    """Returns the function of a name at a module's top level, or None."""
    found = [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == name]
    return found[-1] if found else None


def takes_invoke(function):
    """Whether a function's first parameter is the message or the request."""
    if function is None or not (given := [*function.args.posonlyargs, *function.args.args]):
        return False
    note = given[0].annotation
    if note is None:
        return given[0].arg in TEXT_NAMES or given[0].arg in REQUEST_NAMES
    note = note.value if isinstance(note, ast.Subscript) else note
    return not {"str", "dict", "Dict", "Mapping", "Any"}.isdisjoint(
        getattr(note, field, "") for field in ("id", "attr", "value"))


def is_called(tree, name):
    """Whether a module calls one of its functions itself when it is run: it has a main block, or its top level uses
    it."""
    if any(isinstance(node, ast.If) and is_main_guard(node.test) for node in tree.body):
        return True
    return name in top_level(tree)[1]


def children(node):
    """Returns the direct children of a node."""
    values = (getattr(node, field, None) for field in node._fields)
    return [item for value in values for item in (value if isinstance(value, list) else (value,)) if isinstance(item, ast.AST)]


def nodes_of(tree):
    """Returns the nodes of a tree, the root first."""
    nodes = [tree]
    for node in nodes:
        nodes += children(node)
    return nodes


def without_main_block(tree):
    """Returns the part of a file that runs on import: without its main block, and without functions that are not called
    then."""
    used = top_level(tree)[1]
    body = []
    for node in tree.body:
        if isinstance(node, ast.If) and is_main_guard(node.test):
            body += node.orelse
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) or node.name in used:
            body.append(node)
    return ast.Module(body, [])


def needs_message(tree, app, file, seen=None):
    """Whether a script, or an imported file of the agent's own, may read the message."""
    nodes, seen = nodes_of(tree), seen or set()
    seen.add(file)
    names = {getattr(node, field, None) for node in nodes for field in ("id", "attr", "name", "value", "module")
             if isinstance(getattr(node, field, None), str)}
    asked = {node.attr for node in nodes if isinstance(node, ast.Attribute)} & {"input", "ask"}  # of builtins, of rich
    if asked or not HANDING_ON.isdisjoint(names) or reads(tree, aliases_of(tree), guards=True):
        return True
    for node in nodes:
        for found in (own_file(app, file, one) for one in modules_of(node)):
            if found and found.endswith(".py") and found not in seen and (inner := parsed(found)):
                if needs_message(inner, app, found, seen):
                    return True
    return False


def modules_of(node):
    """Returns a statement's imports as imports `from` each possible module; empty for other nodes."""
    if isinstance(node, ast.Import):
        return [ast.ImportFrom(module=alias.name, names=[], level=0) for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    within = [ast.ImportFrom(module=f"{node.module}.{alias.name}" if node.module else alias.name, names=[], level=node.level)
              for alias in node.names]
    return [node, *within]


def reads_command_line(tree, name, ignored=()):
    """Whether a module reads its command line or its standard input for its function of this name, and must therefore
    be run as a command. For a function that takes the message or the request, only the function and its callees count:
    main blocks and parsers are another way to call it. Calls of the `ignored` names do not count."""
    function = own_function(tree, name)
    if not takes_invoke(function):
        return reads(tree, aliases_of(tree), guards=True, ignored=ignored)
    return reads_in(tree, function, True, ignored)


def reads_in(tree, function, given, ignored=()):
    """Whether a function of a module, or a function of the module that it uses, reads the command line or the standard
    input. If the function is `given` the message, a parser with options alone is ignored: its defaults apply, and it
    would refuse the message."""
    functions = [function]
    for one in functions:
        used = (own_function(tree, name) for name in sorted(names_in(one)))
        functions += [helper for helper in used if helper and helper not in functions]
    ignored = {*ignored, *(PARSER_CALLS if given and has_options_alone(tree) else ())}
    return any(reads(one, aliases_of(tree), ignored=ignored) for one in functions)


def has_options_alone(tree):
    """Whether a module's parsers have arguments, all of them options."""
    added = [node.args[:1] for node in nodes_of(tree)
             if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("add_argument", "add_subparsers")]
    return bool(added) and all(isinstance(getattr(one, "value", None), str) and one.value.startswith("-") for names in added for one in names or [None])


def reads(tree, aliases, guards=False, ignored=()):
    """Whether a module or a function of it reads the command line or the standard input, or uses the standard input or
    output by descriptor. `guards` includes main blocks. Calls of the `ignored` names do not count."""
    todo = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Attribute):
            module = getattr(node.value, "id", "")
            if node.attr in ARGUMENT_MEMBERS.get(aliases.get(module, module), ()):
                return True
        if isinstance(node, ast.ImportFrom) and not node.level:
            if {alias.name for alias in node.names} & {*ARGUMENT_MEMBERS.get(node.module, ())}:
                return True
        if isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            asks = called in ARGUMENT_CALLS or getattr(node.func, "id", "") == "input"
            if asks and called not in ignored or uses_descriptor(node, called, aliases) or reads_lines(node, called, aliases):
                return True
        if guards or not (isinstance(node, ast.If) and is_main_guard(node.test)):
            todo += children(node)
    return False


def uses_descriptor(call, called, aliases):
    """Whether a call uses the standard input or output of the process directly: `open(0)`, `os.write(1, …)`."""
    if not any(getattr(one, "value", None) in DESCRIPTORS for one in call.args[:1]):
        return False
    owner = getattr(call.func, "value", None)
    module = getattr(owner, "id", None) if owner else ""
    return called in DESCRIPTOR_CALLS.get(aliases.get(module, module), ())


def reads_lines(call, called, aliases):
    """Whether a call reads lines of the standard input with the module fileinput, and not of named files."""
    module = getattr(getattr(call.func, "value", None), "id", "")
    if called not in ("input", "FileInput") or aliases.get(module, module) != "fileinput":
        return False
    files = [*call.args[:1], *(keyword.value for keyword in call.keywords if keyword.arg == "files")]
    return not files or any(getattr(node, "value", None) == "-" for node in nodes_of(files[0]))


def served_application(tree, name):
    """Returns the web application that a function without parameters starts a server for: `uvicorn.run(app)`,
    `app.run()`."""
    function = own_function(tree, name)
    if function is None or function.args.args:
        return None
    nodes = nodes_of(function)
    used = {getattr(node, "id", None) for node in nodes} | {
        node.value.rpartition(":")[2] for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return min(Found(tree).web & used, default=None)

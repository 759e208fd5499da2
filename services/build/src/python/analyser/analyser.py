# Parses source files and says what they import, or whether an entry file offers anything to invoke, for which the
# runner's discovery.py stands before this. Nothing is ever executed: one request is one line of JSON on standard input,
# one answer is one line on standard output. The end of standard input ends it.

import ast
import base64
import json
import sys
import warnings

CPU_SECONDS, MEMORY, MOST_IMPORTS, MOST_MENTIONS = 10, 1 << 30, 5000, 500
MACHINE = {"sys.platform", "os.name", "sys.version_info", "platform.system", "platform.machine", "platform.python_implementation", "find_spec"}
CATCHES = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}

try:
    import resource
except ImportError:
    resource = None


def limit_memory():
    if resource:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def limit_time():
    # The limit counts from the process' start, so every request moves it.
    if resource:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        used = int(usage.ru_utime + usage.ru_stime) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (used + CPU_SECONDS, resource.RLIM_INFINITY))


def name_of(node):
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)


def catches_import_error(handler):
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return handler.type is None or any(name_of(kind) in CATCHES for kind in kinds)


def branches(node):
    """The statements of a condition that run; those for type checkers do not."""
    test, negated = node.test, False
    while isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        test, negated = test.operand, not negated
    if name_of(test) != "TYPE_CHECKING":
        return node.body + node.orelse
    return node.body if negated else node.orelse


def is_suppressed(node):
    """Whether a `with` goes on without what it fails to import: `contextlib.suppress(ImportError)`."""
    calls = [item.context_expr for item in node.items if isinstance(item.context_expr, ast.Call)]
    return any(name_of(call.func) == "suppress" and any(name_of(kind) in CATCHES for kind in call.args) for call in calls)


def is_about_the_machine(test):
    """Whether a condition asks for the platform, Python's version or what is installed, or never holds: what it guards may
    well never run here."""
    asked = (node for node in ast.walk(test) if isinstance(node, (ast.Name, ast.Attribute)))
    names = ({name_of(node), f"{name_of(getattr(node, 'value', None))}.{name_of(node)}"} for node in asked)
    return isinstance(test, ast.Constant) and not test.value or any(not MACHINE.isdisjoint(one) for one in names)


def runs_no_main_block(tree):
    """Whether a file has what is invoked instead of its main block."""
    found = Found(tree)
    return bool(found.web or "handler" in found.imported or any(
        name in KNOWN and kind != "constant" for name, (kind, *_) in found.bound.items()))


def imports_of(tree):
    found, no_main_block = [], runs_no_main_block(tree)
    todo = [(node, False) for node in reversed(tree.body)]
    while todo:
        node, optional = todo.pop()
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno, optional) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # The name may be a module of its own: `from google import genai`. Relative ones begin with their dots.
            module = "." * node.level + (node.module or "")
            names = [module if a.name == "*" else f"{module}.{a.name}" if node.module else module + a.name for a in node.names]
            found += [(name, node.lineno, optional) for name in names]
        elif isinstance(node, ast.If):
            may_not_run = optional or is_about_the_machine(node.test) or no_main_block and is_main_guard(node.test)
            todo += [(child, may_not_run) for child in reversed(branches(node))]
        elif isinstance(node, ast.Try) or type(node).__name__ == "TryStar":
            guarded = optional or any(catches_import_error(handler) for handler in node.handlers)
            inner = [(child, guarded) for child in node.body]
            inner += [(child, guarded) for handler in node.handlers for child in handler.body]
            inner += [(child, optional) for child in node.orelse + node.finalbody]
            todo += reversed(inner)
        elif isinstance(node, (ast.stmt, ast.ExceptHandler)) or type(node).__name__ == "match_case":
            # Imports are statements, so expressions need no look.
            optional = optional or isinstance(node, (ast.With, ast.AsyncWith)) and is_suppressed(node)
            inner = [child for field in ("body", "orelse", "cases", "finalbody") for child in getattr(node, field, ())]
            todo += [(child, optional) for child in reversed(inner)]
        if len(found) > MOST_IMPORTS:
            break
    return found[:MOST_IMPORTS]


def is_short(text):
    return isinstance(text, str) and len(text) < 1000


def absolute(texts, keywords):
    """The module that `import_module` names: a relative name is of the package that is given beside it."""
    packages = texts[1:] + [getattr(keyword.value, "value", None) for keyword in keywords if keyword.arg == "package"]
    name = texts[0].lstrip(".")
    level = len(texts[0]) - len(name)
    if not level or not packages or not is_short(packages[0]):
        return texts[0]
    package = packages[0].split(".")
    return ".".join([*package[: len(package) + 1 - level], *([name] if name else [])])


def mentions_of(tree):
    """What a program may run without importing it: files by their paths, and modules by their names ("-m NAME")."""
    found, todo = set(), [tree]
    while todo and len(found) < MOST_MENTIONS:
        node = todo.pop()
        values = getattr(node, "elts", None) or getattr(node, "args", None)
        texts = [getattr(value, "value", None) for value in values] if isinstance(values, list) else []
        for text in [getattr(node, "value", None)] if isinstance(node, ast.Constant) else []:
            if is_short(text) and text.endswith(".py"):
                found.add(text)
        found |= {f"-m {name}" for flag, name in zip(texts, texts[1:]) if flag == "-m" and is_short(name)}
        if isinstance(node, ast.Call) and name_of(node.func) in ("import_module", "__import__") and texts and is_short(texts[0]):
            found.add(f"-m {absolute(texts, node.keywords)}")
        todo += ast.iter_child_nodes(node)
    return sorted(found)


def bytes_of(source):
    return source.encode() if isinstance(source, str) else base64.b64decode(source["base64"])


def analyse(source, minor=None):
    """With the minor version of an older Python, as far as the parser tells what that one does not know."""
    if b"\0" in source:
        line = source.count(b"\n", 0, source.index(b"\0")) + 1
        return {"error": {"line": line, "offset": 0, "text": "", "message": "source code cannot contain null bytes"}}
    try:
        tree = ast.parse(source, feature_version=minor and (3, minor))
        compile(tree, "<source>", "exec", dont_inherit=True)
        return {"found": {"imports": imports_of(tree), "mentions": mentions_of(tree)}}
    except SyntaxError as e:
        text = (e.text or "").rstrip("\n")[:500]
        return {"error": {"line": e.lineno or 1, "offset": max(e.offset or 0, 0), "text": text, "message": e.msg or "invalid syntax"}}
    except ValueError as e:
        return {"error": {"line": 1, "offset": 0, "text": "", "message": str(e)}}
    except (RecursionError, MemoryError, OverflowError) as e:
        return {"error": {"line": 1, "offset": 0, "text": "", "message": "too deeply nested or too large to parse"}}


def offers(entry, source, own):
    """What an entry file that offers nothing has; null for others. `own` are the modules that come with it."""
    try:
        found = Found(ast.parse(bytes_of(source)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {"offers": None}  # that is told by another question
    is_own = lambda node: node.level > 0 or node.module.partition(".")[0] in own
    return {"offers": nothing_to_invoke(entry, found) if found.offers_nothing(is_own) else None}


def main():
    warnings.simplefilter("ignore")
    limit_memory()
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    for request in iter(requests.readline, b""):
        limit_time()
        request = json.loads(request)
        if isinstance(request, dict) and "entry" in request:
            answer = offers(**request)
        elif isinstance(request, dict) and "minor" in request:
            answer = analyse(bytes_of(request["source"]), request["minor"])
        else:
            answer = analyse(bytes_of(request))
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


main()

"""Parses source files and says what they import. Nothing is ever executed: one request is one line of JSON on standard
input, one answer is one line on standard output. The end of standard input ends it."""

import ast
import json
import sys
import warnings

CPU_SECONDS, MEMORY, MOST_IMPORTS = 10, 1 << 30, 5000
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


def imports_of(tree):
    found = []
    todo = [(node, False) for node in reversed(tree.body)]
    while todo:
        node, optional = todo.pop()
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno, optional) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0:
                # The name may be a module of its own: `from google import genai`.
                names = [node.module if a.name == "*" else f"{node.module}.{a.name}" for a in node.names]
                found += [(name, node.lineno, optional) for name in names]
        elif isinstance(node, ast.If):
            todo += [(child, optional) for child in reversed(branches(node))]
        elif isinstance(node, ast.Try) or type(node).__name__ == "TryStar":
            guarded = optional or any(catches_import_error(handler) for handler in node.handlers)
            inner = [(child, guarded) for child in node.body]
            inner += [(child, guarded) for handler in node.handlers for child in handler.body]
            inner += [(child, optional) for child in node.orelse + node.finalbody]
            todo += reversed(inner)
        elif isinstance(node, (ast.stmt, ast.ExceptHandler)) or type(node).__name__ == "match_case":
            # Imports are statements, so expressions need no look.
            inner = [child for field in ("body", "orelse", "cases", "finalbody") for child in getattr(node, field, ())]
            todo += [(child, optional) for child in reversed(inner)]
        if len(found) > MOST_IMPORTS:
            break
    return found[:MOST_IMPORTS]


def analyse(source):
    source = source.encode()
    if b"\0" in source:
        line = source.count(b"\n", 0, source.index(b"\0")) + 1
        return {"error": {"line": line, "offset": 0, "text": "", "message": "source code cannot contain null bytes"}}
    try:
        tree = ast.parse(source)
        compile(tree, "<source>", "exec", dont_inherit=True)
        return {"imports": imports_of(tree)}
    except SyntaxError as e:
        text = (e.text or "").rstrip("\n")[:500]
        return {"error": {"line": e.lineno or 1, "offset": e.offset or 0, "text": text, "message": e.msg or "invalid syntax"}}
    except ValueError as e:
        return {"error": {"line": 1, "offset": 0, "text": "", "message": str(e)}}
    except (RecursionError, MemoryError, OverflowError) as e:
        return {"error": {"line": 1, "offset": 0, "text": "", "message": "too deeply nested or too large to parse"}}


def main():
    warnings.simplefilter("ignore")
    limit_memory()
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    for request in iter(requests.readline, b""):
        limit_time()
        answer = analyse(json.loads(request))
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


main()

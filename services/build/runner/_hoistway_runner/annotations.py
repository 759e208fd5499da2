"""The meaning of parameters' names and annotations, without `typing`: agents that use it have loaded it."""

import sys

TEXT_NAMES = frozenset(("message", "msg", "text", "query", "prompt", "input", "user_input", "question"))
WORDS = {"str": str, "int": int, "float": float, "bool": bool, "dict": dict, "list": list, "Any": object}
PLAIN = (str, int, float, bool)


def resolved(note, scope, unknown):
    """Returns an annotation as an object, where it is text or contains text; `unknown` if it refers to a missing name,
    such as one imported for type checkers alone."""
    inner = getattr(note, "__args__", None)
    if type(note) is not str and not (isinstance(inner, tuple) and any(
            type(part) is str or type(part).__name__ == "ForwardRef" for part in inner)):
        return note
    if type(note) is str and note in WORDS:
        return WORDS[note]
    import typing

    holder = lambda: None
    holder.__annotations__ = {"x": note}
    try:
        return typing.get_type_hints(holder, globalns={**vars(typing), **scope}, include_extras=True)["x"]
    except Exception:
        return unknown


def parts_of(note):
    """Returns (kind, parts) of an annotation: a class, "union" (without None), or "literal"."""
    while True:  # Annotated, NewType, and Python's `type X = ...`
        for inner in ("__metadata__", "__supertype__", "__value__"):
            if hasattr(note, inner) and not isinstance(note, type):
                note = note.__origin__ if inner == "__metadata__" else getattr(note, inner)
                break
        else:
            break
    name, origin, parts = type(note).__name__, getattr(note, "__origin__", None), getattr(note, "__args__", ())
    if name in ("UnionType", "_UnionGenericAlias", "Union") or str(origin) == "typing.Union":
        return "union", tuple(part for part in parts if part is not type(None))
    if name == "_LiteralGenericAlias":
        return "literal", parts
    return origin or note, parts


def any_of(note, check):
    """Whether an annotation, or one of its union, satisfies `check`."""
    kind, parts = parts_of(note)
    return any(any_of(part, check) for part in parts) if kind == "union" else check(kind)


def is_text(note):
    """Whether it accepts text: str, Optional[str], str | dict, Annotated[str, ...]."""
    return any_of(note, lambda kind: kind is str)


def is_plain(note):
    """Whether it accepts text, a number or a truth value."""
    return any_of(note, lambda kind: kind in PLAIN or kind == "literal")


def is_request(note):
    """Whether it accepts any object: dict, Mapping, Any, a TypedDict."""
    return any_of(note, lambda kind: kind is object or isinstance(kind, type) and issubclass(kind, dict) or getattr(
        kind, "__name__", getattr(kind, "_name", "")) in ("Any", "Mapping", "MutableMapping"))


def is_any(note):
    """Whether it accepts any value: Any, object."""
    return any_of(note, lambda kind: kind is object or getattr(kind, "__name__", getattr(kind, "_name", "")) == "Any")


def is_model_class(kind):
    """Whether a class is built from an object: a model of pydantic, a dataclass."""
    return isinstance(kind, type) and any(
        hasattr(kind, mark) for mark in ("__dataclass_fields__", "model_validate", "parse_obj"))


def is_model(note):
    """Whether it accepts a class that is built from an object."""
    return any_of(note, is_model_class)


def is_foreign(note):
    """Whether it is a class of a package that cannot be a member of a request, such as the SDK's context."""
    kind, _ = parts_of(note)
    return isinstance(kind, type) and not is_model_class(kind) and not issubclass(kind, dict) and (
        kind.__module__.partition(".")[0] not in sys.stdlib_module_names) and "enum" not in {
        base.__module__ for base in kind.__mro__}

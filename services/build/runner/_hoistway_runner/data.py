"""An agent's result as data: JSON's types and nothing else. Other values are refused with their place and type:
Python's text of an object (`<Ticket object at 0x…>`) is useless as an answer."""

import math
import sys

from .errors import Explained

SCALARS = frozenset((str, int, bool, type(None)))
MOST_ITEMS = 1_000_000  # of iterables that are read on demand, and may be endless
LISTS = (list, tuple, set, frozenset, range, type({}.keys()), type({}.values()), type({}.items()))
TEXTS = frozenset((("decimal", "Decimal"), ("uuid", "UUID"), ("pathlib", "PurePath"), ("collections", "UserString")))


class Refused(Explained):
    """A value that is not data."""

    def __init__(self, path, what, *details):
        super().__init__(f"{what}, at {path or 'the answer'}", *details)


def as_data(value, path="response"):
    """Returns a value as JSON has it. `path` is its name in a refusal; without a path, members have their own names
    alone."""
    try:
        return data(value, path, ())
    except RecursionError:
        raise Refused(path, "the result is nested too deeply", "return less deeply nested data") from None


def data(value, path, above):
    """Converts a value below other values, `above`, which it must not contain again."""
    kind = type(value)
    if kind in SCALARS:
        return value
    if kind is float:
        return value if math.isfinite(value) else None
    if id(value) in above:
        raise Refused(path, "the result contains itself", "return data that ends")
    above = (*above, id(value))
    if kind is list or kind is tuple:
        kinds = set(map(type, value))
        if kinds <= SCALARS or kinds == {float} and math.isfinite(sum(value)):  # the usual case of large ones
            return list(value)
        return [data(item, f"{path}[{i}]", above) for i, item in enumerate(value)]
    if kind is dict:
        return members(value.items(), path, above)
    return other(value, kind, path, above)


def members(items, path, above):
    """Converts pairs to an object."""
    out = {}
    for key, item in items:
        text = key if type(key) is str else key_text(key, path, above)
        if text in out:
            raise Refused(path, f"there are two keys {text!r}, of two types", "make one of them another text")
        out[text] = item if type(item) in SCALARS else data(item, member(path, text), above)
    return out


def member(path, key):
    """Returns the path of a member in Python's notation."""
    return f"{path}[{key!r}]" if path and not key.isidentifier() else f"{path}.{key}".lstrip(".")


def key_text(key, path, above):
    """Returns the key of a dict as JSON has it: text."""
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    if type(key) in (int, float):
        return repr(key)
    if type(key) is tuple and all(type(part) in SCALARS for part in key):
        return str(key)
    try:
        value = data(key, path, above)
    except Refused:
        value = []
    if isinstance(value, (dict, list)):
        raise Refused(path, f"the type {kind_name(type(key))} is no key of data", "use texts or numbers as keys")
    return value if isinstance(value, str) else key_text(value, path, above)


def of(kind, package):
    """Whether a type, or one of its bases, belongs to a package."""
    return any(base.__module__.partition(".")[0] == package for base in kind.__mro__)


def other(value, kind, path, above):
    """Converts a value of none of JSON's own types. Packages are recognized by name: importing them here would slow
    every start."""
    if isinstance(value, type):
        raise Refused(path, f"the class {kind_name(value)} is no data", "return an object of it, as a dict")
    if kind.__module__ == "unittest.mock":  # a mock has every method and no value
        raise refused(value, path)
    enum = sys.modules.get("enum")
    if enum and isinstance(value, enum.Enum):
        return data(value.value, path, above)
    for base, plain in ((str, str.__str__), (int, int.__int__), (float, float.__float__)):
        if isinstance(value, base):
            return data(plain(value), path, above)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return text_of(bytes(value))
    if callable(getattr(kind, "model_dump", None)) or of(kind, "pydantic") and callable(getattr(kind, "json", None)):
        return model(value, path, above)
    for package in ("numpy", "pandas", "polars", "pyarrow"):
        if package in sys.modules and of(kind, package):
            from .tables import plain_table

            plain = plain_table(value, kind, package, path)
            if plain is NotImplemented:
                raise refused(value, path)
            return data(plain, path, above)
    for method in ("to_dict", "_asdict"):
        if callable(getattr(kind, method, None)):
            return data(getattr(value, method)(), path, above)
    if hasattr(kind, "__dataclass_fields__"):
        names = [name for name, field in kind.__dataclass_fields__.items() if field._field_type.name == "_FIELD"]
        return members(((name, getattr(value, name)) for name in names), path, above)
    if all(hasattr(kind, method) for method in ("keys", "items", "__getitem__")):
        return members(value.items(), path, above)
    if of(kind, "datetime"):
        if hasattr(kind, "total_seconds"):
            return value.total_seconds()
        if hasattr(kind, "isoformat"):
            return value.isoformat()
    if any((base.__module__.partition(".")[0], base.__name__) in TEXTS for base in kind.__mro__):
        return str(value)
    iterable = hasattr(kind, "__iter__") and (of(kind, "collections") or of(kind, "array"))  # deque and its derived types
    if isinstance(value, LISTS) or iterable or hasattr(kind, "__next__") and not hasattr(kind, "readline"):  # unlike files
        return listed(value, path, above)
    if callable(getattr(kind, "tolist", None)) and hasattr(kind, "__array__"):  # arrays of other packages
        return data(value.tolist(), path, above)
    if of(kind, "pydantic") or of(kind, "pydantic_core"):  # its addresses and secrets, as its own JSON has them
        return str(value)
    raise refused(value, path)


def listed(items, path, above):
    """Converts the items of an iterable."""
    out = []
    for i, item in enumerate(items):
        if i == MOST_ITEMS:
            raise Refused(path, f"there are more than {MOST_ITEMS:,} items", "return a part of it, or yield it piece by piece")
        out.append(data(item, f"{path}[{i}]", above))
    return out


def model(value, path, above):
    """Converts a model of pydantic, of either generation."""
    if not hasattr(value, "model_dump"):
        import json

        return data(json.loads(value.json()), path, above)
    try:
        plain = value.model_dump(mode="json")
    except ValueError:  # of pydantic, or of Python for bytes: the conversion below names the member
        plain = value.model_dump()
    return data(plain, path, above)


def text_of(raw):
    """Returns bytes as text, or in an encoding that JSON can represent."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        import base64

        return {"base64": base64.b64encode(raw).decode()}


def kind_name(kind):
    """Returns a type's name as its author wrote it."""
    return kind.__qualname__.rpartition("<locals>.")[2]


def refused(value, path):
    """Returns the refusal of a value of an unknown type."""
    name = kind_name(type(value))
    own = "" if type(value).__module__ in sys.stdlib_module_names else f", or give {name} a method to_dict()"
    return Refused(path, f"the type {name} is no data", f"return a dict, a list, text or numbers{own}")

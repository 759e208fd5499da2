"""Members of a request converted to their annotations, or refused by name."""

import json
import sys

from .annotations import is_model_class, parts_of, resolved
from .errors import Unfit

WORDS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
LISTS = (list, tuple, set, frozenset)
MAPPINGS, SETS = ("Mapping", "MutableMapping"), ("Set", "MutableSet")
SEQUENCES = ("Sequence", "MutableSequence", "Iterable", "Collection")


def fitted(value, note, name):
    """Converts a member of a request to its annotation. The request itself has no name."""
    kind, parts = parts_of(note)
    if kind == "union":
        return first_that_fits(value, parts, name)
    if kind == "literal":
        for choice in parts:
            if value == choice or isinstance(value, str) and value == str(choice):
                return choice
        raise unfit(value, name, "one of " + ", ".join(map(told, parts)))
    if not isinstance(kind, type) or kind is object:
        return value
    if is_model_class(kind):
        return built(value, kind, name)
    if kind is bool:
        if isinstance(value, bool):
            return value
        text = str(value).strip().lower()
        if text not in WORDS:
            raise unfit(value, name, "true or false")
        return WORDS[text]
    if kind in (int, float):
        return number(value, kind, name)
    if kind is str:
        return value if isinstance(value, str) else wrong(value, name, "a string")
    if issubclass(kind, dict) or is_abstract(kind, MAPPINGS):
        return mapped(value, parts, name)
    if kind in LISTS:
        return listed(value, kind, parts, name)
    if is_abstract(kind, SEQUENCES):
        return listed(value, list, parts, name)
    if is_abstract(kind, SETS):
        return listed(value, set, parts, name)
    enum = sys.modules.get("enum")
    if enum and issubclass(kind, enum.Enum):
        try:
            return kind(value)
        except ValueError:
            for member in kind if isinstance(value, str) else ():  # of numbers, as text
                if value == str(member.value):
                    return member
            raise unfit(value, name, "one of " + ", ".join(told(member.value) for member in kind)) from None
    if found := standard(kind):
        make, wanted = found
        try:
            return value if isinstance(value, kind) else make(value)
        except (ValueError, TypeError, ArithmeticError):  # decimal's are of the last kind
            raise unfit(value, name, wanted) from None
    return value  # of unknown classes


def is_abstract(kind, names):
    """Whether it is one of these abstract classes, by which annotations denote lists and objects."""
    return kind.__module__ == "collections.abc" and kind.__name__ in names


def standard(kind):
    """Returns the conversion from JSON for a class of the standard library, and the name of its values; None for
    others."""
    module = kind.__module__.partition(".")[0]
    if module == "datetime" and hasattr(kind, "fromisoformat"):
        return kind.fromisoformat, f"a {kind.__name__} in ISO 8601"
    if module == "datetime" and kind.__name__ == "timedelta":
        return (lambda value: kind(seconds=float(value))), "a number of seconds"
    if module == "pathlib":
        return kind, "a path"
    if module in ("uuid", "decimal") and kind.__name__ in ("UUID", "Decimal"):
        return (lambda value: kind(str(value))), "a UUID" if module == "uuid" else "a number"
    return None


def told(value):
    """Returns a value as the caller has sent it, abbreviated."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) < 60 else text[:60] + "…"


def unfit(value, name, wanted):
    return Unfit(f"{name or 'the request'} must be {wanted}, not {told(value)}")


def wrong(value, name, wanted):
    raise unfit(value, name, wanted)


def first_that_fits(value, kinds, name):
    """Converts a member to a union: to its own kind, or else to the first kind that fits."""
    if value is None:
        return None
    for kind in kinds:
        if type(value) is parts_of(kind)[0] and type(value) not in (list, dict):
            return value
    for kind in kinds[:-1]:
        try:
            return fitted(value, kind, name)
        except Unfit:
            pass
    return fitted(value, kinds[-1], name)


def number(value, kind, name):
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)) or (
                kind is int and isinstance(value, float) and value != int(value)):
            raise ValueError
        return kind(value)
    except (ValueError, OverflowError):
        raise unfit(value, name, "an integer" if kind is int else "a number") from None


def listed(value, kind, parts, name):
    if not isinstance(value, list):
        raise unfit(value, name, "a list")
    if kind is tuple and parts and parts[-1] is not ... and len(parts) != len(value):
        raise unfit(value, name, f"a list of {len(parts)}")
    if kind is not tuple or len(parts) == 2 and parts[1] is ...:
        parts = parts[:1] * len(value)
    if parts:
        value = [fitted(item, note, f"{name}[{i}]") for i, (item, note) in enumerate(zip(value, parts))]
    try:
        return kind(value)
    except TypeError:  # a set of unhashable items
        raise unfit(value, name, "a list of texts or numbers") from None


def mapped(value, parts, name):
    """Converts an object, whose members are of one kind if the annotation declares it."""
    if not isinstance(value, dict):
        raise unfit(value, name, "an object")
    if len(parts) != 2:
        return value
    place = lambda key: f"{name}.{key}" if name else key
    return {fitted(key, parts[0], place(key)): fitted(item, parts[1], place(key)) for key, item in value.items()}


def members_of(note, sent):
    """Returns the members of a request that a model takes."""
    kind, parts = parts_of(note)
    if kind == "union":
        return set().union(*(members_of(part, sent) for part in parts))
    fields = getattr(kind, "model_fields", None) or getattr(kind, "__fields__", None)
    if fields is None:
        return set(getattr(kind, "__dataclass_fields__", ()))
    if getattr(kind, "__pydantic_root_model__", False):
        return set(sent)
    known = set(fields)
    for field in fields.values():
        for alias in (getattr(field, "alias", None), getattr(field, "validation_alias", None)):
            known |= {alias} if isinstance(alias, str) else set() if alias is None else set(sent)  # choices and paths
    return known


def built(value, kind, name):
    """Builds a model of pydantic or a dataclass from an object. From the request itself it takes only known members,
    since the request also has the platform's."""
    if not isinstance(value, dict) and not getattr(kind, "__pydantic_root_model__", False):
        raise unfit(value, name, "an object")
    if not name:
        known = members_of(kind, value)
        value = {key: item for key, item in value.items() if key in known}
    try:
        if hasattr(kind, "model_validate"):
            return kind.model_validate(value)
        if hasattr(kind, "parse_obj"):
            return kind.parse_obj(value)
        return kind(**value) if hasattr(kind, "__pydantic_validator__") else kind(**fields_of(value, kind, name))
    except ValueError as error:
        if isinstance(error, Unfit):
            raise
        if not callable(getattr(error, "errors", None)):  # of a dataclass that validates itself
            raise Unfit(f"{name or 'the request'}: {error}") from None
        first = error.errors()[0]
        place = ".".join([*([name] if name else []), *map(str, first["loc"])]) or name or "the request"
        raise Unfit(f"{place}: {first['msg']}") from None


def fields_of(value, kind, name):
    """Converts the fields of a dataclass, by name."""
    scope = vars(sys.modules.get(kind.__module__, sys))
    out = {}
    for key, field in kind.__dataclass_fields__.items():
        if not field.init or field._field_type.name == "_FIELD_CLASSVAR":
            continue
        place = f"{name}.{key}" if name else key
        missing = type(field.default).__name__ == type(field.default_factory).__name__ == "_MISSING_TYPE"
        if value.get(key) is not None or key in value and missing:
            out[key] = fitted(value[key], resolved(field.type, scope, object), place)
        elif missing:
            raise Unfit(f"{place} is required")
    return out

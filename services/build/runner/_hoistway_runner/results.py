"""An agent's result, returned or yielded, as the answer to its caller."""

import json
import re  # already imported by json
import sys
from codecs import getincrementaldecoder

from .errors import Explained

LISTS = (map, filter, zip, enumerate, reversed, type(reversed([])))  # their texts are items, not pieces of one text
DECODER = getincrementaldecoder("utf-8")


def resolve(result):
    """Returns a result, awaited if necessary."""
    if not hasattr(result, "__await__"):
        return result
    from .loop import LOOP

    return LOOP.wait(result)


def is_chunks(result):
    """Whether a result is produced piece by piece: a generator, an async generator or another iterator."""
    is_iterator = hasattr(result, "__anext__") or hasattr(result, "__next__") and not hasattr(type(result), "readline")  # unlike files
    return is_iterator and type(result).__module__ != "unittest.mock"  # a mock has every method


def pieces(result, stream=True):
    """Yields the items of an iterator of either kind: texts, and all others as data. In a `stream` all texts are pieces
    of one."""
    is_list = not stream and type(result) in LISTS
    chunks, decoder, count = result, None, 0
    if hasattr(result, "__anext__"):
        from .loop import LOOP

        chunks = LOOP.iterate(result)
    try:
        for chunk in chunks:
            if is_list and (chunk is None or type(chunk) is str):
                chunk = Data(chunk)
            elif isinstance(chunk, (bytes, bytearray, memoryview)):  # a character may be split across two of them
                decoder = decoder or DECODER("replace")
                chunk = decoder.decode(bytes(chunk))
            elif chunk is not None:
                if decoder and (rest := decoder.decode(b"", True)):
                    yield rest
                chunk = chunk_text(chunk)
            if isinstance(chunk, str):
                if chunk:
                    yield str.__str__(chunk)  # of an Enum its value
            elif isinstance(chunk, Data):
                yield chunk
            elif chunk is not None:
                yield Data(plain(chunk, f"response[{count}]"))
            count += 1
        if decoder and (rest := decoder.decode(b"", True)):
            yield rest
    finally:
        if hasattr(chunks, "close"):  # a generator stops when its reader is gone
            chunks.close()


class Data:
    """A piece of an answer that is not text."""

    def __init__(self, value):
        self.value = value


def chunk_text(chunk):
    """Returns the text of a language model's message chunk, or of its content blocks; other chunks unchanged."""
    kind = type(chunk)
    content = getattr(chunk, "content", None)
    if not isinstance(content, (str, list)) or not kind.__module__.startswith("langchain_core.messages") and any(
            hasattr(kind, mark) for mark in ("model_dump", "__dataclass_fields__", "to_dict", "_asdict")):
        return chunk
    if isinstance(content, str):
        return content
    return "".join(block if isinstance(block, str) else str(block.get("text", "")) for block in content)


def whole(result):
    """Returns the pieces of an iterator as one response: text, or a list if there are other items."""
    texts, items = [], []
    for piece in pieces(result, stream=False):
        if isinstance(piece, str):
            texts.append(piece)
        else:
            items += ["".join(texts)] * bool(texts) + [piece.value]
            texts = []
    if not items:
        return "".join(texts) if texts or type(result) not in LISTS else []
    return items + ["".join(texts)] * bool(texts)


def as_text(value):
    """Returns a value as text for a stream."""
    return value if type(value) is str else "" if value is None else to_json(plain(value))


def plain(value, path="response"):
    """Returns a value as data; `path` is its name in an error."""
    if value is None or type(value) is str:
        return value
    from .data import as_data

    return as_data(value, path)


def answer_of(result):
    """Returns a handler's result as the answering object: at least `response`, of any JSON type; all members are
    kept."""
    # Messages are models of pydantic, but only their text is the answer; some texts have a class of this package, too.
    if type(result).__module__.startswith("langchain_core.messages") and not isinstance(result, str):
        result = result.content
    value = plain(result, "" if isinstance(result, dict) and "response" in result else "response")
    if not isinstance(value, dict):
        return {"response": value}
    return value if "response" in value else {**value, "response": value.get("output", value)}


# In JSON's ASCII: an escaped backslash, a whole pair, and in a group of its own a lone surrogate.
SURROGATES = re.compile(r"\\\\|\\ud[89ab]..\\ud[c-f]..|(\\ud[89a-f]..)")


def to_json(value):
    """Returns the JSON of data. A lone surrogate, which strict parsers refuse, becomes U+FFFD."""
    try:
        text = json.dumps(value, allow_nan=False)
    except ValueError:
        raise Explained(f"the result has an integer of more than {sys.get_int_max_str_digits()} digits", "return it as text") from None
    if "\\ud" not in text:
        return text
    return SURROGATES.sub(lambda found: r"\ufffd" if found[1] else found[0], text)


class Pieces:
    """A web application's answer: its header `fields`, and its body as bytes in `raw`, as text when it is iterated."""

    def __init__(self, status, fields, raw):
        self.status, self.fields, self.raw = status, fields, raw
        kind, _, self.parameters = dict(fields).get("content-type", "").lower().partition(";")
        self.kind = kind.strip()
        self.events = self.kind == "text/event-stream"
        self._text = None

    def __iter__(self):
        return self

    def __next__(self):
        if self._text is None:
            import codecs

            self._text = codecs.iterdecode(self.raw, self.charset(codecs), "replace")
        return next(self._text)

    def charset(self, codecs):
        """Returns the encoding of its text from its content type."""
        name = self.parameters.partition("charset=")[2].partition(";")[0].strip(' "')
        try:
            return codecs.lookup(name).name if name and codecs.lookup(name)._is_text_encoding else "utf-8"
        except (LookupError, ValueError):
            return "utf-8"

    def close(self):
        self.raw.close()

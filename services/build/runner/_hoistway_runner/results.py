"""What an agent returned or yields, as the answer to its caller."""

import json
import re  # which json has imported


def resolve(result):
    """A result, awaited if it has to be."""
    if not hasattr(result, "__await__"):
        return result
    from .loop import LOOP

    return LOOP.wait(result)


def is_chunks(result):
    """Whether a result comes piece by piece: a generator, an async generator or another iterator."""
    return hasattr(result, "__anext__") or hasattr(result, "__next__")


def text_chunks(result):
    """The texts that an iterator of either kind gives."""
    chunks = result
    if hasattr(result, "__anext__"):
        from .loop import LOOP

        chunks = LOOP.iterate(result)
    try:
        for chunk in chunks:
            content = getattr(chunk, "content", chunk)  # a language model's message chunk
            if isinstance(content, bytes):
                content = content.decode("utf-8", "replace")
            elif isinstance(content, list) and content is not chunk:  # its content blocks
                content = "".join(b if isinstance(b, str) else str(b.get("text", "")) for b in content)
            if content := as_text(content):
                yield content
    finally:
        if hasattr(chunks, "close"):  # a generator stops when nobody listens any more
            chunks.close()


def as_text(value):
    """A value as text for a stream."""
    return value if type(value) is str else "" if value is None else to_json(plain(value))


def plain(value, path="response"):
    """A value as data; `path` is what an error calls it."""
    if value is None or type(value) is str:
        return value
    from .data import as_data

    return as_data(value, path)


def answer_of(result):
    """What a handler returned as the object that answers: at least `response`, of any JSON type; all members are kept."""
    if type(result).__module__.startswith("langchain_core.messages"):  # a model of pydantic, but meant as its text
        result = result.content
    value = plain(result, "" if isinstance(result, dict) and "response" in result else "response")
    if not isinstance(value, dict):
        return {"response": value}
    return value if "response" in value else {**value, "response": value.get("output", value)}


# In JSON's ASCII: an escaped backslash, a whole pair, and in a group of its own what is neither.
SURROGATES = re.compile(r"\\\\|\\ud[89ab]..\\ud[c-f]..|(\\ud[89a-f]..)")


def to_json(value):
    """JSON of data. Half a surrogate pair, which strict parsers refuse, is U+FFFD."""
    text = json.dumps(value, allow_nan=False)
    if "\\ud" not in text:
        return text
    return SURROGATES.sub(lambda found: r"\ufffd" if found[1] else found[0], text)


class Pieces:
    """The body of a web application's answer: as bytes in `raw`, as text when it is iterated."""

    def __init__(self, status, kind, raw):
        self.status, self.kind, self.raw = status, kind.partition(";")[0].strip().lower(), raw
        self.events = self.kind == "text/event-stream"
        self._text = None

    def __iter__(self):
        return self

    def __next__(self):
        if self._text is None:
            import codecs

            self._text = codecs.iterdecode(self.raw, "utf-8", "replace")
        return next(self._text)

    def close(self):
        self.raw.close()

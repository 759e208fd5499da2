"""Errors in answers and logs, without secrets and without frames of the runner."""

import json
import os
import sys

DETAIL_LINES = 20
HERE = os.path.dirname(__file__) + os.sep  # the files of the runner


class Explained(Exception):
    """A failure with an explanation of the runner instead of a traceback; `details` are further lines, the remedy
    last."""

    def __init__(self, headline, *details):
        super().__init__(headline)
        self.details = details


class StartError(Explained):
    """The agent cannot be started; `code` is the platform's specific error code, if there is one."""

    code = ""


class StartTimeout(StartError):
    """The agent is not ready within its time limit."""

    code = "start_timeout"


class Unfit(ValueError):
    """The request does not fit the agent: the text begins with a member's name; `details` describe the expected
    request."""

    def __init__(self, headline, *details):
        super().__init__(headline)
        self.details = details


class NothingToInvoke(StartError):
    """The entry file has nothing that can be invoked."""

    code = "nothing_to_invoke"


class ScriptError(Exception):
    """A script's run failed; `details` are the last lines that it wrote to stderr."""

    def __init__(self, headline, details):
        super().__init__(headline)
        self.details = details


class AppError(ScriptError):
    """A web application answered with an error; `details` are the last lines of its answer."""


class Mask:
    """Replaces secret values in texts of errors, also in the escaped forms in which an exception may contain them.

    Of a secret `:password@` only the part between these two characters is replaced: it is part of a URL, which stays
    readable. `places` maps directories of this machine to their paths in the image: real paths are useless to the
    reader. `closed_network` is the supervisor's network setting, for remedies.
    """

    places, closed_network = [], False

    def __init__(self, secrets=()):
        whole = {part for s in secrets for part in (s, s.strip()) if len(part) >= 4 or self.is_in_url(part)}
        keys = [s.replace("\\n", "\n") for s in secrets if "-----BEGIN " in s]  # line ends may be written as `\n`
        texts = whole.union(line for s in (*secrets, *keys) for line in map(str.strip, s.splitlines()) if self.hides(line))
        forms = {form for s in texts for form in self.forms(s)}
        self._forms = sorted(forms, key=len, reverse=True)  # longer ones first: a secret may contain another one

    @staticmethod
    def forms(text):
        """Returns a text unchanged, as Python and JSON escape it, as it is encoded for a URL or within one, and as
        HTML."""
        data = text.encode("utf-8", "surrogateescape")
        in_json = [json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]]
        in_url = ["".join(chr(byte) if byte < 128 and chr(byte).isalnum() or byte in kept else f"%{byte:02X}" for byte in data)
                  for kept in (b"-_.~", b"-_.~/", b"-_.~!'()*", b"-_.~!$&'()*+,/:;=?@", b"-_.~!$&'()*+,/:;=?@%",
                               b"-_.~!$&'()*+,/:;=?@%#[]")]
        in_html = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        quotes = ("&quot;", "&#x27;"), ("&#34;", "&#39;")  # of html.escape, and of Jinja
        in_page = [in_html, *(in_html.replace('"', double).replace("'", single) for double, single in quotes)]
        return {text, repr(text)[1:-1], ascii(text)[1:-1], repr(data)[2:-1], *in_page, *in_json,
                *(json.dumps(form)[1:-1] for form in in_json), *in_url, *(form.replace("%20", "+") for form in in_url)}

    @staticmethod
    def hides(text):
        """Whether a line is worth hiding: not a short one, nor a short plain word or number ("true", "info",
        "8080")."""
        plain = text.isascii() and (text.isdigit() or text.isalpha() and text.islower())
        return len(text) >= (6 if plain else 4)

    @staticmethod
    def is_in_url(text):
        return len(text) >= 3 and text[0] == ":" and text[-1] == "@"

    def __call__(self, text):
        text = text.encode("utf-8", "backslashreplace").decode()  # JSON cannot represent a lone surrogate
        for form in self._forms:
            edge = 1 if self.is_in_url(form) else 0
            text = text.replace(form, form[:edge] + "********" + form[len(form) - edge:])
        for here, name in self.places:
            text = text.replace(here, name)
        return text


def headline(error):
    """Returns `Type: text`, as in the last line of a traceback; of a long text all lines, within a limit."""
    module, name = type(error).__module__, type(error).__qualname__
    if module not in ("builtins", "__main__"):
        name = f"{module}.{name}"
    try:
        text = str(error)
    except Exception:
        text = "<exception str() failed>"
    return (f"{name}: {text}" if text else name)[:2000]


def user_traceback(error):
    """Returns the formatted traceback from the agent's own first frame, without the runner's frames below it."""
    import traceback

    frames, importing = error.__traceback__, getattr(sys.modules.get("importlib"), "__file__", None)
    while frames and ((name := frames.tb_frame.f_code.co_filename).startswith((HERE, "<frozen importlib"))
                      or name == importing):
        frames = frames.tb_next
    shown = traceback.TracebackException(type(error), error, frames, compact=True)
    todo, seen = [shown], set()
    while todo:
        part = todo.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        part.stack[:] = [frame for frame in part.stack if not frame.filename.startswith(HERE)]
        todo += [part.__cause__, part.__context__, *(getattr(part, "exceptions", None) or ())]
    return "".join(shown.format())


def report(error, mask, request=None):
    """Writes the traceback to stderr, the source of the logs, and returns the headline and its last lines. For a failed
    invoke, a first line contains the request's id, which relates it to the caller's answer."""
    told = ""
    if request:
        request_id = ascii(request["request_id"]).strip("'\"")[:128]  # the body may contain any characters
        told = mask(f"request {request_id} failed\n")
    if isinstance(error, ScriptError):  # its own output is in the logs already
        print(told, end="", file=sys.__stderr__, flush=True)
        return mask(str(error)), [mask(line) for line in error.details]
    if isinstance(error, Explained):
        lines = [mask(line) for line in (str(error), *error.details)]
        print(told + "\n".join(lines), file=sys.__stderr__, flush=True)
        return lines[0], lines[1:]
    text, advice = mask(headline(error)) + "\n", None
    try:
        text = mask(user_traceback(error))
        from .remedies import remedy

        advice = remedy(error)
        advice = advice and mask(advice)
    except Exception:  # no descriptor is left to load modules with, or an object of the agent's cannot be inspected
        pass
    lines = text.splitlines()[-DETAIL_LINES:] + [advice] * bool(advice)
    print(told + text, end=f"{advice}\n" if advice else "", file=sys.__stderr__, flush=True)
    return mask(headline(error)), lines


def flush_output():
    """Flushes output without a newline; Python itself does that with the next newline."""
    for stream in filter(None, (sys.__stdout__, sys.__stderr__)):
        try:
            stream.flush()
        except (OSError, ValueError):  # the agent's code has closed it
            pass


def leave(why):
    """Ends a process that can no longer answer, so that its supervisor starts another one."""
    try:
        print(f"the agent cannot go on: {why}", file=sys.__stderr__, flush=True)
        sys.__stdout__.flush()
    finally:  # at once: threads of the agent may never end
        os._exit(1)

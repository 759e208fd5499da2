"""The arguments of a function call, and requests that do not fit."""

import sys
import textwrap
import types
import unittest
from datetime import date, timedelta
from decimal import Decimal
from uuid import UUID
from importlib.util import find_spec

from _hoistway_runner.arguments import FunctionAgent, Request, RunContext
from _hoistway_runner.errors import Unfit
from test_runner import source


def function(code):
    """Returns the handler of a module."""
    module = types.ModuleType("agent")
    sys.modules["agent"] = module  # dataclasses and typing look up a class's module there
    exec(compile(textwrap.dedent(code), "agent.py", "exec", dont_inherit=True), vars(module))
    return module.handler


def call(handler, **sent):
    """Returns its answer to a request, with a context as its name."""
    seen = {**sent, "history": sent.get("history") or [], "request_id": "r1"}
    shown = lambda value: "context" if isinstance(value, RunContext) else value
    answer = FunctionAgent(handler).prepare(Request("/invoke", {}, b"", sent, seen))()
    return [shown(value) for value in answer] if isinstance(answer, list) else shown(answer)


class Arguments(unittest.TestCase):
    def gives(self, code, want, **sent):
        with self.subTest(code, **sent):
            self.assertEqual(call(function(code), **sent), want)

    def unfit(self, code, text, **sent):
        with self.subTest(code, **sent):
            with self.assertRaises(Unfit) as refusal:
                call(function(code), **sent)
            self.assertEqual(str(refusal.exception), text)

    def test_the_first_parameter_gets_the_message(self):
        for first in ("message", "msg", "text", "query", "prompt", "input", "user_input", "question", "m: str", "m: 'str'", "m: str | None",
                      "m: Optional[str] = None", "m: Annotated[str, 'x']", "m: Annotated[Optional[str], 'x']", "m: 'Optional[str]'",
                      "m: Name", "m: str | dict", "message='default'", "*, message"):
            name = first.split(":")[0].split("=")[0].strip("*, ")
            for future in ("", "from __future__ import annotations\n"):
                self.gives(f"{future}from typing import *\nName = NewType('Name', str)\ndef handler({first}): return {name}", "hi", message="hi")
        self.gives("def handler(message='default'): return message", "default")
        self.gives("def handler(question): return question", "q", question="q")
        self.gives("def handler(topic: str = 'AI'): return topic", "tea", topic="tea")
        for sent in ({}, {"message": ""}, {"message": None}, {"message": " \n"}, {"city": "Oslo"}):
            self.unfit("def handler(message): return message", "message is required", **sent)
        self.unfit("def handler(message='x'): return message", "message must be a string", message=5)

    def test_the_first_parameter_gets_the_request(self):
        for first in ("payload", "m", "message: dict", "m: 'dict'", "m: Any", "m: Mapping", "m: dict[str, Any]", "m: Optional[dict]", "m: Shape",
                      "m: object", "m: Nobody"):
            code = f"from __future__ import annotations\nfrom typing import *\nclass Shape(TypedDict): message: str\ndef handler({first}): " \
                   f"return sorted({first.split(':')[0]})"
            self.gives(code, ["history", "message", "request_id"], message="hi")
            self.gives(code, ["history", "prompt", "request_id"], prompt="hi")
            self.unfit(code, "message is required")
            self.unfit(code, "message is required", message="")
        self.gives("def handler(*both): return both[0]['message']", "hi", message="hi")
        self.gives("def handler(m: dict = None): return m['history']", [])

    def test_what_needs_nothing_gets_nothing(self):
        self.gives("def handler(): return 'ran'", "ran")
        self.gives("def handler(): return 'ran'", "ran", message=5)
        self.gives("def handler(topic='AI', words=3): return [topic, words]", ["AI", 3], message="hi")
        self.gives("def handler(topic='AI', words=3): return [topic, words]", ["tea", 5], topic="tea", words=5)

    def test_a_second_parameter_gets_the_context(self):
        self.gives("def handler(request, ctx): return [request['message'], ctx]", ["hi", "context"], message="hi")
        self.gives("def handler(message, *rest): return list(rest)", ["context"], message="hi")
        self.gives("class Ctx: pass\ndef handler(message, ctx: Ctx): return [ctx]", ["context"], message="hi")
        self.gives("def handler(message, limit=10, context=None): return [limit, context]", [10, "context"], message="hi")
        self.gives("def handler(message, *, context): return [context]", ["context"], message="hi")
        self.gives("def handler(message, request: dict): return [request['city']]", ["Oslo"], message="hi", city="Oslo")
        self.gives("def handler(*, city, days=1): return [city, days]", ["Oslo", 1], city="Oslo")
        self.gives("def handler(history, message): return [history, message]", [[1], "hi"], message="hi", history=[1])
        self.gives("def handler(message, context: dict): return [context]", [{"a": 1}], message="hi", context={"a": 1})
        self.gives("def handler(message, context: list = ()): return [context]", [[2]], message="hi", context=[2])
        self.gives("def handler(message, context: list = None): return [context]", [None], message="hi")
        self.gives("def handler(message, context: dict): return [context]", ["context"], message="hi")

    def test_others_are_filled_by_meaning_and_by_name(self):
        self.gives("def handler(message, history, context, request): return [history, context, request['city']]",
                   [[1], "context", "Oslo"], message="hi", history=[1], city="Oslo")
        self.gives("def handler(message: str, history: list): return history", [], message="hi")
        self.gives("def handler(message, request_id='none', session_id=None): return [request_id, session_id]", ["r1", "s"], message="hi", session_id="s")
        self.gives("def handler(message, context: str = ''): return context", "given", message="hi", context="given")
        code = "def handler(message: str, temperature: float = 0.2, words: int = 5, loud: bool = False): return [temperature, words, loud]"
        self.gives(code, [0.2, 5, False], message="hi")
        self.gives(code, [0.5, 2, True], message="hi", temperature="0.5", words="2", loud="yes")
        self.gives(code, [1.0, 2, False], message="hi", temperature=1, words=2.0, loud=0)
        self.gives(code, [0.2, 5, False], message="hi", temperature=None, words=None)
        self.gives("def handler(message, /, n=1, *, k=2): return [message, n, k]", ["hi", 3, 5], message="hi", n=3, k=5)
        self.gives("def handler(a=1, b=2, /): return [a, b]", [1, 3], b=3)
        self.gives("def handler(message, n, k): return n if n == 'x' else k", 2, message="hi", k=2)
        self.gives("def handler(message: str, n: int | None): return [n]", [None], message="hi", n=None)

    def test_what_is_left_goes_to_keywords(self):
        self.gives("def handler(message: str, **rest): return rest", {"city": "Oslo"}, message="hi", city="Oslo")
        self.gives("def handler(**request): return sorted(request)", ["city", "history", "message", "request_id"], message="hi", city="Oslo")
        self.gives("def handler(payload, **rest): return [payload['a'], rest]", [1, {}], a=1)
        self.gives("def handler(*args, **kwargs): return [len(args), kwargs]", [1, {}], message="hi")

    def test_every_kind_of_callable(self):
        self.gives("class C:\n  def __call__(self, message: str, n: 'int' = 1): return [message, n]\nhandler = C()", ["hi", 3], message="hi", n="3")
        self.gives("class C:\n  def answer(self, message, n: int = 1): return [message, n]\nhandler = C().answer", ["hi", 3], message="hi", n="3")
        self.gives("import functools\ndef f(prefix, message, n: int = 1): return [prefix, message, n]\nhandler = functools.partial(f, 'p')",
                   ["p", "hi", 3], message="hi", n="3")
        self.gives("import functools\ndef deco(f):\n  @functools.wraps(f)\n  def inner(*a, **k): return f(*a, **k)\n  return inner\n"
                   "@deco\ndef handler(message: str, n: int = 1): return [message, n]", ["hi", 3], message="hi", n="3")
        self.gives("handler = lambda event, context=None: [event['message'], context]", ["hi", "context"], message="hi")
        self.gives("class handler:\n  def __new__(cls, message: str, n=1): return [message, n]", ["hi", 2], message="hi", n=2)

    def test_members_that_do_not_fit_are_named(self):
        for note, value, text in (
                ("int", "x", 'n must be an integer, not "x"'), ("int", 2.5, "n must be an integer, not 2.5"),
                ("int", True, "n must be an integer, not true"), ("int", None, "n must be an integer, not null"),
                ("int", float("inf"), "n must be an integer, not Infinity"), ("float", "many", 'n must be a number, not "many"'),
                ("bool", "maybe", 'n must be true or false, not "maybe"'), ("str", [1], "n must be a string, not [1]"),
                ("list", "a", 'n must be a list, not "a"'), ("dict", [], "n must be an object, not []"),
                ("tuple[int, str]", [1], "n must be a list of 2, not [1]"), ("dict[str, float]", {"a": "x"}, 'n.a must be a number, not "x"'),
                ("Sequence[int]", "12", 'n must be a list, not "12"'), ("Mapping[str, int]", [], "n must be an object, not []"),
                ("date", "soon", 'n must be a date in ISO 8601, not "soon"'), ("UUID", "x", 'n must be a UUID, not "x"'),
                ("Decimal", "x", 'n must be a number, not "x"'), ("datetime", 5, "n must be a datetime in ISO 8601, not 5"),
                ("list[int]", [1, "x"], 'n[1] must be an integer, not "x"'), ("set", [[1]], "n must be a list of texts or numbers, not [[1]]"),
                ("Literal['a', 2]", "b", 'n must be one of "a", 2, not "b"'), ("Color", "blue", 'n must be one of "red", not "blue"'), ("Level", "3", 'n must be one of 2, not "3"'),
                ("int | list[int]", "x", 'n must be a list, not "x"'), ("Point", {"x": "a"}, 'n.x must be an integer, not "a"'),
                ("Point", {}, "n.x is required"), ("Point", 3, "n must be an object, not 3"),
                ("int", "a" * 100, 'n must be an integer, not "' + "a" * 59 + "…")):
            self.unfit(f"import enum\nfrom collections.abc import Mapping, Sequence\nfrom dataclasses import dataclass\nfrom datetime import date, datetime\n"
                       f"from decimal import Decimal\nfrom uuid import UUID\nfrom typing import Literal\n@dataclass\nclass Point:\n  x: int\n"
                       f"class Color(enum.Enum):\n  RED = 'red'\nclass Level(enum.IntEnum):\n  HIGH = 2\ndef handler(message, n: {note}): pass", text, message="hi", n=value)
        self.unfit("def handler(message: str, account: str): pass", "account is required", message="hi")

    def test_members_become_what_is_annotated(self):
        for note, value, want in (
                ("set[int]", ["1"], {1}), ("tuple[int, str]", ["1", "a"], (1, "a")), ("tuple[int, ...]", ["1", 2], (1, 2)),
                ("Literal['a', 2]", "2", 2), ("Color", "red", "RED"), ("Level", 2, "HIGH"), ("Level", "2", "HIGH"), ("int | str", "5", "5"), ("Optional[int]", "5", 5),
                ("Union[int, bool]", True, True), ("Point", {"x": "1"}, 1), ("list[Point]", [{"x": "1"}], [1]),
                ("dict[str, int]", {"a": "1"}, {"a": 1}), ("Dict[int, List[int]]", {"1": ["2"]}, {1: [2]}), ("Iterable[int]", ["1"], [1]),
                ("MutableMapping[str, float]", {"a": 1}, {"a": 1.0}), ("AbstractSet[int]", ["1"], {1}),
                ("date", "2026-02-01", date(2026, 2, 1)), ("timedelta", 90, timedelta(seconds=90)), ("Decimal", "1.50", Decimal("1.50")),
                ("UUID", "01a2092d-b570-76eb-887a-3ce8dec8c3e1", UUID("01a2092d-b570-76eb-887a-3ce8dec8c3e1")), ("Path", "a/b", "b"), ("Unknown", "as it is", "as it is")):
            code = f"""
            from __future__ import annotations
            import enum
            from dataclasses import dataclass
            from typing import *
            from datetime import *
            from decimal import Decimal
            from pathlib import Path
            from uuid import UUID
            @dataclass
            class Point:
                x: int
            class Color(enum.Enum):
                RED = 'red'
            class Level(enum.IntEnum):
                HIGH = 2
            def shown(value): return [shown(v) for v in value] if isinstance(value, list) else getattr(value, "x", getattr(value, "name", value))
            def handler(message, n: {note} = 0): return shown(n)
            """
            self.gives(code, want, message="hi", n=value)

    def test_a_dataclass_is_built_from_the_request(self):
        code = """
        from __future__ import annotations
        from dataclasses import dataclass, field
        @dataclass
        class Inner:
            n: int = 1
        @dataclass
        class Asked:
            message: str
            city: str = "Oslo"
            inner: Inner = field(default_factory=Inner)
            def __post_init__(self):
                if self.city == "Paris": raise ValueError("too far")
        def handler(request: Asked, **rest): return [request.message, request.city, request.inner.n, rest]
        """
        self.gives(code, ["hi", "Oslo", 1, {"more": 1}], message="hi", more=1)
        self.gives(code, ["hi", "Oslo", 4, {}], message="hi", inner={"n": "4"})
        self.unfit(code, "message is required", city="Oslo")
        self.unfit(code, 'inner.n must be an integer, not "x"', message="hi", inner={"n": "x"})
        self.unfit(code, "the request: too far", message="hi", city="Paris")

    @unittest.skipUnless(find_spec("pydantic"), "pydantic is not installed")
    @unittest.skipUnless(find_spec("pydantic"), "pydantic is not installed")
    def test_a_root_model_of_pydantic_is_built_of_all_that_was_sent(self):
        code = "from pydantic import RootModel\nclass Bag(RootModel[dict[str, int]]): pass\ndef handler(bag: Bag): return bag.root"
        self.gives(code, {"a": 1, "b": 2}, a=1, b="2")
        code = "from pydantic import RootModel\nclass Ids(RootModel[list[int]]): pass\ndef handler(message, ids: Ids): return ids.root"
        self.gives(code, [1, 2], message="hi", ids=["1", 2])

    def test_a_model_of_pydantic_is_built_from_the_request(self):
        code = """
        from pydantic import BaseModel, Field
        class Trip(BaseModel, extra="forbid"):
            city: str
            days: int = Field(1, alias="nights")
        def handler(trip: Trip): return [trip.city, trip.days]
        """
        self.gives(code, ["Oslo", 3], message="hi", city="Oslo", nights="3", unknown=1)
        self.unfit(code, "city: Field required", message="hi")
        self.gives("from pydantic import BaseModel\nclass O(BaseModel):\n  n: int = 1\ndef handler(message, o: O = O()): return o.n", 4, message="hi", o={"n": 4})
        self.unfit("from pydantic.dataclasses import dataclass\n@dataclass\nclass O:\n  n: int\ndef handler(message, o: O): return o.n",
                   "o.n: Input should be a valid integer, unable to parse string as an integer", message="hi", o={"n": "x"})


class Refusals(unittest.TestCase):
    """The errors that callers receive."""

    def test_a_request_that_does_not_fit_is_refused_before_an_answer_begins(self):
        with source("def handler(message, n: int): yield message") as agent:
            for path in ("/invoke", "/invoke/stream"):
                status, answer, _ = agent.request("POST", path, b'{"message": "hi"}')
                self.assertEqual((status, answer), (400, {"error": "n is required", "code": "invalid_argument",
                                                          "details": ['send it in the body: {"n": …}']}))
            self.assertEqual(agent.invoke(n="x")[1], {"error": 'n must be an integer, not "x"', "code": "invalid_argument"})
            self.assertEqual(agent.stderr(), "")

    def test_an_error_of_the_agents_while_it_is_called_stays_its_error(self):
        code = """
        from dataclasses import dataclass
        @dataclass
        class Asked:
            message: str
            def __post_init__(self): {}["nothing"]
        def handler(asked: Asked): pass
        """
        for code in (code, "def handler(message): raise TypeError('missing 1 required positional argument')"):
            with source(code) as agent:
                self.assertEqual(agent.invoke()[0], 500)
                self.assertEqual(agent.stream()[0]["code"], "agent_error")

    def test_scripts_and_frameworks_need_a_message(self):
        for code in ("import sys\nprint(sys.stdin.read())", "class G:\n  def invoke(self, x): return x\nagent = G()"):
            with source(code) as agent:
                status, answer, _ = agent.request("POST", "/invoke", b'{"prompt": "x"}')
                self.assertEqual((status, answer["error"]), (400, "message is required"))

"""An agent's result as data: one row for each row of the table in docs/sdk.md."""

import array
import collections
import datetime
import decimal
import enum
import fractions
import functools
import io
import itertools
import json
import math
import pathlib
import random
import types
import unittest
from unittest import mock
import uuid
from dataclasses import dataclass, field
from importlib.util import find_spec

from _hoistway_runner.data import Refused, as_data
from _hoistway_runner.results import answer_of, to_json
from test_runner import source


class Word(str, enum.Enum):
    OK = "ok"


class Level(enum.Enum):
    HIGH = "high"
    DAY = datetime.date(2024, 5, 1)


class Flags(enum.IntFlag):
    A = 1
    B = 2


Point = collections.namedtuple("Point", "x y")


@dataclass
class Item:
    name: str
    tags: list = field(default_factory=list, repr=False)
    _id: int = 7


class Report:
    def to_dict(self):
        return {"pages": 3}


@dataclass
class Own:
    secret: str = "not told"

    def to_dict(self):
        return {"told": 1}


class Ticket:
    pass


class Text(str):
    pass


class Model:
    """Like pydantic's models: a member may be known only to pydantic, or be unknown to it."""

    def __init__(self, plain, failing=False):
        self.plain, self.failing = plain, failing

    def model_dump(self, mode="python"):
        if mode == "json" and self.failing:
            raise ValueError("unable to serialize")
        return self.plain


def nested(depth):
    return functools.reduce(lambda inner, _: [inner], range(depth), 1)


class Table(unittest.TestCase):
    def test_values(self):
        day, moment = datetime.date(2024, 5, 1), datetime.datetime(2024, 5, 1, 12, 30, tzinfo=datetime.timezone.utc)
        shared = [1]
        rows = (
            (None, None), (True, True), (2 ** 80, 2 ** 80), (1.5, 1.5), ("x", "x"), (Text("x"), "x"),
            (math.nan, None), (-math.inf, None), ([1.0, math.inf, 1e308, 1e308], [1.0, None, 1e308, 1e308]),
            ((1, (2, 3)), [1, [2, 3]]), ({"a": shared, "b": shared}, {"a": [1], "b": [1]}),
            ({1}, [1]), (frozenset("x"), ["x"]), (collections.deque([1, {2}]), [1, [2]]), (range(3), [0, 1, 2]),
            (map(str, [1]), ["1"]), (filter(None, [0, 1]), [1]), (zip([1], [2]), [[1, 2]]), (iter([1]), [1]),
            ((i * i for i in range(3)), [0, 1, 4]), (itertools.chain([1], [2]), [1, 2]), (array.array("d", [1, math.nan]), [1.0, None]),
            ({"a": 1}.keys(), ["a"]), ({"a": {1}}.values(), [[1]]), ({"a": 1}.items(), [["a", 1]]),
            (collections.OrderedDict(a=1), {"a": 1}), (collections.Counter("aab"), {"a": 2, "b": 1}),
            (types.MappingProxyType({"a": {1}}), {"a": [1]}), (collections.ChainMap({"a": 1}), {"a": 1}),
            (collections.UserDict(a=1), {"a": 1}), (collections.UserList([1]), [1]), (collections.UserString("us"), "us"),
            (b"\xe2\x82\xac five", "\u20ac five"), (bytearray(b"a"), "a"), (memoryview(b"a"), "a"), (b"\xff\x00", {"base64": "/wA="}),
            (day, "2024-05-01"), (moment, "2024-05-01T12:30:00+00:00"), (moment.time(), "12:30:00"),
            (datetime.timedelta(minutes=1, milliseconds=500), 60.5),
            (decimal.Decimal("9.90"), "9.90"), (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
            (pathlib.Path("/tmp/x"), "/tmp/x"), (pathlib.PureWindowsPath("a"), "a"),
            (Word.OK, "ok"), (Level.HIGH, "high"), (Level.DAY, "2024-05-01"), (Flags.A | Flags.B, 3),
            (Point(1, Point(2, {3})), {"x": 1, "y": {"x": 2, "y": [3]}}), (Report(), {"pages": 3}), (Own(), {"told": 1}),
            (Item("a", [Level.HIGH]), {"name": "a", "tags": ["high"], "_id": 7}),
            (Model({"a": math.nan}), {"a": None}), ([Model({"a": b"\xff"}, failing=True)], [{"a": {"base64": "/w=="}}]),
        )
        for value, want in rows:
            with self.subTest(repr(value)):
                got = as_data(value)
                self.assertEqual((got, json.loads(to_json(got))), (want, want))

    def test_keys_are_text(self):
        keys = {True: 1, None: 2, 1.5: 3, 4: 5, datetime.date(2024, 5, 1): 6, Word.OK: 7, Text("t"): 8, b"b": 9, (1, "a"): 10,
                Level.DAY: 11}
        with self.assertRaisesRegex(Refused, "^there are two keys '2024-05-01', of two types, at response$"):
            as_data(keys)
        del keys[Level.DAY]
        self.assertEqual(as_data(keys), {"true": 1, "null": 2, "1.5": 3, "4": 5, "2024-05-01": 6, "ok": 7, "t": 8, "b": 9,
                                         "(1, 'a')": 10})
        for key in (Ticket(), frozenset([1]), Ticket):
            with self.assertRaisesRegex(Refused, r"^the type \w+ is no key of data, at response\.a$"):
                as_data({"a": {key: 1}})

    def test_what_is_no_data_is_refused_with_its_type_and_place(self):
        me, loop = {"x": 1}, []
        me["me"], coroutine = me, source_of_nothing()
        loop.append(loop)
        for value, text in (
                (Ticket(), "the type Ticket is no data, at response"),
                ({"items": [1, 2, Ticket()]}, "the type Ticket is no data, at response.items[2]"),
                ({"z": 1j}, "the type complex is no data, at response.z"),
                ([{"odd key": object()}], "the type object is no data, at response[0]['odd key']"),
                ([Item(Ticket())], "the type Ticket is no data, at response[0].name"),
                ({"a": Model({"b": Ticket()}, failing=True)}, "the type Ticket is no data, at response.a.b"),
                (Ticket, "the class Ticket is no data, at response"), (Item, "the class Item is no data, at response"),
                (len, "the type builtin_function_or_method is no data, at response"),
                (json, "the type module is no data, at response"),
                (ValueError("x"), "the type ValueError is no data, at response"),
                (fractions.Fraction(1, 3), "the type Fraction is no data, at response"),
                (types.SimpleNamespace(x=1), "the type SimpleNamespace is no data, at response"),
                ({"m": mock.MagicMock()}, "the type MagicMock is no data, at response.m"),
                ({"f": io.StringIO("a\nb")}, "the type StringIO is no data, at response.f"),
                ([coroutine], "the type coroutine is no data, at response[0]"),
                (me, "the result contains itself, at response.me"), (loop, "the result contains itself, at response[0]"),
                (itertools.count(), "there are more than 1,000,000 items, at response"), (nested(100_000), "the result is nested too deeply, at response")):
            with self.subTest(text), self.assertRaises(Refused) as refusal:
                as_data(value)
            self.assertEqual(str(refusal.exception), text)
            self.assertTrue(refusal.exception.details, "it says what to do")
        coroutine.close()
        self.assertIn("give Ticket a method to_dict()", str(refused(Ticket()).details))
        self.assertNotIn("to_dict", str(refused(1j).details))

    def test_json_itself_passes_unchanged(self):
        rng = random.Random(18)

        def value(depth):
            kind = rng.randrange(4 if depth else 3)
            if kind == 3:
                return rng.choice((lambda: [value(depth - 1) for _ in range(rng.randrange(4))],
                                   lambda: {rng.choice("abc") * n: value(depth - 1) for n in range(rng.randrange(4))}))()
            return (rng.choice([None, True, False]), rng.randrange(-9, 9), rng.choice(["", "x", 0.5]))[kind]

        for _ in range(500):
            one = value(6)
            self.assertEqual(as_data(one), json.loads(json.dumps(one)))

    @unittest.skipUnless(find_spec("pandas"), "pandas is not installed")
    def test_tables_are_whole(self):
        import numpy as np
        import pandas as pd

        frame = pd.DataFrame({"a": [1, 2], "b": ["x", None], "t": pd.to_datetime(["2024-01-01", None])})
        grouped = pd.DataFrame({"k": ["a", "a"], "v": [1, 2]}).groupby("k")
        for value, want in (
                (frame, [{"a": 1, "b": "x", "t": "2024-01-01T00:00:00"}, {"a": 2, "b": None, "t": None}]),
                (frame["a"], [1, 2]), (len(as_data(pd.DataFrame({"a": range(5000)}))), 5000), (frame.index, [0, 1]),
                (grouped.sum(), [{"k": "a", "v": 3}]), (grouped.agg({"v": ["sum", "max"]}), [{"k": "a", "v.sum": 3, "v.max": 2}]),
                (pd.Series([1, None], dtype="Int64"), [1, None]), (pd.Series(["a"], dtype="category"), ["a"]),
                ([pd.Timestamp("2024-01-01"), pd.NaT, pd.NA, pd.Timedelta("1s")], ["2024-01-01T00:00:00", None, None, 1.0]),
                (np.arange(4).reshape(2, 2), [[0, 1], [2, 3]]), (np.zeros(1001), [0.0] * 1001), (np.array([1, np.nan]), [1.0, None]),
                ([np.int64(3), np.float32(0.25), np.float64(0.5), np.bool_(True), np.str_("s")], [3, 0.25, 0.5, True, "s"]),
                ([np.longdouble(1.5), np.array(5), np.bytes_(b"b")], [1.5, 5, "b"]),
                (np.datetime64("2024-01-01"), "2024-01-01"), (np.array(["2024-01-01"], dtype="M8[ns]"), ["2024-01-01T00:00:00"]),
                (np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f4")]), [{"a": 1, "b": 2.0}]), ({np.int64(1): 2}, {"1": 2})):
            with self.subTest(repr(value)):
                self.assertEqual(as_data(value), want)
        for value, text in ((pd.DataFrame([[1, 2]], columns=["a", "a"]), "two columns of one name"), (np.array([1j]), "complex"),
                            (grouped, "DataFrameGroupBy")):
            self.assertIn(text, str(refused(value)))


async def source_of_nothing():
    """A coroutine that is never awaited."""


def refused(value):
    try:
        as_data(value)
    except Refused as refusal:
        return refusal
    raise AssertionError("it was not refused")


class Answers(unittest.TestCase):
    """The object around the response."""

    def test_members_are_kept_and_named_without_response(self):
        @dataclass
        class Answer:
            response: str
            pages: set

        self.assertEqual(answer_of({"response": {1}, "set": {2}}), {"response": [1], "set": [2]})
        self.assertEqual(answer_of({"output": {1}, "n": 1}), {"output": [1], "n": 1, "response": [1]})
        self.assertEqual(answer_of(Answer("text", {1})), {"response": "text", "pages": [1]})
        for value, text in (({"response": "ok", "extra": [Ticket()]}, ", at extra[0]"), ({"response": {"a": 1j}}, ", at response.a"),
                            ({"answer": 1j}, ", at response.answer")):
            with self.assertRaises(Refused) as refusal:
                answer_of(value)
            self.assertTrue(str(refusal.exception).endswith(text), refusal.exception)

    def test_a_message_of_langchain_is_its_text(self):
        module = types.ModuleType("langchain_core.messages.ai")
        exec("class AIMessage:\n  content = 'text'\n  def model_dump(self, mode): return {}", vars(module))
        self.assertEqual(answer_of(module.AIMessage()), {"response": "text"})

    def test_a_refusal_is_the_agents_error_and_says_what_to_do(self):
        code = """
        import datetime
        class Ticket: pass
        def handler(message):
            return {"day": datetime.date(2024, 1, 1)} if message == "day" else {"items": [Ticket()]}
        """
        with source(code) as agent:
            status, answer = agent.invoke()
            self.assertEqual((status, answer["code"], answer["error"]),
                             (500, "agent_error", "the type Ticket is no data, at response.items[0]"))
            self.assertEqual(answer["details"], ["return a dict, a list, text or numbers, or give Ticket a method to_dict()"])
            self.assertIn(answer["error"] + "\n" + answer["details"][0] + "\n", agent.stderr())
            self.assertNotIn("hoistway_runner", agent.stderr())
            self.assertEqual(agent.stream()[0]["message"], answer["error"])
            self.assertEqual(agent.stream("day")[0]["delta"], '{"day": "2024-01-01"}')

    def test_a_file_is_no_answer_and_its_lines_are(self):
        code = "def handler(message):\n  file = open(__file__)\n  return file if message == 'file' else map(len, file)"
        with source(code) as agent:
            status, answer = agent.invoke("file")
            self.assertEqual((status, answer["error"]), (500, "the type TextIOWrapper is no data, at response"))
            self.assertEqual(agent.stream("file")[0]["message"], answer["error"])
            self.assertEqual(agent.response("lines"), [22, 24, 54])

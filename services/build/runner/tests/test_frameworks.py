"""Objects of agent frameworks, represented by classes that imitate theirs: their arguments and their results."""

import json
import unittest

from test_runner import Agent

OPENAI = """
    class Event:
        def __init__(self, type, data=None): self.type, self.data = type, data
    class Data:
        def __init__(self, type, delta=""): self.type, self.delta = type, delta
    class Agent:
        output_type = None
    class Result:
        def __init__(self, text): self.final_output = text
        def cancel(self): print("ended", flush=True)
        async def stream_events(self):
            for piece in ("look", "it up"):
                yield Event("raw_response_event", Data("response.content_part.added"))
                yield Event("raw_response_event", Data("response.output_text.delta", piece[:2]))
                yield Event("raw_response_event", Data("response.output_text.delta", piece[2:]))
                yield Event("run_item_stream_event")
    class Runner:
        async def run(agent, given): return Result({"given": given})
        def run_streamed(agent, given): return Result(given)
    """

PYDANTIC = """
    class Thing:
        def __init__(self, **members): self.__dict__.update(members)
    class Agent:
        output_type = str
        def run_sync(self, text): raise AssertionError("not on the loop")
        async def run(self, text, message_history): return Thing(output=[text, [m.of for m in message_history or ()]])
        async def run_stream_events(self, text, message_history):
            yield Thing(event_kind="part_start", part=Thing(part_kind="thinking", content="hm"))
            for first, more in (("let ", "me"), ("it ", "is")):
                yield Thing(event_kind="part_start", part=Thing(part_kind="text", content=first))
                yield Thing(event_kind="part_delta", delta=Thing(part_delta_kind="text", content_delta=more))
            yield Thing(event_kind="agent_run_result", result=Thing(output="it is"))
    """
PYDANTIC_MESSAGES = """
    class Part:
        def __init__(self, content): self.content = content
    UserPromptPart = SystemPromptPart = TextPart = Part
    class ModelRequest:
        def __init__(self, parts): self.of = ["request", parts[0].content]
    class ModelResponse:
        def __init__(self, parts): self.of = ["response", parts[0].content]
    """

CREWAI = """
    class CrewOutput:
        pydantic = json_dict = None
        def __init__(self, raw): self.raw = raw
    class Crew:
        tasks, used = (), False
        def fetch_inputs(self): return {"topic", '"json": 1'}
        def copy(self): return Crew()
        def kickoff(self, inputs):
            assert isinstance(inputs, dict) and not self.used
            self.used = True
            return CrewOutput(dict(sorted(inputs.items())))
    class Flow:
        flow_id = "1"
        def __init__(self, needed=None): self.seen, self.needed = [], needed
        def kickoff(self, inputs):
            self.seen.append(inputs["message"])
            return [*self.seen, self.needed if isinstance(self.needed, str) else None]
    """

LANGGRAPH = """
    class State: pass
    class Node:
        func, afunc = print, None
    class Builder:
        input_schema = State
        def __init__(self, names): self.schemas = {State: dict.fromkeys(names)}
    class AIMessage:
        def __init__(self, content, id): self.content, self.id = content, id
    class AIMessageChunk(AIMessage): pass
    class ToolMessage(AIMessage): pass
    AIMessage.__module__ = AIMessageChunk.__module__ = ToolMessage.__module__ = "langchain_core.messages.ai"
    class Thread:
        def __init__(self, messages): self.values = {"messages": messages} if messages else {}
    class InMemorySaver:
        kept = []
        def get_tuple(self, config): pass
        def delete_thread(self, thread): self.kept.remove(thread)
    class Graph:
        checkpointer = None
        def __init__(self, names=("messages", "language")): self.builder, self.nodes = Builder(names), {"n": Node()}
        def remember(self, config):
            if config: InMemorySaver.kept.append(config["configurable"]["thread_id"])
        def get_state(self, config): return Thread(config["configurable"]["thread_id"] in InMemorySaver.kept)
        def invoke(self, state, config):
            self.remember(config)
            if isinstance(state, str): return [state, config["configurable"]["thread_id"]]
            if state.get("language") == "show": return list(InMemorySaver.kept)
            last = (state.get("messages") or [{}])[-1]
            given = [m["content"] for m in state.pop("messages", ())]
            return {"messages": [AIMessage([{"type": "text", "text": f"{given} {state} {config and len(InMemorySaver.kept)}"}], "1")]}
        def stream(self, state, config, stream_mode):
            assert stream_mode == ["messages", "values"]
            self.remember(config)
            for message in (AIMessageChunk("let ", "1"), AIMessageChunk("me", "1"), ToolMessage("secret", "2"),
                            AIMessageChunk([{"type": "text", "text": "it "}], "3"), AIMessageChunk("is", "3"), AIMessage("it is", "4")):
                yield "messages", (message, {})
            yield "values", {"messages": [AIMessage("it is", "4")]}
        async def ainvoke(self, state, config): return {"output": "async"}
        async def astream(self, state, config, stream_mode):
            yield "values", {"messages": [{"role": "assistant", "content": "whole"}]}
    """

LANGCHAIN = """
    class Runnable:
        def __init__(self, **names): self.names = names
        def get_input_jsonschema(self):
            return {"properties": self.names, "required": [name for name, needed in self.names.items() if needed]}
        def invoke(self, value): return str(value)
        def stream(self, value): yield from ("a ", "stream")
    """


def agent(code, **files):
    """Returns an agent of this code beside packages of these files."""
    return Agent({"agent.py": code, **{name + ".py": text for name, text in files.items()}})


def texts(running, **body):
    """Returns the texts of a stream."""
    status, _, events = 0, 0, []
    import contextlib
    import http.client

    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)) as connection:
        connection.request("POST", "/invoke/stream", json.dumps(body))
        events = [json.loads(line[6:]) for line in connection.getresponse() if line.startswith(b"data: {")]
    return [event["delta"] if event["type"] == "content" else event for event in events if event["type"] != "done"]


HISTORY = [{"role": "user", "content": "before"}, {"role": "assistant", "content": "yes"}, {"role": "tool", "content": "x"}, 3]


MCP = """
class FastMCP:
    def run(self, transport="stdio", mount_path=None): raise AssertionError(transport)
    def streamable_http_app(self):
        async def app(scope, receive, send):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"mcp"})
        return app
"""


class Steering(unittest.TestCase):
    """The choice in a file with several objects."""

    FILES = {"crewai.py": CREWAI, "langgraph.py": LANGGRAPH, "langchain_core.py": LANGCHAIN, "flask.py": """
        class Flask:
            def __call__(self, environ, start_response):
                start_response("200 OK", [("Content-Type", "text/plain")])
                return [b"web"]
        """}

    def answer(self, code, framework=None, **more):
        config = {"framework": framework} if framework else {}
        with Agent({"agent.py": code, **self.FILES}, config=config) as running:
            self.assertEqual(running.event, {"event": "ready"}, running.stderr())
            self.assertEqual(running.stdout().count("imported"), code.count("imported"), "it is imported once")
            return running.response("hi", **more)

    def test_the_framework_decides_among_known_names(self):
        code = """
            print("imported")
            from langchain_core import Runnable
            from langgraph import Graph
            from flask import Flask
            chain = Runnable()
            graph = Graph(["topic"])
            app = Flask()
            def main(): return "main"
            """
        of = {None: "hi", "langgraph": "[] {'topic': 'hi'} None", "flask": "web", "custom": "main", "crewai": "hi", "openai": "hi"}
        for framework, wanted in of.items():
            self.assertEqual(self.answer(code, framework), wanted, framework)

    def test_the_framework_finds_objects_of_other_names(self):
        code = """
            from langgraph import Graph
            builder = {}
            builder["x"] = 1
            flow = Graph(["topic"])
            if __name__ == "__main__": print(flow.invoke({}))
            """
        self.assertEqual(self.answer(code, "langgraph"), "[] {'topic': 'hi'} None")
        used = "from langgraph import Graph\nflow = Graph()\nprint('ran' * bool(flow))"
        self.assertEqual(self.answer(used, "langgraph"), "ran", "a script that uses it itself")
        piped = """
            from langchain_core import Runnable
            Runnable.__module__ = "langchain_core.runnables.base"
            class Part(Runnable):
                def __or__(self, other): return Runnable(topic=other)
            Part.__module__ = "langchain_core.prompts"
            prompt, model = Part(), Part()
            pipeline = prompt | model
            """
        self.assertEqual(self.answer(piped, "langchain"), "{'topic': 'hi'}")
        self.assertEqual(self.answer(MCP + "server = FastMCP()", "mcp"), "mcp")

    def test_a_proxy_that_has_nothing_behind_it_yet_is_no_application(self):
        code = """
            class Proxy:
                def __getattribute__(self, name): raise RuntimeError("outside of a request")
                def __call__(self, environ, start_response): pass
            from flask import Flask
            current, app = Proxy(), Flask()
            """
        self.assertEqual(self.answer(code, "flask"), "web")
        self.assertEqual(self.answer(code.replace("app =", "site ="), "flask"), "web")

    def test_a_script_is_not_run_to_look_for_objects(self):
        code = """
            from langgraph import Graph
            flow = Graph(["topic"])
            def report(): print("ran")
            report()
            """
        with Agent({"agent.py": code, **self.FILES}, config={"framework": "langgraph"}) as running:
            self.assertEqual((running.event["event"], running.stdout()), ("ready", ""), running.stderr())
            self.assertEqual(running.response("hi"), "ran")
        prepared = code.replace("report()", "set_up()").replace("ran", "prepared")
        self.assertEqual(self.answer(prepared, "langgraph"), "[] {'topic': 'hi'} None")

    def test_servers_of_mcp_are_web_applications_under_any_name(self):
        for code in ("mcp = FastMCP()", "agent = FastMCP()", "app = FastMCP()", "class MCPServer(FastMCP): pass\nmcp = MCPServer()\nprint()",
                     "mcp = FastMCP()\ndef main(): mcp.run()\nif __name__ == '__main__': main()"):
            self.assertEqual(self.answer(MCP + code), "mcp", code)
        mounted = MCP + "from flask import Flask\nmcp, site = FastMCP(), Flask()"
        self.assertEqual(self.answer(mounted), "web", "a server of MCP may be a part of another application")

    def test_a_handler_comes_first(self):
        code = "from langgraph import Graph\ngraph = Graph()\ndef handler(message): return 'handler'"
        self.assertEqual(self.answer(code, "langgraph"), "handler")

    def test_what_goes_into_another_object_is_not_the_agent(self):
        code = """
            class Thing:
                def __init__(self, text): self.text = text
                def invoke(self, message): return self.text
            agent = Thing("part")
            executor = Thing([agent] and "whole")
            """
        self.assertEqual(self.answer(code), "whole")


class Frameworks(unittest.TestCase):
    def test_an_interrupted_graph_says_what_it_asks_and_goes_on_with_the_answer(self):
        graph = """
        class Thing:
            def __init__(self, **members): self.__dict__.update(members)
        class Saver:
            def get_tuple(self, config): pass
        class Graph:
            checkpointer, nodes, waiting = Saver(), {}, set()
            builder = Thing(schemas={"s": {"topic": str}}, input_schema="s")
            def get_state(self, config): return Thing(next=("n",) * (config["configurable"]["thread_id"] in self.waiting))
            def invoke(self, given, config):
                thread = config["configurable"]["thread_id"]
                if isinstance(given, dict):
                    self.waiting.add(thread)
                    return {**given, "__interrupt__": (Thing(id="1", value={"approve": given["topic"]}),)}
                self.waiting.remove(thread)
                return {"topic": given.resume}
        """
        files = {"agent.py": "from langgraph import Graph\ngraph = Graph()", "langgraph/__init__.py": graph,
                 "langgraph/types.py": "class Command:\n  def __init__(self, resume): self.resume = resume"}
        with Agent(files) as running:
            asked = {"response": {"approve": "hi"}, "interrupted": True, "interrupts": [{"id": "1", "value": {"approve": "hi"}}]}
            status, answer = running.invoke("hi", thread_id="a")
            self.assertEqual({name: answer.get(name) for name in asked}, asked, running.stderr())
            running.invoke("hi", {"X-End-User-Id": "ann"}, config={"configurable": {"thread_id": "b"}})
            for more, headers, text in (({}, {}, "thread_id is required"), ({"thread_id": "b"}, {}, "resume does not fit: this thread is not interrupted")):
                status, answer = running.invoke("x", headers, resume="yes", **more)
                self.assertEqual((status, answer["error"]), (400, text))
            self.assertEqual(running.invoke("x", resume="yes", thread_id="a")[1]["response"], {"topic": "yes"})
            self.assertEqual(running.invoke("x", {"X-End-User-Id": "ann"}, resume=[1], thread_id="b")[1]["response"], {"topic": [1]})

    def test_an_agent_of_strands_forgets_what_it_was_told(self):
        strands = """
        class Agent:
            def __init__(self): self.messages = [{"role": "user", "content": [{"text": "loaded"}]}]
            def __call__(self, message):
                seen = [m["content"][0]["text"] for m in self.messages]
                self.messages.append({"role": "user", "content": [{"text": message}]})
                return type("Result", (), {"__str__": lambda self: f"{seen} {message}\\n"})()
        """
        with agent("from strands import Agent\nhelper = Agent()", strands=strands) as running:
            self.assertEqual(running.response("one"), "['loaded'] one", running.stderr())
            self.assertEqual(running.response("two", history=HISTORY[:1]), f"['loaded', '{HISTORY[0]['content']}'] two")

    def test_an_agent_of_strands_streams_what_its_model_writes(self):
        strands = """
        class Result:
            structured_output = None
            def __str__(self): return "whole\\n"
        class Agent:
            def __init__(self, model=None): self.messages, self._default_structured_output_model = [], model
            def __call__(self, message):
                self.messages.append(message)
                return Result()
            async def stream_async(self, message):
                seen = len(self.messages)
                self.messages.append(message)
                for text in ("look", "it up", str(seen)) if message == "long" else ():
                    yield {"event": {"messageStart": {"role": "assistant"}}}
                    yield {"data": text[:2], "delta": {"text": text[:2]}}
                    if text[2:]: yield {"data": text[2:]}
                    yield {"message": {"role": "assistant"}}
                if message == "fail": raise LookupError("no model")
                yield {"result": Result()}
        """
        with agent("from strands import Agent\nhelper = Agent()", strands=strands) as running:
            self.assertEqual(texts(running, message="long", history=HISTORY[:1]), ["lo", "ok", "\n\nit", " up", "\n\n1"], running.stderr())
            self.assertEqual(texts(running, message="fail")[-1]["message"], "LookupError: no model")
            self.assertEqual(texts(running, message="short"), ["whole"], "after an error others are answered")
            self.assertEqual(running.response("long"), "whole")
        with agent("from strands import Agent\nhelper = Agent(dict)", strands=strands) as running:
            self.assertEqual(texts(running, message="long"), ["whole"], "an object comes as it does without a stream")

    def test_what_an_agent_of_agno_stores_belongs_to_its_caller(self):
        agno = """
        class Event:
            def __init__(self, content, event="RunContent"): self.content, self.event = content, event
        class Agent:
            def arun(self): pass
            def run(self, given, stream=False, session_id=None, user_id=None):
                if stream: return iter([Event("a"), Event(1, "RunStarted"), Event("b")])
                return Event([given, session_id, user_id])
        """
        with agent("from agno import Agent\nhelper = Agent()", agno=agno) as running:
            given, first, user = running.response("hi", request_id="r")
            self.assertEqual((given, len(first), user), ("hi", 36, None), running.stderr())
            self.assertNotEqual(running.response("hi", request_id="r")[1], first)
            self.assertEqual(running.invoke("hi", {"X-End-User-Id": "ann"}, session_id="s")[1]["response"], ["hi", '["ann", "s"]', "ann"])
            self.assertEqual([event.get("delta") for event in running.stream("hi")[:2]], ["a", "b"])

    def test_a_program_of_dspy_gets_the_inputs_of_its_signature(self):
        dspy = """
        class Thing:
            def __init__(self, **members): self.__dict__.update(members)
            def toDict(self): return self.__dict__
        class Module:
            def named_predictors(self): pass
            def __call__(self, **given): return self.forward(**given)
        class Predict(Module):
            signature = Thing(input_fields={"context": 1, "question": 2})
            def forward(self, **given): return Thing(reasoning="because", answer=sorted(given.items()))
        """
        with agent("from dspy import Predict\nqa = Predict()", dspy=dspy) as running:
            status, answer = running.invoke("hi", context="c")
            self.assertEqual((answer["response"], answer["reasoning"]), ([["context", "c"], ["question", "hi"]], "because"), running.stderr())
        own = "from dspy import Module, Thing\nclass QA(Module):\n  def forward(self, question): return Thing(a=question, b=2)\nqa = QA()"
        with agent(own, dspy=dspy) as running:
            self.assertEqual(running.response("hi"), {"a": "hi", "b": 2}, running.stderr())

    def test_a_program_of_dspy_streams_its_one_text(self):
        dspy = """
        from types import SimpleNamespace as Thing
        class Prediction(Thing):
            def toDict(self): return dict(self.__dict__)
        class Module:
            def __call__(self, **given): return self.forward(**given)
        class Predict(Module):
            def __init__(self, **outputs):
                self.signature = Thing(input_fields={"question": 1}, output_fields={name: Thing(annotation=kind) for name, kind in outputs.items()})
            def named_predictors(self): return [("self", self)]
            def forward(self, question): return Prediction(reasoning="because", **{name: question for name in self.signature.output_fields if name != "reasoning"})
        settings = Thing(adapter=None)
        def listen(signature_field_name, predict): return Thing(of=(signature_field_name, predict))
        streaming = Thing(StreamListener=listen)
        def streamify(program, stream_listeners):
            async def run(question):
                (field, predict), = [one.of for one in stream_listeners]
                assert predict in (program, getattr(program, "inner", None))
                if question != "cached":
                    for piece in (field, " ", question): yield Thing(chunk=piece)
                yield program(question=question)
            return run
        """
        one, two = "dspy.Predict(reasoning=str, answer=str)", "dspy.Predict(first=str, second=str)"
        with agent(f"import dspy\nqa = {one}", dspy=dspy) as running:
            self.assertEqual(texts(running, message="tea"), ["answer", " ", "tea"], running.stderr())
            self.assertEqual(texts(running, message="cached"), ["cached"])
            self.assertEqual(running.response("tea"), "tea")
        own = f"import dspy\nclass QA(dspy.Module):\n  inner = {one}\n  signature = inner.signature\n  def named_predictors(self): return [('inner', self.inner)]\n" \
              "  def forward(self, question): return self.inner(question=question)\nqa = QA()"
        for code in (f"qa = {two}", f"{own}", f"qa = {one}\ndspy.settings.adapter = 1", "qa = dspy.Predict(answer=list)"):
            with self.subTest(code), agent(f"import dspy\n{code}", dspy=dspy) as running:
                self.assertEqual(len(texts(running, message="tea")), 1, "the whole answer")

    def test_agents_of_openai_are_run_by_their_runner(self):
        with agent("from agents import Agent\nagent = Agent()", agents=OPENAI) as running:
            self.assertEqual(running.response("hi"), {"given": "hi"}, running.stderr())
            self.assertEqual(running.response("hi", history=HISTORY), {"given": [*HISTORY[:2], {"role": "user", "content": "hi"}]})
            self.assertEqual(texts(running, message="hi"), ["lo", "ok", "\n\nit", " up"])
            self.assertEqual(running.stdout(), "ended\n")
        own = "class Agent:\n  def run(self, text): return text.upper()\n"
        with agent("from agents import Agent\nagent = Agent()", agents=own) as running:
            self.assertEqual(running.response("hi"), "HI", "the agent's own package of this name")

    def test_agents_of_pydantic_answer_their_output(self):
        files = {"pydantic_ai/__init__": PYDANTIC, "pydantic_ai/messages": PYDANTIC_MESSAGES}
        with agent("from pydantic_ai import Agent\nagent = Agent()", **files) as running:
            self.assertEqual(running.response("hi"), ["hi", []], running.stderr())
            self.assertEqual(running.response("hi", history=HISTORY), ["hi", [["request", "before"], ["response", "yes"]]])
            self.assertEqual(texts(running, message="hi"), ["let ", "me", "\n\nit ", "is"])
        with agent("from pydantic_ai import Agent\nagent = Agent()\nagent.output_type = int", **files) as running:
            self.assertEqual(texts(running, message="hi"), ['["hi", []]'], "what is no text comes whole")

    def test_crews_are_filled_from_the_request(self):
        with agent("from crewai import Crew\ncrew = Crew()", crewai=CREWAI) as running:
            self.assertEqual(running.response("cats"), {"input": "cats", "message": "cats", "topic": "cats"}, running.stderr())
            self.assertEqual(running.response("cats", topic="dogs", n=2, list=[1]),
                             {"input": "cats", "list": [1], "message": "cats", "n": 2, "topic": "dogs"})
            status, answer, _ = running.request("POST", "/invoke", '{"n": 1}')
            self.assertEqual((status, answer["error"]), (400, "topic is required"))

    def test_no_invoke_sees_what_a_flow_or_an_agent_of_autogen_has_kept(self):
        flow = "import threading\nfrom crewai import Flow\n%s"
        for made, given in (("crew = Flow('as made')", "as made"), ("crew = Flow(threading.Lock())", None)):
            with agent(flow % made, crewai=CREWAI) as running:
                self.assertEqual([running.response(text) for text in "ab"], [["a", given], ["b", given]], running.stderr())
        needing = "class Needing(Flow):\n  def __init__(self, needed): super().__init__(needed)\ncrew = Needing(threading.Lock())"
        with agent(flow % needing, crewai=CREWAI) as running:
            self.assertEqual(running.event["error"], "the flow Needing cannot be made anew, and each invoke needs its own")
        files = {"autogen_agentchat/__init__": """
            class Team:
                def __init__(self): self.told = ["as loaded"]
                async def reset(self): self.told.clear()
                async def save_state(self): return list(self.told)
                async def load_state(self, state): self.told = list(state)
                async def run(self, *, task=None, more=1):
                    self.told += [task] if isinstance(task, str) else [m.said for m in task]
                    return type("Result", (), {"messages": [0, list(self.told)]})
            class Agent(Team):
                reset = None
                async def on_reset(self, token): self.told.clear()
                async def save_state(self): return []
            """, "autogen_agentchat/messages": """
            class TextMessage:
                def __init__(self, content, source): self.said = f"{source}: {content}"
            """, "autogen_core": "class CancellationToken: pass"}
        for kind, loaded in ("Team", ["as loaded"]), ("Agent", []):
            with agent(f"from autogen_agentchat import {kind}\nagent = {kind}()", **files) as running:
                self.assertEqual([running.response(text) for text in "ab"], [[*loaded, "a"], [*loaded, "b"]], running.stderr())
                self.assertEqual(running.response("hi", history=HISTORY), [*loaded, "user: before", "assistant: yes", "user: hi"])

    def test_graphs_are_filled_by_their_state_and_streamed_by_message(self):
        files = {"langgraph": LANGGRAPH}
        with agent("from langgraph import Graph\ngraph = Graph()", **files) as running:
            self.assertEqual(running.response("hi", language="fr", more=1), "['hi'] {'language': 'fr'} None", running.stderr())
            self.assertEqual(running.response("hi", history=HISTORY), "['before', 'yes', 'hi'] {} None")
            self.assertEqual(texts(running, message="hi"), ["let ", "me", "\n\nit ", "is"])
            status, answer, _ = running.request("POST", "/invoke", "{}")
            self.assertEqual((status, answer["error"]), (400, "message is required"))
        with agent("from langgraph import Graph\ngraph = Graph(['topic', 'joke'])", **files) as running:
            self.assertEqual(running.response("cats"), "[] {'topic': 'cats'} None")
            self.assertEqual(running.response("cats", topic="dogs"), "[] {'topic': 'dogs', 'joke': 'cats'} None")
        only_async = "from langgraph import Graph, Node\ngraph = Graph()\nNode.func, Node.afunc = None, print"
        with agent(only_async, **files) as running:
            self.assertEqual(running.response("hi"), "async")
            self.assertEqual(texts(running, message="hi"), ["whole"], "what no model said is said at the end")

    def test_a_graphs_memory_is_kept_by_thread_and_user(self):
        code = """
            from langgraph import Graph, InMemorySaver
            graph = Graph()
            graph.checkpointer = InMemorySaver()
            """
        with agent(code, langgraph=LANGGRAPH) as running:
            self.assertEqual(running.response("hi", history=HISTORY), "['before', 'yes', 'hi'] {} 1", running.stderr())
            self.assertEqual(running.response("hi"), "['hi'] {} 1", "what nobody can go on with is forgotten")
            self.assertEqual(texts(running, message="hi")[0], "let ")
            self.assertEqual(running.response("hi", thread_id="7", history=HISTORY), "['before', 'yes', 'hi'] {} 1", "a new thread")
            self.assertEqual(running.response("hi", thread_id="7", history=HISTORY), "['hi'] {} 2", "it knows them")
            self.assertEqual(running.response(messages=HISTORY[:2], thread_id="7"), "['before', 'yes'] {} 3", "nothing sent is cut")
            self.assertEqual(running.response("hi", session_id=8), "['hi'] {} 4")
            status, answer = running.invoke(messages="hi")
            self.assertEqual((status, answer["error"]), (400, "messages must be a list"))

    def test_no_caller_names_the_thread_of_another_one(self):
        code = """
            from langgraph import Graph, InMemorySaver
            graph = Graph()
            graph.checkpointer = InMemorySaver()
            """
        with agent(code, langgraph=LANGGRAPH) as running:
            for user, thread in ((None, "alice/t1"), ("alice", "t1"), ("a", "b/c"), ("a/b", "c")):
                running.invoke(thread_id=thread, headers={"X-End-User-ID": user} if user else {})
            _, answer = running.invoke(language="show", headers={"X-Request-ID": '[null, "alice/t1"]'})
            *threads, nameless = answer["response"]
            self.assertEqual(threads, ['[null, "alice/t1"]', '["alice", "t1"]', '["a", "b/c"]', '["a/b", "c"]'], running.stderr())
            self.assertRegex(nameless, "^[0-9a-f-]{36}$", "not the request's id, which its caller chooses")
        entrypoint = code.replace("Graph()", "Graph()\n            del graph.builder")
        with agent(entrypoint, langgraph=LANGGRAPH) as running:
            text = "about my messages"
            self.assertEqual(running.response(text, thread_id="1"), [text, '[null, "1"]'], running.stderr())
            self.assertEqual(json.loads(texts(running, message=text, thread_id="1")[0]), [text, '[null, "1"]'])

    def test_chains_are_filled_by_the_names_of_their_prompts(self):
        code = "from langchain_core import Runnable\nchain = Runnable(%s)"
        with agent(code % "language=1, topic=1", langchain_core=LANGCHAIN) as running:
            self.assertEqual(running.response("cats", language="fr"), "{'language': 'fr', 'topic': 'cats'}", running.stderr())
            status, answer = running.invoke("cats")
            self.assertEqual((status, answer["error"]), (400, "language is required"))
            self.assertEqual(texts(running, topic="x", language="de"), ["a ", "stream"])
        with agent(code % "chat_history=1, input=1", langchain_core=LANGCHAIN) as running:
            self.assertEqual(running.response("hi", history=HISTORY[:1]), f"{{'chat_history': {HISTORY[:1]}, 'input': 'hi'}}")
        with agent(code % "examples=0, question=1, tone=0", langchain_core=LANGCHAIN) as running:
            self.assertEqual(running.response("hi"), "{'question': 'hi'}", "what is optional is not needed")
            self.assertEqual(running.response("hi", question="why"), "{'question': 'why'}", "and does not get the message")
        with agent(code % "root=1", langchain_core=LANGCHAIN) as running:
            self.assertEqual(running.response("hi"), "hi")

    def test_a_text_of_langchains_own_class_is_a_text(self):
        text = "class Accessor(str): pass\nAccessor.__module__ = 'langchain_core.messages.base'\ndef handler(message): return Accessor(message)"
        with agent(text) as running:
            self.assertEqual(running.response("hi"), "hi", running.stderr())

    def test_what_keeps_its_work_in_itself_is_called_by_one_at_a_time(self):
        code = """
            import threading, time
            from smolagents import CodeAgent
            agent = CodeAgent()
            """
        smol = """
            import time
            class CodeAgent:
                running = 0
                def run(self, task):
                    self.running += 1
                    time.sleep(0.05)
                    found, self.running = self.running, self.running - 1
                    return found
            """
        import concurrent.futures

        with agent(code, smolagents=smol) as running, concurrent.futures.ThreadPoolExecutor(4) as pool:
            self.assertEqual(list(pool.map(running.response, "abcd")), [1] * 4)

    def test_engines_and_workflows_of_llamaindex(self):
        core = """
            class Response:
                def __init__(self, response): self.response = response
            class ChatEngine:
                def chat(self, message, chat_history): return Response([message, [m.text for m in chat_history]])
            class QueryEngine:
                def query(self, message): return Response(message)
            """
        files = {"llama_index/__init__": "", "llama_index/core/__init__": core, "llama_index/core/llms":
                 "class ChatMessage:\n  def __init__(self, role, content): self.text = role + content",
                 "workflows": "class Workflow:\n  async def run(self, ctx=None, **given): return given"}
        with agent("from llama_index.core import ChatEngine\nagent = ChatEngine()", **files) as running:
            self.assertEqual(running.response("hi", history=HISTORY), ["hi", ["userbefore", "assistantyes"]], running.stderr())
        with agent("from llama_index.core import QueryEngine\nagent = QueryEngine()", **files) as running:
            self.assertEqual(running.response("hi"), "hi")
        with agent("from workflows import Workflow\nagent = Workflow()", **files) as running:
            self.assertEqual(running.response("hi", topic="x", ctx=1), {"input": "hi", "message": "hi", "topic": "x"})

    def test_what_a_message_is_not_enough_for_is_refused(self):
        adk = "class LlmAgent:\n  def run(self, *, ctx, node_input): pass\n"
        with agent("from google.adk import LlmAgent\nagent = LlmAgent()", **{"google/__init__": "", "google/adk": adk}) as running:
            self.assertEqual((running.event["event"], running.event["code"]), ("failed", "nothing_to_invoke"))
            self.assertIn("google.adk.runners.InMemoryRunner", running.event["details"][1])
        for given in ("a, b", "transport='stdio', port=1", "debug=False", "level: int = 1"):
            with agent(f"class A:\n  def run(self, {given}): pass\nagent = A()") as running:
                self.assertEqual(running.event.get("code"), "nothing_to_invoke", given)
        by_name = "class A:\n  async def run(self, *, task=None, more=1): return type('R', (), {'messages': [0, task]})\nagent = A()"
        with agent(by_name) as running:
            self.assertEqual(running.response("hi"), "hi", running.stderr())

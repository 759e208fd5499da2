"""An agent with instructions and no tools."""

import os

from agents import Agent, set_tracing_disabled

set_tracing_disabled(True)
agent = Agent(name="assistant", instructions="Answer in one sentence.", model=os.environ["LLM_MODEL"])

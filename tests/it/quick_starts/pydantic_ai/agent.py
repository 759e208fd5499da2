"""An agent with instructions."""

import os

from pydantic_ai import Agent

agent = Agent("openai-chat:" + os.environ["LLM_MODEL"], instructions="Be brief.")

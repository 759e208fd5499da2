"""An agent that ends by calling the tool `final_answer`."""

import os

from smolagents import OpenAIServerModel, ToolCallingAgent

agent = ToolCallingAgent(tools=[], model=OpenAIServerModel(model_id=os.environ["LLM_MODEL"]), max_steps=2)

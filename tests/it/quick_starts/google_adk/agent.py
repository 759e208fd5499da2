"""An agent of Google's kit, which needs a runner of that kit."""

from google.adk.agents import Agent

root_agent = Agent(name="greeter", model="gemini-2.5-flash", instruction="Greet the user.")

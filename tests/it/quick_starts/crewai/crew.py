"""One agent with one task."""

import os

from crewai import Agent, Crew, Task

writer = Agent(
    role="writer",
    goal="write one sentence about {topic}",
    backstory="You write for a daily paper.",
    llm="openai/" + os.environ["LLM_MODEL"],
)
sentence = Task(description="Write about {topic}.", expected_output="one sentence", agent=writer)
crew = Crew(agents=[writer], tasks=[sentence])

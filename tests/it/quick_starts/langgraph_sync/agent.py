"""A graph of two nodes, one of which asks the model."""

import os

from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import MessagesState

model = ChatOpenAI(model=os.environ["LLM_MODEL"])


class State(MessagesState):
    steps: list[str]


def answer(state: State):
    return {"messages": [model.invoke(state["messages"])], "steps": ["answered"]}


def review(state: State):
    return {"steps": [*state["steps"], "reviewed"]}


builder = StateGraph(State)
builder.add_node("answer", answer)
builder.add_node("review", review)
builder.add_edge(START, "answer")
builder.add_edge("answer", "review")
builder.add_edge("review", END)
graph = builder.compile()

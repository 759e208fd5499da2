"""The agent with LangGraph: four requirements, about 43 packages."""

import langchain_openai
import langgraph.graph
import openai
import requests

VERSION = 0


def handler(message):
    return f"{VERSION} {langchain_openai.__name__} {langgraph.graph.__name__} {openai.__name__} {requests.__name__}"

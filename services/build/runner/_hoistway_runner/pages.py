"""Files that are pages for a browser, with a server of their own: there is nothing in them that an invoke could call."""

from .discovery import Found, ast
from .errors import NothingToInvoke

PAGES = {"streamlit": "Streamlit", "gradio": "Gradio", "chainlit": "Chainlit"}


def refuse_page(tree, entry):
    """Refuses a page, unless a web application serves it as one of its routes."""
    found = Found(tree)
    for node in () if found.web else found.imported.values():
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        for kind in filter(None, (PAGES.get(name.partition(".")[0]) for name in names)):
            raise NothingToInvoke(
                f"{entry} is a page of {kind}, which needs a server of its own and a browser",
                "deploy the function behind it: define handler(message) in a file without the page, and let the page call "
                "POST /api/agents/NAME/invoke")

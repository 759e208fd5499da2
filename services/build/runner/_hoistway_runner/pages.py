"""Files that are pages for a browser, with a server of their own: they contain nothing that an invoke could call."""

import os

from .commands import own_function, takes_invoke
from .discovery import Found, ast
from .errors import NothingToInvoke
from .own_files import own_file, parsed

PAGES = {"streamlit": "Streamlit", "gradio": "Gradio", "chainlit": "Chainlit"}


def refuse_page(tree, app, entry, names):
    """Refuses a page, unless a web application serves it as one of its routes, or a function of these names takes the
    message that its main block passes from the page."""
    found = Found(tree)
    for node in () if found.web or takes_message(tree, os.path.join(app, entry), app, names) else found.imported.values():
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        for kind in filter(None, (PAGES.get(name.partition(".")[0]) for name in names)):
            raise NothingToInvoke(
                f"{entry} is a page of {kind}, which needs a server of its own and a browser",
                "deploy the function behind it: define handler(message) in a file without the page, and let the page call "
                "POST /api/agents/NAME/invoke")


def takes_message(tree, path, app, names):
    """Whether a function of these names, the file's own or one of the agent's other files, takes the message."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                found = (alias.asname or alias.name) in names and own_file(app, path, node)
                if found and takes_invoke(own_function(parsed(found) or tree, alias.name)):
                    return True
    return any(takes_invoke(own_function(tree, name)) for name in names)

"""A chat over Server-Sent Events, and a page that says what it is."""

import json
import os

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from openai import AsyncOpenAI
from pydantic import BaseModel

app = FastAPI(title="chat")
client = AsyncOpenAI()


class Question(BaseModel):
    message: str


@app.get("/")
def about():
    return {"name": app.title}


@app.post("/chat")
async def chat(question: Question):
    async def events():
        stream = await client.chat.completions.create(
            model=os.environ["LLM_MODEL"], messages=[{"role": "user", "content": question.message}], stream=True
        )
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                yield f"data: {json.dumps(chunk.choices[0].delta.content)}\n\n"
        yield "data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


@app.post("/invoke")
async def invoke(question: Question):
    return {"response": question.message.upper()}

"""The minimum of an HTTP server in Python: uvicorn sends the body back."""

import sys

import uvicorn


async def app(scope, receive, send):
    """Send the body back."""
    assert scope["type"] == "http"
    body, more = b"", True
    while more:
        message = await receive()
        body += message["body"]
        more = message.get("more_body", False)
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


uvicorn.run(app, port=int(sys.argv[2]), access_log=False, log_level="warning", lifespan="off")

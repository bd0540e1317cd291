"""Talks to a running ComfyUI as its web page does: HTTP, and a websocket for events."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import websocket

Prompt = Mapping[str, Mapping[str, Any]]
Progress = Callable[[str, float, float], None]

HISTORY_LIMIT = 20.0  # seconds; the history is written just after the last event
_ENDS = {"execution_success", "execution_error", "execution_interrupted"}


class PromptFailed(RuntimeError):
    """A graph was refused or a node failed. `node_id` is None if the fault is in no one node."""

    def __init__(self, kind: str, node_id: str | None, node_type: str, message: str) -> None:
        where = f"node {node_id} ({node_type}): " if node_id is not None else ""
        super().__init__(f"{where}{message}")
        self.kind = kind
        self.node_id = node_id
        self.node_type = node_type
        self.message = message


class PromptRefused(PromptFailed):
    """The graph was not even queued: `node_errors` is the host's list by node."""

    def __init__(self, answer: Mapping[str, Any]) -> None:
        self.node_errors: dict[str, Any] = dict(answer.get("node_errors") or {})
        error = answer.get("error", {})
        # Nodes that merely depend on a faulty one are listed too, without errors of their own.
        faulty = [(key, value) for key, value in self.node_errors.items() if value["errors"]]
        if not faulty:
            super().__init__(str(error.get("type", "")), None, "", _sentence(error))
            return
        node_id, node = faulty[0]
        message = "; ".join(_sentence(item) for _, value in faulty for item in value["errors"])
        super().__init__(node["errors"][0]["type"], node_id, node["class_type"], message)


class PromptInterrupted(PromptFailed):
    """The graph was stopped by /interrupt."""


@dataclass(frozen=True)
class Finished:
    """A graph that ran. `outputs` is {node id: what the node shows}, from the host's history.

    `executed` lists the nodes that ran, in order; `cached` those whose result was kept.
    """

    prompt_id: str
    outputs: dict[str, Any]
    executed: tuple[str, ...]
    cached: tuple[str, ...]
    seconds: float

    def images(self, node_id: str | None = None) -> list[dict[str, str]]:
        """The pictures of one node, or of all: arguments for `HostClient.fetch_image`. Saved ones before previews."""
        shown = self.outputs.values() if node_id is None else [self.outputs[node_id]]
        images = [image for output in shown for image in output.get("images", [])]
        return sorted(images, key=lambda image: image.get("type") != "output")


class HostClient:
    """One client of the host at `url`, with its own id."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.client_id = uuid.uuid4().hex

    def get(self, path: str, **query: str) -> Any:
        """The JSON answer of GET `path`. Raises urllib.error.HTTPError for 4xx and 5xx."""
        return json.loads(self.get_bytes(path, **query))

    def get_bytes(self, path: str, **query: str) -> bytes:
        address = f"{self.url}{path}"
        if query:
            address += "?" + urllib.parse.urlencode(query)
        with urllib.request.urlopen(address, timeout=60) as answer:
            return answer.read()

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON answer of POST `path`, or None where the answer is empty."""
        data = json.dumps(body).encode()
        return self._send(path, data, "application/json")

    def _send(self, path: str, data: bytes, content_type: str) -> Any:
        request = urllib.request.Request(
            f"{self.url}{path}", data=data, headers={"Content-Type": content_type}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def object_info(self, node: str | None = None) -> dict[str, Any]:
        """The host's description of all nodes, or of one."""
        if node is None:
            return self.get("/object_info")
        return self.get(f"/object_info/{urllib.parse.quote(node)}")[node]

    def queue(self, prompt: Prompt) -> str:
        """Queue a graph and return its prompt id at once. Raises PromptRefused."""
        try:
            answer = self.post("/prompt", {"prompt": prompt, "client_id": self.client_id})
        except urllib.error.HTTPError as error:
            if error.code != 400:
                raise
            raise PromptRefused(json.loads(error.read())) from None
        # The host runs the sound part of a graph and only reports the other outputs.
        if answer.get("node_errors"):
            self.cancel(answer["prompt_id"])
            raise PromptRefused(answer)
        return answer["prompt_id"]

    def run(
        self, prompt: Prompt, timeout: float = 300.0, on_progress: Progress | None = None
    ) -> Finished:
        """Run a graph to its end.

        `on_progress(node id, value, maximum)` is called for each step that a node reports.
        Raises PromptFailed (PromptRefused, PromptInterrupted), TimeoutError after `timeout`
        seconds, or ConnectionError if the host goes away.
        """
        started = time.monotonic()
        address = f"{self.url.replace('http', 'ws', 1)}/ws?clientId={self.client_id}"
        # Open first: events are not repeated for a client that comes late.
        events = websocket.create_connection(address, timeout=min(60.0, timeout))
        try:
            prompt_id = self.queue(prompt)
            executed, cached = _follow(events, prompt_id, started + timeout, on_progress)
        except websocket.WebSocketConnectionClosedException as error:
            raise ConnectionError(f"ComfyUI at {self.url} closed the connection") from error
        finally:
            events.close()
        outputs = self.history(prompt_id)["outputs"]
        return Finished(prompt_id, outputs, executed, cached, time.monotonic() - started)

    def history(self, prompt_id: str, limit: float = HISTORY_LIMIT) -> dict[str, Any]:
        """The host's record of a finished graph. Raises TimeoutError if none comes."""
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            record = self.get(f"/history/{prompt_id}")
            if prompt_id in record:
                return record[prompt_id]
            time.sleep(0.1)
        raise TimeoutError(f"no history of {prompt_id} within {limit:.0f} s")

    def fetch_image(self, view: Mapping[str, str]) -> bytes:
        """The file that an output names: {"filename", "subfolder", "type"}."""
        return self.get_bytes(
            "/view",
            filename=view["filename"],
            subfolder=view.get("subfolder", ""),
            type=view.get("type", "output"),
        )

    def upload_image(self, name: str, content: bytes) -> str:
        """Put a picture into the host's input folder; the name to use in LoadImage."""
        boundary = uuid.uuid4().hex
        head = (
            f"--{boundary}\r\nContent-Disposition: form-data; "
            f'name="image"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        data = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
        answer = self._send("/upload/image", data, f"multipart/form-data; boundary={boundary}")
        return answer["name"]

    def interrupt(self, prompt_id: str | None = None) -> None:
        """Stop one graph, or whichever runs."""
        self.post("/interrupt", {} if prompt_id is None else {"prompt_id": prompt_id})

    def cancel(self, prompt_id: str) -> None:
        """Take one graph out of the queue, or stop it if it runs."""
        self.post("/queue", {"delete": [prompt_id]})
        self.interrupt(prompt_id)

    def free(self) -> None:
        """Unload all models and drop all kept results."""
        self.post("/free", {"unload_models": True, "free_memory": True})


def _follow(
    events: websocket.WebSocket, prompt_id: str, deadline: float, on_progress: Progress | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read events until the graph ends; (nodes that ran, nodes kept)."""
    executed: list[str] = []
    cached: list[str] = []
    while True:
        kind, data = _next_event(events, deadline)
        if data.get("prompt_id") != prompt_id:
            continue
        if kind == "executing" and data["node"] is not None:
            executed.append(data["node"])
        elif kind == "execution_cached":
            cached.extend(data["nodes"])
        elif kind == "progress" and on_progress is not None:
            on_progress(str(data["node"]), data["value"], data["max"])
        elif kind in _ENDS:
            _raise_unless_success(kind, data)
            return tuple(executed), tuple(cached)


def _next_event(events: websocket.WebSocket, deadline: float) -> tuple[str, dict[str, Any]]:
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the graph did not finish in time")
        events.settimeout(left)
        try:
            frame = events.recv()
        except websocket.WebSocketTimeoutException:
            continue
        # Binary frames are preview pictures.
        if isinstance(frame, str) and frame:
            event = json.loads(frame)
            return event["type"], event.get("data") or {}


def _raise_unless_success(kind: str, data: dict[str, Any]) -> None:
    if kind == "execution_interrupted":
        raise PromptInterrupted(kind, data["node_id"], data["node_type"], "interrupted")
    if kind == "execution_error":
        message = data["exception_message"].strip()
        raise PromptFailed(data["exception_type"], data["node_id"], data["node_type"], message)


def _sentence(error: Mapping[str, Any]) -> str:
    parts = [str(error.get(key, "")).strip() for key in ("message", "details")]
    return ": ".join(part for part in parts if part)

"""Random graphs with interrupts at random moments: told plainly or well ended, nothing leaks, the base stays as it was.

LOOM_GRAPH_COUNT graphs (20, or 500 with `dev.py test --full`) from LOOM_GRAPH_SEED. A second ComfyUI works on the same
folder meanwhile.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from random_graphs import random_graph

from tools.devkit.base_directory import standard_base
from tools.devkit.environment import located
from tools.devkit.host_client import HostClient, PromptFailed, PromptInterrupted, PromptRefused
from tools.devkit.host_process import Host, running_host

SEED = int(os.environ.get("LOOM_GRAPH_SEED", "20261122"))
COUNT = int(os.environ.get("LOOM_GRAPH_COUNT", "20"))
INTERRUPTED = 0.4  # of the graphs, at a moment of the first second
# What the host may keep beside the toy: its own caches of text, pictures and code.
TENSOR_BYTES, RESIDENT_BYTES = 4 << 20, 300 << 20
WATCH_PACK = Path(__file__).with_name("watch_pack")
OURS = {"StackError", "LoraFileError", "MatchError", "MergeError", "LoraKeyError", "PatchError"}


@pytest.fixture(scope="module")
def watched(tmp_path_factory) -> Iterator[Host]:
    base = standard_base(tmp_path_factory.mktemp("watched"))
    (base / "custom_nodes" / "loom_watch").symlink_to(WATCH_PACK, target_is_directory=True)
    with running_host(located(), base) as host:
        yield host


def watch(client: HostClient, turn: int) -> dict[str, Any]:
    """What the process holds once it let go of everything."""
    client.free()
    loader = {"ckpt_name": "loom_toy.safetensors"}
    graph = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": loader},
        "2": {"class_type": "LoomTestWatch", "inputs": {"model": ["1", 0], "turn": turn}},
    }
    return json.loads(client.run(graph).outputs["2"]["text"][0])


def outcome(client: HostClient, graph: dict[str, Any], random: Random) -> str:
    """How a graph ended, in one word; any other exception, or a crash, comes through."""
    timer = threading.Timer(random.uniform(0, 1), client.interrupt)
    if random.random() < INTERRUPTED:
        timer.start()
    try:
        client.run(graph, timeout=180)
    except PromptInterrupted:
        return "interrupted"
    except PromptFailed as failure:
        return told(failure)
    finally:
        timer.cancel()
    return "done"


def told(failure: PromptFailed) -> str:
    """A fault that one of our nodes found, before the graph ran or while it did."""
    assert failure.node_type.startswith("Loom"), failure
    if isinstance(failure, PromptRefused):
        return "refused"
    assert failure.kind.rpartition(".")[2] in OURS, failure
    return "failed"


def test_random_graphs_end_well_and_leave_nothing_behind(watched, record_testsuite_property):
    client, random = HostClient(watched.url), Random(SEED)
    info = client.object_info()
    warm = [outcome(client, random_graph(info, seed), random) for seed in range(SEED, SEED + 5)]
    before = watch(client, 0)
    ends = Counter(warm)
    for index in range(COUNT):
        graph = random_graph(info, SEED + 5 + index)
        try:
            ends[outcome(client, graph, random)] += 1
        except Exception as error:
            raise AssertionError(f"graph {index} of seed {SEED}: {json.dumps(graph)}") from error
    after = watch(client, 1)
    record_testsuite_property(
        "graphs", json.dumps({"seed": SEED, **ends, "before": before, "after": after})
    )
    assert after["weights"] == before["weights"]
    assert after["bytes"] <= before["bytes"] + TENSOR_BYTES, (before, after)
    assert after["resident"] <= before["resident"] + RESIDENT_BYTES, (before, after)
    assert ends["done"] >= COUNT // 4, ends
    assert sum(ends.values()) == COUNT + 5


def test_two_hosts_on_one_folder_share_the_index_and_both_run(watched):
    """Both write the index of the same user folder and read the same loras; neither loses a run."""
    with running_host(located(), watched.base.resolve()) as second:
        clients = [HostClient(watched.url), HostClient(second.url)]
        loras = watched.base / "models" / "loras"
        source = (loras / "loom_toy_style.safetensors").read_bytes()
        for name in "abcdef":
            (loras / f"shared_{name}.safetensors").write_bytes(source)
        faults: list[BaseException] = []

        def run(client: HostClient, names: str) -> None:
            try:
                for name in names:
                    rows = json.dumps([{"lora": f"shared_{name}.safetensors", "model": 0.5}])
                    inspect = {"lora_name": "[the LORA_STACK input]", "lora_stack": ["stack", 2]}
                    graph = {
                        "stack": {"class_type": "LoomStack", "inputs": {"rows": rows}},
                        "inspect": {"class_type": "LoomInspect", "inputs": inspect},
                    }
                    text = client.run(graph).outputs["inspect"]["text"][0]
                    assert f"shared_{name}.safetensors" in text
            except BaseException as fault:
                faults.append(fault)

        threads = [
            threading.Thread(target=run, args=(client, names))
            for client, names in zip(clients, ("abcdef", "fedcba"), strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not faults, faults[0]
        index = json.loads((watched.base / "user" / "__lora_loom" / "index.json").read_text())
        kept = {Path(path).name for path in index["files"]}
        # Of two writers at one moment one may lose its row; what is lost is hashed again, never wrong.
        assert len({f"shared_{name}.safetensors" for name in "abcdef"} & kept) >= 5
        assert (
            len({row["sha256"] for path, row in index["files"].items() if "shared_" in path}) == 1
        )

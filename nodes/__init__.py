"""The node classes, one topic a file. Ids and input order are an API: append only."""

from . import (
    analyse,
    blocks,
    dataset,
    extract,
    inspect,
    load,
    merge,
    region,
    save,
    schedule,
    stack,
    sweep,
    tags,
    train,
)

_TOPICS = (
    load,
    stack,
    tags,
    blocks,
    schedule,
    region,
    sweep,
    merge,
    extract,
    analyse,
    inspect,
    save,
    dataset,
    train,
)

NODE_CLASS_MAPPINGS = {
    node_id: node for topic in _TOPICS for node_id, node in topic.NODE_CLASS_MAPPINGS.items()
}
NODE_DISPLAY_NAME_MAPPINGS = {
    node_id: name for topic in _TOPICS for node_id, name in topic.NODE_DISPLAY_NAME_MAPPINGS.items()
}

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]

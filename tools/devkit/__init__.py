"""The environment that dev.py builds, and the real ComfyUI that it starts.

Everything here needs the standard library only, so that it runs before anything is installed.
The one exception is `host_client`, which needs websocket-client from the environment.
"""

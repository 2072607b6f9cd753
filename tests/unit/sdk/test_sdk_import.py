"""What `import runyard` costs, and what the command line's lean import of grpc leaves alone."""

from __future__ import annotations

import subprocess
import sys

import runyard


def in_fresh_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_loads_nothing_heavy() -> None:
    heavy = (
        "grpc google.protobuf asyncio rich ruamel zstandard blake3 pathspec click ctypes".split()
    )

    loaded = in_fresh_python(
        f"import sys, runyard; print([m for m in {heavy!r} if m in sys.modules])"
    )

    assert loaded == "[]"


def test_public_names_are_these() -> None:
    assert sorted(runyard.__all__) == [
        "ComputeNotFound",
        "ComputeTarget",
        "CondaDependencies",
        "Environment",
        "EnvironmentNotFound",
        "Experiment",
        "ExperimentNotFound",
        "NotFound",
        "Run",
        "RunConfiguration",
        "RunFailed",
        "RunNotFound",
        "RunyardError",
        "ScriptRunConfig",
        "SpecInvalid",
        "Unsupported",
        "Workspace",
        "wait_all",
    ]
    for name in runyard.__all__:
        assert getattr(runyard, name).__name__ == name
    assert set(runyard.__all__) <= set(dir(runyard))
    assert runyard.__version__


def test_command_line_puts_asyncio_and_grpc_aio_off() -> None:
    code = (
        "import sys\n"
        "from runyard.cli.deferred_imports import defer_imports\n"
        "defer_imports()\n"
        "import grpc\n"
        "from runyardpb.v1 import runs_pb2_grpc\n"
        "grpc.insecure_channel('unix:/nowhere').close()\n"
        "print('server' in vars(sys.modules['grpc.aio']), 'asyncio.events' in sys.modules)\n"
    )

    assert in_fresh_python(code) == "False False"


def test_asyncio_that_was_put_off_is_whole_when_it_is_used() -> None:
    code = (
        "from runyard.cli.deferred_imports import defer_imports\n"
        "defer_imports()\n"
        "import grpc, asyncio\n"
        "async def main():\n"
        "    await asyncio.sleep(0)\n"
        "    return 'fine'\n"
        "print(asyncio.run(main()))\n"
    )

    assert in_fresh_python(code) == "fine"


def test_function_of_a_module_that_was_put_off_runs_the_module_when_it_is_called() -> None:
    code = (
        "import sys\n"
        "from runyard.cli.deferred_imports import defer_imports\n"
        "defer_imports()\n"
        "import pathlib\n"
        "parse = sys.modules['urllib.parse']\n"
        "assert 'quote' not in vars(parse)\n"
        "print(pathlib.Path('/a b').as_uri(), type(parse).__name__)\n"
    )

    assert in_fresh_python(code) == "file:///a%20b module"


def test_sdk_leaves_asyncio_and_grpc_aio_whole_for_the_program() -> None:
    code = (
        "import runyard.workspace, runyard.run, grpc.aio, asyncio\n"
        "async def main():\n"
        "    channel = grpc.aio.insecure_channel('unix:/nowhere')\n"
        "    await channel.close()\n"
        "asyncio.run(main())\n"
        "print('fine')\n"
    )

    assert in_fresh_python(code) == "fine"


def test_module_that_was_put_off_runs_once_when_threads_use_it_at_once() -> None:
    code = (
        "import sys, threading\n"
        "from runyard.cli.deferred_imports import defer_imports\n"
        "defer_imports()\n"
        "import inspect\n"
        "assert 'signature' not in vars(inspect)\n"
        "start, found = threading.Barrier(8), []\n"
        "def use():\n"
        "    start.wait()\n"
        "    found.append(str(inspect.signature(lambda a, b=1: None)))\n"
        "threads = [threading.Thread(target=use) for _ in range(8)]\n"
        "[thread.start() for thread in threads]\n"
        "[thread.join() for thread in threads]\n"
        "print(found == ['(a, b=1)'] * 8, type(inspect).__name__)\n"
    )

    assert in_fresh_python(code) == "True module"

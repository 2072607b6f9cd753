"""Puts off what others import for the command line and it never uses, until somebody uses it.

grpc imports asyncio and its own asyncio side, protobuf its whole Python implementation beside the C
one, click what it needs for rare options: together a third of what a command costs. A module that
is put off is there in name; its code runs when the first thing in it is asked for. For the process
of the `runyard` command only: in a user's own program, who imports what is not ours to say.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

DEFERRED = frozenset(
    {
        "asyncio",  # grpc's C core keeps a reference; a synchronous client never follows it
        "calendar",  # protobuf, for times that a client of ours never makes; brings locale
        "google.protobuf.internal.python_message",  # used where protobuf has no C implementation
        "google.protobuf.text_format",
        "grpc.aio",
        "fnmatch",  # pathlib, to match patterns
        "inspect",  # click and dataclasses, for texts and signatures
        "ipaddress",  # pathlib brings it, through urllib.parse
        "ntpath",  # pathlib, for the paths of another system
        "socket",  # grpc, for its asyncio side
        "pkgutil",  # grpc, to read the roots of TLS
        "traceback",  # logging, for exceptions
    }
)

FUNCTIONS = {
    # grpc.experimental; brings more types
    "grpc._simple_stubs": ("stream_stream", "stream_unary", "unary_stream", "unary_unary"),
    "urllib.parse": ("quote_from_bytes",),  # pathlib, for file: URLs
}
"""Functions that others import by name from modules that are put off: each runs its module when it
is called."""


def defer_imports() -> None:
    """Puts off the modules of DEFERRED and FUNCTIONS that this process has not imported yet."""
    sys.meta_path.insert(0, _Finder())


class DeferredModule(ModuleType):
    """A module whose code has not run yet.

    Not importlib's LazyLoader: that runs it for `__spec__` too, which each import asks for.
    """

    def __getattr__(self, name: str) -> object:
        if name == "__path__":  # asked for by `from module import name`; a package has it
            raise AttributeError(name)
        if name in FUNCTIONS.get(self.__name__, ()) and self.__name__ not in _begun:
            return _later(self, name)
        _run(self)
        return ModuleType.__getattribute__(self, name)


_running = threading.RLock()
_begun: set[str] = set()


def _run(module: DeferredModule) -> None:
    """Runs a module's code, once; other threads wait, the code's own look-ups do not."""
    with _running:
        spec = module.__spec__
        if spec is None or spec.loader is None or spec.name in _begun:
            return
        _begun.add(spec.name)
        spec.loader.exec_module(module)
        module.__class__ = ModuleType  # type: ignore[assignment]  # from now on as any other


def _later(module: DeferredModule, name: str) -> Callable[..., object]:
    """A function that is looked up in its module when it is called."""

    def function(*args: object, **named: object) -> object:
        _run(module)
        return vars(module)[name](*args, **named)

    return function


class _Loader:
    """Makes a module of a loader without running its code."""

    def __init__(self, spec: ModuleSpec) -> None:
        self._loader = spec.loader

    def create_module(self, _spec: ModuleSpec) -> None:
        """None: a plain module."""

    def exec_module(self, module: ModuleType) -> None:
        """Leaves the code for later."""
        if module.__spec__ is not None:
            module.__spec__.loader = module.__loader__ = self._loader
        module.__class__ = DeferredModule


class _Finder:
    """Finds the modules that are put off where they are; leaves all others to the rest."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See importlib.abc.MetaPathFinder."""
        if name not in DEFERRED and name not in FUNCTIONS:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec)  # type: ignore[assignment]  # typeshed wants the ABC
        return spec

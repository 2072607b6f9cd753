"""What `own_conda.make_program` makes a program of."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

import rattler
from rattler.package_streaming import extract

SUBDIRS = {"x86_64": "linux-64", "aarch64": "linux-aarch64"}


def main(
    name: str, version: str, record: str, breaks: str, before_install: Callable[[], None]
) -> NoReturn:
    """Does what its command line asks for, and ends the process."""
    if sys.argv[1:] == ["--version"]:
        print("unknown option" if breaks == "version" else f"{_title(name)}{version}", flush=True)
        os._exit(1 if breaks == "version" else 0)
    variables = {key: value for key, value in os.environ.items() if key[:5] in ("CONDA", "MAMBA")}
    for path, noted in ((record, sys.argv[1:]), (_variables_path(record), variables)):
        with open(path, "a") as file:
            file.write(json.dumps(noted) + "\n")
    asked = _parser(name).parse_args(sys.argv[1:])
    if asked.file:
        before_install()
    code = asyncio.run(_explicit(asked, breaks) if asked.file else _dry_run(asked, name, breaks))
    sys.stdout.flush()
    os._exit(code)  # rattler's threads don't always survive the interpreter's own end


def _variables_path(record: str) -> str:
    return str(Path(record).with_suffix(".variables"))


def _title(name: str) -> str:
    return "conda " if name == "conda" else ""


def _parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=name, allow_abbrev=False)
    create = parser.add_subparsers(required=True).add_parser("create", allow_abbrev=False)
    create.add_argument("-p", "--prefix", type=Path, required=True)
    create.add_argument("-c", "--channel", action="append", default=[])
    create.add_argument("-f", "--file", type=Path)
    for flag in ("--dry-run", "--json", "--override-channels", "--strict-channel-priority"):
        create.add_argument(flag, action="store_true")
    create.add_argument("-y", "--yes", action="store_true")
    if name == "conda":
        create.add_argument("--no-default-packages", action="store_true")
    create.add_argument("specs", nargs="*")
    return parser


async def _dry_run(asked: argparse.Namespace, name: str, breaks: str) -> int:
    assert asked.dry_run
    assert asked.json
    if breaks == "solve":
        print("critical libmamba Aborted.", file=sys.stderr)
        return 1
    try:
        records = await rattler.solve(
            sources=asked.channel,
            specs=asked.specs,
            platforms=[SUBDIRS[os.uname().machine], "noarch"],
            virtual_packages=rattler.VirtualPackage.detect(),
        )
    except Exception as error:
        _print(_failure(name, str(error)))
        return 1
    plain = [_record(one, name) for one in records]
    if breaks == "hash":
        for one in plain:
            del one["md5"], one["sha256"]
    link = plain if name != "conda" else [_link(one) for one in plain]
    actions = {"FETCH": plain, "LINK": link, "PREFIX": str(asked.prefix)}
    _print({"actions": actions, "dry_run": True, "prefix": str(asked.prefix), "success": True})
    return 0


def _failure(name: str, said: str) -> Mapping[str, Any]:
    if name == "conda":
        return {"error": said, "exception_name": "LibMambaUnsatisfiableError", "message": said}
    return {"solver_problems": [said], "success": False}


def _record(record: rattler.RepoDataRecord, name: str) -> dict[str, Any]:
    """As the program prints it, with what others leave out."""
    about: dict[str, Any] = json.loads(record.to_json())
    about |= {"fn": record.file_name, "url": str(record.url), "build_string": about["build"]}
    if name != "conda":
        about |= {
            "depends": about["depends"] or None,
            "constrains": about.get("constrains") or None,
            "license": "None",
            "timestamp": about["timestamp"] // 1000,
            "track_features": "",
        }
    return about


def _link(record: Mapping[str, Any]) -> Mapping[str, Any]:
    kept = {name: record[name] for name in ("build_number", "build_string", "name", "version")}
    return {**kept, "dist_name": record["fn"].removesuffix(".conda"), "platform": record["subdir"]}


async def _explicit(asked: argparse.Namespace, breaks: str) -> int:
    lines = asked.file.read_text().splitlines()
    assert lines[0] == "@EXPLICIT"
    if breaks == "install":
        (asked.prefix / "conda-meta").mkdir(parents=True)
        _print({"message": "[Errno 5] Input/output error", "success": False})
        return 1
    try:
        records = [_checked(line) for line in lines[1:]]
        caches = os.environ.get("CONDA_PKGS_DIRS") or f"{os.environ['HOME']}/.conda/pkgs"
        await rattler.install(
            records,
            target_prefix=asked.prefix,
            package_cache=rattler.PackageCache(caches),
            show_progress=False,
        )
    except Exception as error:
        _print({"message": str(error), "success": False})
        return 1
    _print({"prefix": str(asked.prefix), "success": True})
    return 0


def _checked(line: str) -> rattler.RepoDataRecord:
    """The package of an explicit line, whose file is on this machine."""
    url, _, digest = line.partition("#")
    path = Path(unquote(urlsplit(url).path))
    data = path.read_bytes()
    kind, _, value = digest.rpartition(":")
    if hashlib.new(kind or "md5", data).hexdigest() != value:
        raise ValueError(f"ChecksumMismatchError: Conda detected a mismatch for {url}")
    with tempfile.TemporaryDirectory() as folder:
        extract(path, folder)
        digest = hashlib.sha256(data).hexdigest()
        index = Path(folder) / "info" / "index.json"
        record = rattler.PackageRecord.from_index_json(index, sha256=digest, size=len(data))
    channel = url.removesuffix(f"/{path.parent.name}/{path.name}")
    return rattler.RepoDataRecord(record, path.name, url, channel)


def _print(answer: Mapping[str, Any] | Sequence[Any]) -> None:
    print(json.dumps(answer, indent=4))

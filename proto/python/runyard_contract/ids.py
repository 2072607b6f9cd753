"""Names, run ids and resource names (AIP-122), with their rules.

Names keep their case and are unique without it: `name_key` gives the form to compare.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import NoReturn, Self

from runyard_contract.errors import NameInvalid
from runyard_contract.limits import METRIC_NAME_BYTES, TAG_KEY_BYTES
from runyard_contract.paths import shown
from runyard_contract.value import value_class

# Texts: `re` compiles a pattern when it is first asked for, and keeps it. Most commands use one.
_EXPERIMENT = r"[A-Za-z0-9][A-Za-z0-9_-]{0,35}"
_WORKSPACE = r"[A-Za-z0-9][A-Za-z0-9_-]{2,32}"
_COMPUTE = r"[A-Za-z][A-Za-z0-9-]{1,15}"
_ENVIRONMENT = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}"
_ENVIRONMENT_VERSION = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,29}"
_RUN_ID = r"([A-Za-z0-9][A-Za-z0-9_-]{0,35})_([0-9]{1,12})_([0-9a-f]{8})"
_NOT_EXPERIMENT = r"[^A-Za-z0-9_-]+"
# Controls, surrogates, line and paragraph separators, and what reorders the text around it.
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
_REORDERING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

RUN_ID_RANDOM_BYTES = 4
_RUN_NAMES = 1024


def name_key(name: str) -> str:
    """The form of a name by which it is unique: names differ by more than their case."""
    return name.casefold()


def _refuse(kind: str, name: str, rule: str) -> NoReturn:
    """Raises NameInvalid; a long name is shown by its start."""
    cut = shown(name if len(name) <= 64 else name[:64] + "…")
    raise NameInvalid(
        f'"{cut}" is no {kind} name', hint=f"use {rule}", kind=kind, name=cut, rule=rule
    )


def check_experiment_name(name: str) -> str:
    """Returns the name of an experiment, else raises NameInvalid."""
    if not re.fullmatch(_EXPERIMENT, name):
        rule = "1 to 36 ASCII letters, digits, - and _, the first a letter or a digit"
        _refuse("experiment", name, rule)
    return name


def check_workspace_name(name: str) -> str:
    """Returns the name of a workspace, else raises NameInvalid."""
    if not re.fullmatch(_WORKSPACE, name):
        rule = "3 to 33 ASCII letters, digits, - and _, the first a letter or a digit"
        _refuse("workspace", name, rule)
    return name


def check_compute_name(name: str) -> str:
    """Returns the name of a compute target, else raises NameInvalid."""
    if not re.fullmatch(_COMPUTE, name):
        _refuse("compute", name, "2 to 16 ASCII letters, digits and -, the first a letter")
    return name


def check_environment_name(name: str) -> str:
    """Returns the name of an environment, else raises NameInvalid."""
    if not re.fullmatch(_ENVIRONMENT, name):
        rule = "1 to 255 ASCII letters, digits, -, _ and ., the first a letter or a digit"
        _refuse("environment", name, rule)
    return name


def check_environment_version(version: str) -> str:
    """Returns the version of an environment, else raises NameInvalid."""
    if not re.fullmatch(_ENVIRONMENT_VERSION, version):
        rule = "1 to 30 ASCII letters, digits, -, _ and ., the first a letter or a digit"
        _refuse("environment version", version, rule)
    return version


def check_run_id(run_id: str) -> str:
    """Returns the id of a run, else raises NameInvalid."""
    if not re.fullmatch(_RUN_ID, run_id):
        _refuse("run", run_id, "the id that `runyard runs list` shows")
    return run_id


def check_tag_key(key: str) -> str:
    """Returns the key of a tag or property, else raises NameInvalid."""
    return _check_text("tag", key, TAG_KEY_BYTES)


def check_metric_name(name: str) -> str:
    """Returns the name of a metric, else raises NameInvalid."""
    return _check_text("metric", name, METRIC_NAME_BYTES)


def _check_text(kind: str, text: str, limit_bytes: int) -> str:
    """Returns free text of one line without anything hidden in it."""
    if text and len(text) <= limit_bytes:
        hidden = any(
            c in _REORDERING or unicodedata.category(c) in _HIDDEN_CATEGORIES for c in text
        )
        if not hidden and len(text.encode()) <= limit_bytes:
            return text
    rule = f"1 to {limit_bytes} bytes of text on one line, without control characters"
    _refuse(kind, text, rule)


def experiment_from_folder(folder_name: str) -> str:
    """The experiment that runs of a folder belong to unless told otherwise.

    Runs of characters other than ASCII letters, digits, `_` and `-` become one `-`; the start is
    cut to a letter or digit, the whole to 36 characters; "default" where nothing is left.
    """
    name = re.sub(_NOT_EXPERIMENT, "-", folder_name).lstrip("-_")[:36]
    return name or "default"


def make_run_id(experiment: str, unix_s: int, random: bytes) -> str:
    """The id of a new run: `<experiment>_<unix seconds>_<8 hex>`, from 4 random bytes."""
    if len(random) != RUN_ID_RANDOM_BYTES:
        raise ValueError(f"a run id takes {RUN_ID_RANDOM_BYTES} random bytes, not {len(random)}")
    return f"{experiment}_{unix_s}_{random.hex()}"


def experiment_of(run_id: str) -> str:
    """The experiment in a run id. Raises NameInvalid for what is no run id."""
    check_run_id(run_id)
    return run_id.rsplit("_", 2)[0]


def _split_name(text: str, *collections: str) -> list[str]:
    """The ids in a resource name of these collections, in order; NameInvalid for another form."""
    parts = text.split("/")
    if tuple(parts[0::2]) != collections or len(parts) != 2 * len(collections):
        form = "/".join(f"{collection}/…" for collection in collections)
        _refuse("resource", text, f"the form {form}")
    return parts[1::2]


@value_class
class WorkspaceName:
    """`workspaces/W`."""

    workspace: str

    def __str__(self) -> str:
        return f"workspaces/{self.workspace}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads the resource name, or raises NameInvalid."""
        (workspace,) = _split_name(text, "workspaces")
        return cls(check_workspace_name(workspace))


@value_class
class ComputeName:
    """`workspaces/W/computes/C`."""

    workspace: str
    compute: str

    def __str__(self) -> str:
        return f"workspaces/{self.workspace}/computes/{self.compute}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads the resource name, or raises NameInvalid."""
        workspace, compute = _split_name(text, "workspaces", "computes")
        return cls(check_workspace_name(workspace), check_compute_name(compute))


@value_class
class ExperimentName:
    """`workspaces/W/experiments/E`."""

    workspace: str
    experiment: str

    def __str__(self) -> str:
        return f"workspaces/{self.workspace}/experiments/{self.experiment}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads the resource name, or raises NameInvalid."""
        workspace, experiment = _split_name(text, "workspaces", "experiments")
        return cls(check_workspace_name(workspace), check_experiment_name(experiment))


@value_class
class RunName:
    """`workspaces/W/experiments/E/runs/R`."""

    workspace: str
    experiment: str
    run: str

    def __str__(self) -> str:
        return f"workspaces/{self.workspace}/experiments/{self.experiment}/runs/{self.run}"

    @classmethod
    def parse(cls, text: str) -> RunName:
        """Reads the resource name, or raises NameInvalid."""
        return _run_name(text)


@lru_cache(maxsize=_RUN_NAMES)
def _run_name(text: str) -> RunName:
    """A run is named in every message about it: each name is looked at once."""
    workspace, experiment, run = _split_name(text, "workspaces", "experiments", "runs")
    return RunName(
        check_workspace_name(workspace), check_experiment_name(experiment), check_run_id(run)
    )


@value_class
class EnvironmentName:
    """`workspaces/W/environments/E/versions/V`."""

    workspace: str
    environment: str
    version: str

    def __str__(self) -> str:
        return (
            f"workspaces/{self.workspace}/environments/{self.environment}/versions/{self.version}"
        )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads the resource name, or raises NameInvalid."""
        workspace, environment, version = _split_name(
            text, "workspaces", "environments", "versions"
        )
        return cls(
            check_workspace_name(workspace),
            check_environment_name(environment),
            check_environment_version(version),
        )

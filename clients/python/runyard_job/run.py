"""The run that a script belongs to, and the one that prints where there is none."""

from __future__ import annotations

import os
from time import time
from typing import TYPE_CHECKING, Any, Callable, Mapping

from runyard_job.journal import Journal
from runyard_job.notices import say_once
from runyard_job.values import (
    INT_MAX,
    INT_MIN,
    LINE_MAX_BYTES,
    NotKept,
    list_json,
    name_json,
    row_json,
    scalar_json,
    shown,
    text_json,
)

if TYPE_CHECKING:
    from runyard_job.files import PathOrStream

_HEADS_MAX = 4096


class NotInRun(RuntimeError):
    """The process does not belong to a run, and an offline run was not allowed."""


class Experiment:
    """The experiment of the current run."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return "Experiment(%r)" % self.name


class Run:
    """The current run, as its own script sees it. `Run.get_context()` gives it.

    `log`, `log_list`, `log_row`, `tag`, `set_tags` and `add_properties` take microseconds and never
    raise: what can't be kept (not a number or string, an invalid name, too long) is left out, with
    one line on stderr that names it. The upload methods do raise.
    """

    def __init__(self, run_id: str, experiment: str, job_dir: str) -> None:
        self._id = run_id
        self._experiment = Experiment(experiment)
        self._job_dir = job_dir
        self._metrics = Journal(os.path.join(job_dir, "metrics.jsonl"))
        self._labels = Journal(os.path.join(job_dir, "tags.jsonl"))
        self._tags: dict[str, str] = {}
        self._heads: dict[str, str] = {}  # metric name -> start of its line, for names found valid

    @staticmethod
    def get_context(allow_offline: bool = True) -> Run:
        """The run of this process: the same object at each call.

        Outside a job it is an offline run, which prints what would be kept; with
        `allow_offline=False` it raises `NotInRun` instead.
        """
        return _context(allow_offline)

    @property
    def id(self) -> str:
        """The run's id, such as `iris_1764000000_0a1b2c3d`."""
        return self._id

    @property
    def experiment(self) -> Experiment:
        """The experiment that the run belongs to; `.name` is its name."""
        return self._experiment

    def log(self, name: str, value: Any, description: str = "", step: int | None = None) -> None:
        """Logs one number or string under `name`; logged again, the metric becomes a list.

        `step` is an optional whole number to plot against. `description` is accepted for the sake
        of older scripts and not kept.
        """
        try:
            kind = type(value)
            if name in self._heads and step is None:
                # The common case by itself: a known name with a plain finite number.
                if (kind is float and value - value == 0.0) or (
                    kind is int and INT_MIN <= value <= INT_MAX
                ):
                    line = '{"t":%.6f,%s%r}\n' % (time(), self._heads[name], value)
                    self._metrics.append(line.encode("ascii"))
                    return
            self._log_checked(name, value, step)
        except Exception as error:  # a metric must never end a training
            _say_left_out("metric", name, error)

    def log_list(self, name: str, value: Any, description: str = "") -> None:
        """Logs a list of at most 10,000 numbers and strings under `name`, in one entry."""
        self._append_metric("l", name, lambda: list_json(value))

    def log_row(self, name: str, description: str | None = None, **kwargs: Any) -> None:
        """Logs one row of the table `name`: each keyword is a column with a number or string."""
        self._append_metric("r", name, lambda: row_json(kwargs))

    def tag(self, key: str, value: str | None = None) -> None:
        """Sets a tag of the run. Without a value the tag is empty; other values become text."""
        self._append_label("tag", key, value)

    def set_tags(self, tags: Mapping[str, str | None]) -> None:
        """Sets each tag of the mapping."""
        self._append_labels("tag", tags)

    def get_tags(self) -> dict[str, str]:
        """The tags that this process has set: those of the submit are not known inside a job."""
        return dict(self._tags)

    def add_properties(self, properties: Mapping[str, str | None]) -> None:
        """Adds each property of the mapping to the run; properties can't be changed later."""
        self._append_labels("property", properties)

    def upload_file(self, name: str, path_or_stream: PathOrStream) -> None:
        """Keeps a file, or what an open stream still holds, with the run as `name`.

        The content is copied before the call returns. `name` is a relative path such as
        `outputs/model.pkl`. Raises `ValueError` for a bad name, `OSError` when copying fails.
        """
        from runyard_job.files import stage  # not every script uploads; log calls start sooner

        stage(self._job_dir, name, path_or_stream)

    def upload_folder(self, name: str, path: str) -> None:
        """Keeps every file below the folder `path` with the run, under `name/`."""
        from runyard_job.files import check_file_name, stage, walk_folder

        check_file_name(name)
        for file_name, file_path in walk_folder(name, path):
            stage(self._job_dir, file_name, file_path)

    def flush(self, timeout_seconds: float = 300) -> None:
        """Does nothing: whatever was logged is written already. Kept for older scripts."""

    def complete(self) -> None:
        """Does nothing: a run ends with its script. Kept for older scripts."""

    def __repr__(self) -> str:
        return "%s(%s)" % (type(self).__name__, self._id)

    def _log_checked(self, name: str, value: Any, step: int | None) -> None:
        head = '"k":"s","n":%s,"v":' % name_json(name)
        if len(self._heads) < _HEADS_MAX:  # names made up step by step must not fill the memory
            self._heads[name] = head
        tail = "" if step is None else _step_json(name, step)
        line = '{"t":%.6f,%s%s%s}\n' % (time(), head, scalar_json(value), tail)
        self._metrics.append(line.encode("ascii"))

    def _append_metric(self, kind: str, name: str, value_json: Callable[[], str]) -> None:
        try:
            line = '{"t":%.6f,"k":"%s","n":%s,"v":%s}\n' % (
                time(),
                kind,
                name_json(name),
                value_json(),
            )
            if len(line) > LINE_MAX_BYTES:
                raise NotKept("it takes more than %d bytes" % LINE_MAX_BYTES)
            self._metrics.append(line.encode("ascii"))
        except Exception as error:  # a metric must never end a training
            _say_left_out("metric", name, error)

    def _append_labels(self, kind: str, labels: Mapping[str, str | None]) -> None:
        try:
            pairs = list(labels.items())
        except Exception as error:  # not a dict; nor must that end a training
            _say_left_out(kind, labels, error)
            return
        for key, value in pairs:
            self._append_label(kind, key, value)

    def _append_label(self, kind: str, key: str, value: str | None) -> None:
        try:
            text = "" if value is None else str(value)
            line = '{"t":%.6f,"k":"%s","n":%s,"v":%s}\n' % (
                time(),
                kind,
                name_json(key),
                text_json(text),
            )
            self._labels.append(line.encode("ascii"))
            if kind == "tag":
                self._tags[key] = text
        except Exception as error:  # nor must a tag
            _say_left_out(kind, key, error)


class OfflineRun(Run):
    """The run of a script that was started by hand: prints what a job would keep."""

    def __init__(self) -> None:
        import uuid  # only here: a run in a job starts without it

        super().__init__("OfflineRun_%s" % uuid.uuid4(), "offline", "")

    def log(self, name: str, value: Any, description: str = "", step: int | None = None) -> None:
        """Prints the metric."""
        print("Attempted to log scalar metric %s:\n%s" % (name, value))

    def log_list(self, name: str, value: Any, description: str = "") -> None:
        """Prints the list."""
        print("Attempted to log list metric %s:\n%s" % (name, value))

    def log_row(self, name: str, description: str | None = None, **kwargs: Any) -> None:
        """Prints the row."""
        print("Attempted to log row metric %s:\n%s" % (name, kwargs))

    def tag(self, key: str, value: str | None = None) -> None:
        """Prints the tag and keeps it for `get_tags`."""
        self.set_tags({key: value})

    def set_tags(self, tags: Mapping[str, str | None]) -> None:
        """Prints the tags and keeps them for `get_tags`."""
        print("Attempted to set tags %s" % dict(tags))
        self._tags.update({k: "" if v is None else str(v) for k, v in tags.items()})

    def add_properties(self, properties: Mapping[str, str | None]) -> None:
        """Prints the properties."""
        print("Attempted to add properties %s" % dict(properties))

    def upload_file(self, name: str, path_or_stream: PathOrStream) -> None:
        """Prints the name and where the file lies."""
        print("Attempted to track file %s at %s" % (name, path_or_stream))

    def upload_folder(self, name: str, path: str) -> None:
        """Prints the name and where the folder lies."""
        print("Attempted to track folder %s at %s" % (name, path))


_contexts: dict[tuple[str, str], Run] = {}


def _context(allow_offline: bool) -> Run:
    run_id = os.environ.get("RUNYARD_RUN_ID", "")
    job_dir = os.environ.get("RUNYARD_JOB_DIR", "")
    if not (run_id and job_dir):
        if not allow_offline:
            raise NotInRun(
                "this process does not belong to a run: RUNYARD_RUN_ID and RUNYARD_JOB_DIR are not"
                " set; start the script with `runyard run`, or call get_context() without"
                " allow_offline=False"
            )
        run_id = job_dir = ""
    run = _contexts.get((run_id, job_dir))
    if run is None:
        experiment = os.environ.get("RUNYARD_EXPERIMENT", "")
        made = Run(run_id, experiment, job_dir) if run_id else OfflineRun()
        run = _contexts.setdefault((run_id, job_dir), made)
    return run


def _step_json(name: str, step: Any) -> str:
    """The end of a line that has a step; a step that is no whole number is left out alone."""
    item = getattr(step, "item", None)
    step = item() if callable(item) else step
    if isinstance(step, int) and not isinstance(step, bool) and INT_MIN <= step <= INT_MAX:
        return ',"i":%d' % step
    say_once("step of " + name, "step of metric %s left out: not a whole number" % shown(name))
    return ""


def _say_left_out(kind: str, name: object, error: Exception) -> None:
    why = str(error) if isinstance(error, NotKept) else "%s: %s" % (type(error).__name__, error)
    say_once(kind + shown(name), "%s %s left out: %s" % (kind, shown(name), why.split("\n")[0]))

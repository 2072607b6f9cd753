"""Limits that both sides of the wire keep. Units are in the names."""

from __future__ import annotations

# ---- snapshots
SNAPSHOT_MAX_BYTES = 1 << 30
SNAPSHOT_MAX_FILES = 100_000
SNAPSHOT_MAX_ENTRIES = 4 * SNAPSHOT_MAX_FILES  # files, links and directories
CHUNK_BYTES = 4 << 20
CHUNKED_ABOVE_BYTES = 8 << 20  # a larger file is kept as chunks, so no blob is larger than this
DIRECTORY_SPLIT_ENTRIES = 512  # a directory with more is split in its manifest
INLINE_MANIFEST_BYTES = 256 << 10  # what a lease carries in itself
INLINE_MANIFESTS = 64  # and in how many: to look through more takes longer than they save
IGNORE_FILE_BYTES = 1 << 20
NAME_BYTES = 255  # one component of a path, in UTF-8 (NAME_MAX of Linux)
PATH_BYTES = 4000  # a whole relative path: leaves room for a root below PATH_MAX
PATH_COMPONENTS = 256

LOCK_BYTES = 4 << 20  # the text of an environment's lock

# ---- sealed environments: the files of one, each counted as often as it comes
SEALED_MAX_FILES = 1_000_000
SEALED_MAX_BYTES = 256 << 30

# ---- messages and uploads
MESSAGE_BYTES = 16 << 20  # both directions of every gRPC channel
# A request to RunService: its maps take many times their size in memory once they are read.
RUN_REQUEST_BYTES = 4 << 20
UPLOAD_BATCH_BYTES = 1 << 20
LOG_CHUNK_BYTES = 1 << 20
ERROR_STATUS_BYTES = 4096  # of grpc-status-details-bin: trailers over 8 KiB are dropped

# ---- what an agent tells
BUILT_ENVIRONMENTS_MAX = 10_000  # those used longest ago are left out

# ---- lists
PAGE_SIZE_DEFAULT = 50
PAGE_SIZE_MAX = 1000

# ---- a run
RUNS_MAX = 1000  # of one BatchCreateRuns
TAGS_MAX = 64
TAG_KEY_BYTES = 255
TAG_VALUE_BYTES = 8192
ARGUMENTS_MAX = 10_000
ARGUMENTS_BYTES = 1 << 20  # of all arguments together (Linux takes 2 MiB with the environment)
ENV_VARS_MAX = 1000
ENV_BYTES = 512 << 10  # of all names and values together
METRIC_NAME_BYTES = 255
PRIORITY_MIN = -1000
PRIORITY_MAX = 1000
MAX_DURATION_S = 366 * 86_400.0
CPUS_MAX = 4096
GPUS_MAX = 1024
MEMORY_MAX_BYTES = 1 << 46

"""The smaller sections of a run configuration. Most are read and kept for the targets to come."""

from __future__ import annotations

from dataclasses import dataclass, field

from runyard.schema import named

SUPPORTED_DATAREF_MODES = ["mount", "download", "upload"]


@dataclass(slots=True)
class HistoryConfiguration:
    """What Azure ML kept of a run. Means nothing here: all of it is always kept."""

    output_collection: bool = True
    snapshot_project: bool = True
    directories_to_watch: list[str] = field(default_factory=lambda: ["logs"])


def _default_spark_settings() -> dict[str, str]:
    return {"spark.app.name": "Azure ML Experiment", "spark.yarn.maxAppAttempts": "1"}


@dataclass(slots=True)
class SparkConfiguration:
    """Spark's own settings, for runs with the framework PySpark."""

    configuration: dict[str, str] = field(default_factory=_default_spark_settings)


@dataclass(slots=True)
class HdiConfiguration:
    """HDInsight: `yarn_deploy_mode` is "cluster" or "client"."""

    yarn_deploy_mode: str = "cluster"


@dataclass(slots=True)
class TensorflowConfiguration:
    """Numbers of processes of a distributed TensorFlow run."""

    worker_count: int = 1
    parameter_server_count: int = 1


@dataclass(slots=True)
class MpiConfiguration:
    """MPI processes on each node."""

    process_count_per_node: int = 1


@dataclass(slots=True)
class AmlComputeConfiguration:
    """The cluster that a run with the target "amlcompute" would have had made for itself."""

    vm_size: str | None = None
    vm_priority: str | None = None
    retain_cluster: bool = False
    name: str | None = None
    cluster_max_node_count: int = 1


@dataclass(slots=True)
class DataReferenceConfiguration:
    """Data of a datastore that a run wants; `mode` is one of `SUPPORTED_DATAREF_MODES`."""

    datastore_name: str | None = field(default=None, metadata=named("dataStoreName"))
    mode: str = "mount"
    path_on_datastore: str | None = field(default=None, metadata=named("pathOnDataStore"))
    path_on_compute: str | None = None
    overwrite: bool = False

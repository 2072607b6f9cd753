"""Run configurations: where and how a script runs, in memory and as `.runconfig` files."""

from __future__ import annotations

from runyard.docker_section import (
    DEFAULT_CPU_IMAGE,
    DEFAULT_GPU_IMAGE,
    ContainerRegistry,
    DockerSection,
)
from runyard.environment import Environment
from runyard.environment_sections import PythonSection, SparkPackage, SparkSection
from runyard.runconfig.configuration import RunConfiguration
from runyard.runconfig.files import LOCAL_RUNCONFIG_NAME
from runyard.runconfig.sections import (
    SUPPORTED_DATAREF_MODES,
    AmlComputeConfiguration,
    DataReferenceConfiguration,
    HdiConfiguration,
    HistoryConfiguration,
    MpiConfiguration,
    SparkConfiguration,
    TensorflowConfiguration,
)

# The names that Azure ML had for these.
AzureContainerRegistry = ContainerRegistry
DockerEnvironment = DockerSection
EnvironmentDefinition = Environment
PythonEnvironment = PythonSection
SparkEnvironment = SparkSection
MPI_CPU_IMAGE = DEFAULT_CPU_IMAGE
MPI_GPU_IMAGE = DEFAULT_GPU_IMAGE

__all__ = [
    "DEFAULT_CPU_IMAGE",
    "DEFAULT_GPU_IMAGE",
    "LOCAL_RUNCONFIG_NAME",
    "MPI_CPU_IMAGE",
    "MPI_GPU_IMAGE",
    "SUPPORTED_DATAREF_MODES",
    "AmlComputeConfiguration",
    "AzureContainerRegistry",
    "ContainerRegistry",
    "DataReferenceConfiguration",
    "DockerEnvironment",
    "EnvironmentDefinition",
    "HdiConfiguration",
    "HistoryConfiguration",
    "MpiConfiguration",
    "PythonEnvironment",
    "RunConfiguration",
    "SparkConfiguration",
    "SparkEnvironment",
    "SparkPackage",
    "TensorflowConfiguration",
]

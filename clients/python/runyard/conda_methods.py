"""Methods of Azure ML's CondaDependencies that few scripts call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from runyard_contract.errors import SpecInvalid, Unsupported


class SeldomMethods(ABC):
    """What is said in terms of the other methods, and what is refused."""

    __slots__ = ()

    @abstractmethod
    def add_pip_package(self, pip_package: str) -> None:
        """Adds a pip requirement."""

    @abstractmethod
    def add_conda_package(self, conda_package: str) -> None:
        """Adds a conda package."""

    def add_tensorflow_pip_package(
        self, core_type: str = "cpu", version: str | None = None
    ) -> None:
        """Adds TensorFlow from pip, "tensorflow-gpu" where `core_type` is "gpu"."""
        name = _tensorflow(core_type)
        self.add_pip_package(f"{name}=={version}" if version else name)

    def add_tensorflow_conda_package(
        self, core_type: str = "cpu", version: str | None = None
    ) -> None:
        """Adds TensorFlow from conda, "tensorflow-gpu" where `core_type` is "gpu"."""
        name = _tensorflow(core_type)
        self.add_conda_package(f"{name}={version}" if version else name)

    def add_cntk_package(self, core_type: str = "cpu") -> None:
        """Raises `Unsupported`: CNTK has no release for a Python that is still looked after."""
        raise Unsupported(
            "CNTK is not served: its last release is of 2019, for Python 3.6",
            hint="use another framework, or an image with CNTK in it:"
            " Environment.from_docker_image",
            option="add_cntk_package",
        )

    @staticmethod
    def merge_requirements(requirements: Iterable[str]) -> list[str]:
        """The requirements without exact repeats, in the order in which each came first."""
        return list(dict.fromkeys(one.strip() for one in requirements))

    @staticmethod
    def get_default_number_of_packages() -> int:
        """How many packages there are without adding one: none, unlike in Azure ML."""
        return 0

    @staticmethod
    def sdk_origin_url() -> str:
        """Raises `Unsupported`: runyard's packages come from wherever pip is told to look."""
        raise Unsupported(
            "sdk_origin_url is not served: runyard has no package index of its own",
            hint="name the index of your packages with set_pip_index_url",
            option="sdk_origin_url",
        )


def _tensorflow(core_type: str) -> str:
    names = {"cpu": "tensorflow", "gpu": "tensorflow-gpu"}
    if core_type not in names:
        raise SpecInvalid(
            f"core_type is 'cpu' or 'gpu', not {core_type!r}",
            hint='write core_type="gpu"',
        )
    return names[core_type]

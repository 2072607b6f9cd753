"""Which package to install for a module that cannot be imported."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_DISTRIBUTIONS: Mapping[str, str] = MappingProxyType(
    {
        "attr": "attrs",
        "bs4": "beautifulsoup4",
        "Crypto": "pycryptodome",
        "cv2": "opencv-python-headless",
        "dateutil": "python-dateutil",
        "docx": "python-docx",
        "dotenv": "python-dotenv",
        "fitz": "pymupdf",
        "git": "GitPython",
        "google.protobuf": "protobuf",
        "jwt": "PyJWT",
        "Levenshtein": "python-Levenshtein",
        "lightning_fabric": "lightning",
        "MySQLdb": "mysqlclient",
        "OpenSSL": "pyOpenSSL",
        "PIL": "pillow",
        "psycopg2": "psycopg2-binary",
        "pytorch_lightning": "pytorch-lightning",
        "serial": "pyserial",
        "skimage": "scikit-image",
        "sklearn": "scikit-learn",
        "umap": "umap-learn",
        "yaml": "PyYAML",
    }
)
"""Modules whose distribution has another name, among those that training code imports."""


def distribution_of(module: str) -> str:
    """Gives the name to install for `module`; its first part where nothing else is known."""
    top = module.partition(".")[0]
    return _DISTRIBUTIONS.get(module) or _DISTRIBUTIONS.get(top) or top

from __future__ import annotations

import pytest

from runyard_contract.errors import SpecInvalid
from runyard_daemon.rpc.convert.specs import to_wish
from runyardpb.v1 import runs_pb2


@pytest.mark.parametrize("name", ["refresh_environment", "seal_environment"])
def test_what_is_not_served_yet_is_refused_by_name(name: str) -> None:
    spec = runs_pb2.RunSpec(kind=runs_pb2.RunSpec.KIND_ENVIRONMENT_BUILD, **{name: True})

    with pytest.raises(SpecInvalid) as caught:
        to_wish(spec, "default")

    assert f"spec.{name}" in caught.value.message

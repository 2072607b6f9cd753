"""Options of `docker run` as the engine's request."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard_contract.docker_arguments import (
    DockerArgumentInvalid,
    parse_docker_arguments,
    size_bytes,
)


@pytest.mark.parametrize(
    ("arguments", "host"),
    [
        (["--shm-size=1g"], {"ShmSize": 1 << 30}),
        (["--shm-size", "1.5k"], {"ShmSize": 1536}),
        (["-m", "512m", "--memory-swap=-1"], {"Memory": 512 << 20, "MemorySwap": -1}),
        (["--cpus=1.5", "--cpuset-cpus=0-3"], {"NanoCpus": 1_500_000_000, "CpusetCpus": "0-3"}),
        (["--net=host", "--ipc=host"], {"NetworkMode": "host", "IpcMode": "host"}),
        (["--init", "--read-only=false"], {"Init": True, "ReadonlyRootfs": False}),
        (["--cap-add=SYS_PTRACE", "--cap-add", "IPC_LOCK"], {"CapAdd": ["SYS_PTRACE", "IPC_LOCK"]}),
        (
            ["--ulimit=nofile=1024:2048", "--ulimit", "memlock=-1"],
            {
                "Ulimits": [
                    {"Name": "nofile", "Soft": 1024, "Hard": 2048},
                    {"Name": "memlock", "Soft": -1, "Hard": -1},
                ]
            },
        ),
        (
            ["--gpus=all"],
            {"DeviceRequests": [{"Driver": "", "Capabilities": [["gpu"]], "Count": -1}]},
        ),
        (
            ['--gpus="device=0,2"'],
            {
                "DeviceRequests": [
                    {"Driver": "", "Capabilities": [["gpu"]], "DeviceIDs": ["0", "2"]}
                ]
            },
        ),
        (
            ["-v", "/data:/data:ro"],
            {
                "Mounts": [
                    {"Type": "bind", "Source": "/data", "Target": "/data", "ReadOnly": True},
                ]
            },
        ),
        (
            ["--mount=type=tmpfs,dst=/scratch,tmpfs-size=64m"],
            {
                "Mounts": [
                    {
                        "Type": "tmpfs",
                        "Source": "",
                        "Target": "/scratch",
                        "ReadOnly": False,
                        "TmpfsOptions": {"SizeBytes": 64 << 20},
                    }
                ]
            },
        ),
        (["--sysctl=net.core.somaxconn=1024"], {"Sysctls": {"net.core.somaxconn": "1024"}}),
    ],
)
def test_options_become_fields_of_the_host_part(arguments: list[str], host: dict[str, Any]) -> None:
    assert parse_docker_arguments(arguments).host == host


def test_variables_labels_and_the_hostname_are_fields_of_the_request() -> None:
    options = parse_docker_arguments(["-e", "A=b=c", "--env=D=", "-h", "node", "--label=a=1"])

    assert options.config == {"Env": ["A=b=c", "D="], "Hostname": "node", "Labels": {"a": "1"}}


def test_paths_that_must_exist_are_those_of_bind_mounts() -> None:
    arguments = ["-v", "/a:/x", "-v=cache:/y", "--mount=type=bind,src=/b,dst=/z"]

    assert parse_docker_arguments(arguments).bind_sources() == ["/a", "/b"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shm_size=1g"], "did you mean --shm-size?"),
        (["--shm-size"], "--shm-size has no value: write --shm-size=VALUE as one item"),
        (["--shm-size", "--init"], "--shm-size has no value"),
        (["--shm-size=lots"], '--shm-size "lots": not a size such as "512m" or "8g"'),
        (["--cpus=nan"], '--cpus "nan": not a number of cores'),
        (["--name=mine"], "--name can't be given: runyard names containers by their runs"),
        (["-d"], "-d can't be given: runyard waits for the job"),
        (["--user=0"], "jobs run as the agent's user"),
        (["--pid=host"], "process namespace"),
        (["train.py"], '"train.py" belongs to no option of docker run'),
        (["-v", "data"], "not SOURCE:TARGET"),
        (["-v", "./data:/data"], '"./data" is neither an absolute path of the node nor a volume'),
        (["-v", "/data:data"], '"data" is not an absolute path of the container'),
        (["--mount=type=bind,sorce=/a,target=/b"], "did you mean source?"),
        (["--label=runyard.run=x"], "runyard's own"),
        (["--gpus=some"], 'not "all", a number'),
        (["--security-opt=seccomp=/p.json"], "profiles in files are not read"),
    ],
)
def test_what_is_wrong_is_said_by_name(arguments: list[str], message: str) -> None:
    with pytest.raises(DockerArgumentInvalid) as raised:
        parse_docker_arguments(arguments)

    assert message in raised.value.message


@given(st.lists(st.text(max_size=30) | st.sampled_from(["--mount=", "-v", "--ulimit=a="])))
def test_any_text_is_taken_or_refused(arguments: list[str]) -> None:
    with contextlib.suppress(DockerArgumentInvalid):
        assert parse_docker_arguments(arguments) is not None


def test_a_size_is_counted_in_powers_of_1024() -> None:
    assert [size_bytes(text) for text in ("7", "7b", "2K", "1.5GiB")] == [7, 7, 2048, 3 << 29]

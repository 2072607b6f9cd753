"""Bundles whose program runs in a container, made as the agent makes them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from runyard_agent import bundles
from runyard_agent import launch_container as inside
from runyard_agent.environments.protocol import Container, ProvidedEnvironment
from runyard_agent.launch import Specs
from runyardpb.agent.v1 import agent_pb2 as pb
from runyardpb.v1 import runs_pb2
from runyardpb.v1.environments_pb2 import BindMount, DockerImage
from support.docker_engine import PYTHON_IMAGE, DockerEngine
from support.supervised import Bundle, Node, Peer


class Contained:
    """Makes and executes runs in containers of one engine."""

    def __init__(self, engine: DockerEngine, node: Node) -> None:
        self.engine = engine
        self.node = node
        self._count = 0
        self._library = node.root / "library.zip"
        self._library.write_bytes(b"")

    def bundle(
        self,
        argv: list[str | bytes],
        *,
        image: str = PYTHON_IMAGE,
        shell: str = "/bin/sh",
        engine: str = "",
        gpus: tuple[int, ...] = (),
        options: DockerImage | None = None,
        **fields: Any,
    ) -> Bundle:
        """A bundle that is ready for the supervisor."""
        self._count += 1
        run_id = f"contained_{1_764_000_000 + self._count}_{os.urandom(4).hex()}"
        path = self.node.root / f"{run_id}.1"
        for name in ("work", "job"):
            (path / name).mkdir(parents=True)
        items = [item.encode() if isinstance(item, str) else item for item in argv]
        lease = pb.Lease(
            ref=pb.AttemptRef(
                run=f"workspaces/default/experiments/contained/runs/{run_id}", attempt=1, epoch=7
            ),
            spec=runs_pb2.RunSpec(command={"argv": items}, **fields),
        )
        container = Container(
            engine=engine or str(self.engine.socket),
            image=self.engine.docker("image", "inspect", "-f", "{{.Id}}", image).stdout.strip(),
            shell=shell,
            options=options or DockerImage(network="none"),
        )
        specs = Specs(is_local=True, library=str(self._library), spool_bound_bytes=1 << 28)
        environment = ProvidedEnvironment(python=b"/usr/local/bin/python3", container=container)
        inner = bundles.Bundle(str(path), bundles.Key(run_id, 1))
        inner.write_spec(specs.content(lease, inner, environment, gpus, {}))
        return Bundle(path)

    def spawn(self, peer: Peer, argv: list[str | bytes], **values: Any) -> Bundle:
        """Hands a run over."""
        bundle = self.bundle(argv, **values)
        peer.send(op="spawn", bundle=str(bundle.path))
        return bundle

    def run(
        self, peer: Peer, argv: list[str | bytes], **values: Any
    ) -> tuple[Bundle, dict[str, Any]]:
        """Executes a run to its end: the bundle and its exit record."""
        bundle = self.spawn(peer, argv, **values)
        return bundle, peer.finish(bundle)

    def name(self, bundle: Bundle) -> str:
        """The name of a run's container."""
        name: str = bundle.record("spec.json")["container"]["name"]
        return name

    def leftovers(self, bundle: Bundle) -> list[str]:
        """Containers of a run that are still there, running or not."""
        run_id = bundle.record("spec.json")["run_id"]
        return self.engine.containers(f"label=runyard.run={run_id}")


def python(source: str) -> list[str | bytes]:
    """The command of a Python job in the image."""
    return ["python3", "-c", source]


def in_container(
    content: dict[str, Any], bundle: bundles.Bundle, engine: DockerEngine, shared: Path
) -> None:
    """Has the program of a spec.json run in a container that sees `shared` where it is.

    The test's own interpreter is the image's.
    """
    library = shared / "library.zip"
    library.touch()
    ref = pb.AttemptRef(attempt=content["attempt"], epoch=content["epoch"])
    spec = runs_pb2.RunSpec(merge_stderr=content["merge_stderr"])
    mount = BindMount(source=os.fsencode(shared), target=str(shared))
    options = DockerImage(network="none", mounts=[mount])
    container = Container(str(engine.socket), PYTHON_IMAGE, "/bin/sh", options)
    argv = [b"python3" if item == sys.executable else os.fsencode(item) for item in content["argv"]]
    variables = {os.fsencode(k): os.fsencode(v) for k, v in content["env"].items()}
    lease = pb.Lease(ref=ref, spec=spec)
    request = inside.request(lease, bundle, container, argv, variables, (), str(library))
    content["argv"] = inside.client_arguments(bundle, "client")
    content["end_argv"] = inside.client_arguments(bundle, "ending")
    content["container"] = {
        "engine": container.engine,
        "name": inside.container_name(lease, bundle),
        "has_shell": True,
        "request": request,
    }

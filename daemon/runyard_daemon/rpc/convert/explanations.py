"""Explanations as clients see them."""

from __future__ import annotations

from runyard_daemon.core.estimate import Estimate
from runyard_daemon.core.explain import Explanation
from runyard_daemon.core.remedy import Change
from runyard_daemon.rpc.convert.specs import from_resources
from runyard_daemon.rpc.convert.times import to_duration, to_timestamp
from runyardpb.v1 import runs_pb2 as pb


def to_explanation(explanation: Explanation, now_us: int) -> pb.ExplainRunResponse:
    """Why a run waits, what it does, or why it ended, and what may become of it."""
    estimate = explanation.estimate
    expected = (estimate.text,) if estimate else ()
    return pb.ExplainRunResponse(
        summary=explanation.summary,
        verdicts=[
            pb.NodeVerdict(node=verdict.node.name, reasons=verdict.reasons())
            for verdict in explanation.verdicts
        ],
        queue_position=explanation.position,
        ahead=explanation.ahead,
        details=(*explanation.details, *expected, *explanation.advice()),
        changes=[_to_change(change) for change in explanation.changes],
        estimate=_to_estimate(estimate, now_us) if estimate else None,
    )


def _to_change(change: Change) -> pb.StartChange:
    return pb.StartChange(
        text=change.text,
        is_at_once=change.is_at_once,
        resources=from_resources(change.request) if change.request is not None else None,
        priority=change.priority,
        cancel=change.cancel,
    )


def _to_estimate(estimate: Estimate, now_us: int) -> pb.Estimate:
    took = estimate.took

    def at(from_now_s: float | None) -> int | None:
        return None if from_now_s is None else now_us + round(from_now_s * 1e6)

    return pb.Estimate(
        text=estimate.text,
        sample_count=took.count if took else 0,
        low_duration=to_duration(took.low_s) if took else None,
        likely_duration=to_duration(took.likely_s) if took else None,
        high_duration=to_duration(took.high_s) if took else None,
        earliest_start_time=to_timestamp(at(estimate.earliest_start_s)),
        latest_start_time=to_timestamp(at(estimate.latest_start_s)),
        earliest_end_time=to_timestamp(at(estimate.earliest_end_s)),
        latest_end_time=to_timestamp(at(estimate.latest_end_s)),
    )

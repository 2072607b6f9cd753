import asyncio
from pathlib import Path

from runyard_agent.attempt import Attempt
from runyard_agent.bundles import Bundle, Key
from runyard_agent.outbox import Outbox
from runyardpb.agent.v1 import agent_pb2 as pb


def ref(number: int = 1) -> pb.AttemptRef:
    run = f"workspaces/default/experiments/t/runs/t_1764000000_0000000{number}"
    return pb.AttemptRef(run=run, attempt=1, epoch=number)


def attempt(outbox: Outbox, number: int = 1) -> Attempt:
    bundle = Bundle("/nowhere", Key(f"t_1764000000_0000000{number}", 1))
    return Attempt(pb.Lease(ref=ref(number)), bundle, outbox.changed)


def said(outbox: Outbox) -> list[pb.SessionRequest]:
    messages = []
    while (message := outbox.take(len(messages) + 2)) is not None:
        messages.append(message)
    return messages


def test_outbox_says_the_newest_state_of_an_attempt_once() -> None:
    outbox = Outbox({})
    run = attempt(outbox)
    run.advance(pb.AttemptReport.PHASE_PREPARING)
    run.started(5)
    run.advance(pb.AttemptReport.PHASE_EXITED)

    messages = said(outbox)

    assert [m.report.phase for m in messages] == [pb.AttemptReport.PHASE_EXITED]
    assert messages[0].report.start_time.ToNanoseconds() == 5


def test_outbox_holds_a_short_run_back_until_its_end() -> None:
    async def body() -> list[pb.SessionRequest]:
        outbox = Outbox({pb.AttemptReport.PHASE_RUNNING: 60.0, pb.AttemptReport.PHASE_EXITED: 60.0})
        run, other = attempt(outbox), attempt(outbox, 2)
        for each in (run, other):
            each.started(5)
        run.advance(pb.AttemptReport.PHASE_EXITED)
        assert said(outbox) == []
        run.advance(pb.AttemptReport.PHASE_ENDED)
        assert await outbox.wait(10)
        return said(outbox)

    assert [m.report.phase for m in asyncio.run(body())] == [pb.AttemptReport.PHASE_ENDED]


def test_outbox_says_what_it_held_back_when_its_time_is_over() -> None:
    async def body() -> list[pb.SessionRequest]:
        outbox = Outbox({pb.AttemptReport.PHASE_RUNNING: 60.0, pb.AttemptReport.PHASE_EXITED: 0.01})
        attempt(outbox).started(5)
        attempt(outbox, 2).advance(pb.AttemptReport.PHASE_EXITED)
        messages: list[pb.SessionRequest] = []
        while not messages:
            assert await outbox.wait(10)
            messages = said(outbox)
        return messages

    assert [m.report.ref.epoch for m in asyncio.run(body())] == [2]


def test_outbox_numbers_its_messages() -> None:
    outbox = Outbox({})
    for number in (1, 2, 3):
        attempt(outbox, number).advance(pb.AttemptReport.PHASE_PREPARING)

    assert [m.sequence for m in said(outbox)] == [2, 3, 4]


def test_outbox_never_goes_back_in_phase() -> None:
    outbox = Outbox({})
    run = attempt(outbox)
    run.advance(pb.AttemptReport.PHASE_EXITED)
    said(outbox)

    run.advance(pb.AttemptReport.PHASE_RUNNING)

    assert said(outbox) == []
    assert run.phase == pb.AttemptReport.PHASE_EXITED


def test_outbox_leaves_to_the_hello_what_changed_before_a_session() -> None:
    outbox = Outbox({})
    attempt(outbox).advance(pb.AttemptReport.PHASE_PREPARING)
    outbox.deny(ref(2))

    for_hello = outbox.new_session()

    assert [report.ref.epoch for report in for_hello] == [2]
    assert said(outbox) == []


def test_outbox_denies_until_the_daemon_has_heard_of_it() -> None:
    outbox = Outbox()
    outbox.deny(ref())

    assert said(outbox)[0].report.end.reason == pb.AttemptEnd.REASON_NEVER_STARTED
    assert len(outbox.new_session()) == 1
    outbox.withdraw(ref())
    assert outbox.new_session() == []


def test_outbox_says_a_collected_folder_again_until_it_is_acknowledged() -> None:
    outbox = Outbox()
    outbox.say_collected(pb.WorkdirCollected(request_id="r"))

    first = said(outbox)
    outbox.new_session()
    second = said(outbox)
    outbox.acknowledged(second[0].sequence)
    outbox.new_session()

    assert [m.workdir_collected.request_id for m in first + second] == ["r", "r"]
    assert said(outbox) == []


def test_outbox_wait_ends_without_news_when_the_time_is_over() -> None:
    async def body() -> tuple[bool, bool]:
        outbox = Outbox()
        idle = await outbox.wait(0.001)
        outbox.deny(ref())
        return idle, await outbox.wait(10)

    assert asyncio.run(body()) == (False, True)


def test_attempt_keeps_a_bounded_number_of_warnings() -> None:
    run = attempt(Outbox({}))
    for number in range(50):
        run.warn(f"file {number}")
        run.warn(f"file {number}")

    assert len(run.warnings) == 21
    assert run.warnings[-1] == "more warnings were left out"
    assert Path(run.bundle.path).name == "nowhere"

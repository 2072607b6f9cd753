import asyncio
import dataclasses
from dataclasses import replace
from pathlib import Path

from runyard_agent.attempt import Attempt
from runyard_agent.bundles import Bundle, Key
from runyard_agent.environments.records import Found, Record
from runyard_agent.outbox import BUSY_REPORTS, Outbox
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

    assert [r.phase for m in messages for r in m.reports] == [pb.AttemptReport.PHASE_EXITED]
    assert messages[0].reports[0].start_time.ToNanoseconds() == 5


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

    assert [r.phase for m in asyncio.run(body()) for r in m.reports] == [
        pb.AttemptReport.PHASE_ENDED
    ]


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

    assert [r.ref.epoch for m in asyncio.run(body()) for r in m.reports] == [2]


def test_outbox_says_several_attempts_in_one_message() -> None:
    outbox = Outbox({})
    for number in (1, 2, 3):
        attempt(outbox, number).advance(pb.AttemptReport.PHASE_PREPARING)

    [message] = said(outbox)

    assert message.sequence == 2
    assert [report.ref.epoch for report in message.reports] == [1, 2, 3]


def test_outbox_holds_an_end_back_only_while_leases_wait() -> None:
    async def body() -> tuple[list[pb.SessionRequest], list[pb.SessionRequest]]:
        is_busy = True
        outbox = Outbox({}, lambda: is_busy)
        attempt(outbox, 1).advance(pb.AttemptReport.PHASE_ENDED)
        early = said(outbox)
        is_busy = False
        outbox.hurry()
        assert await outbox.wait(10)
        return early, said(outbox)

    early, late = asyncio.run(body())
    assert early == []
    assert [r.phase for m in late for r in m.reports] == [pb.AttemptReport.PHASE_ENDED]


def test_outbox_holds_no_more_than_a_number_of_ends_back() -> None:
    async def body() -> tuple[list[pb.SessionRequest], list[pb.SessionRequest]]:
        outbox = Outbox({}, lambda: True)
        for number in range(1, BUSY_REPORTS + 1):
            attempt(outbox, number).advance(pb.AttemptReport.PHASE_ENDED)
        early = said(outbox)
        attempt(outbox, BUSY_REPORTS + 1).advance(pb.AttemptReport.PHASE_ENDED)
        return early, said(outbox)

    early, late = asyncio.run(body())
    assert early == []
    assert [len(message.reports) for message in late] == [BUSY_REPORTS + 1]


def test_outbox_sends_every_end_along_with_what_is_due() -> None:
    async def body() -> list[pb.SessionRequest]:
        is_busy = True
        outbox = Outbox({}, lambda: is_busy)
        attempt(outbox, 1).advance(pb.AttemptReport.PHASE_ENDED)
        attempt(outbox, 2).advance(pb.AttemptReport.PHASE_RUNNING)
        is_busy = False
        attempt(outbox, 3).advance(pb.AttemptReport.PHASE_ENDED)
        return said(outbox)

    [message] = asyncio.run(body())
    assert [report.ref.epoch for report in message.reports] == [1, 3]


def test_outbox_gives_a_lease_back_once_and_not_in_a_session_whose_hello_lacks_it() -> None:
    outbox = Outbox({})
    outbox.give_back(ref(1))
    first = said(outbox)
    outbox.give_back(ref(2))
    outbox.new_session()

    assert [r.epoch for m in first for r in m.returned] == [1]
    assert said(outbox) == []


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

    assert said(outbox)[0].reports[0].end.reason == pb.AttemptEnd.REASON_NEVER_STARTED
    assert len(outbox.new_session()) == 1
    outbox.withdraw(ref())
    assert outbox.new_session() == []


def test_outbox_says_a_collected_folder_again_until_it_is_acknowledged() -> None:
    outbox = Outbox()
    outbox.answer(pb.WorkdirCollected(request_id="r"))

    first = said(outbox)
    outbox.new_session()
    second = said(outbox)
    outbox.acknowledged(second[0].sequence)
    outbox.new_session()

    assert [m.workdir_collected.request_id for m in first + second] == ["r", "r"]
    assert said(outbox) == []


def test_outbox_tells_what_is_built_no_later_than_what_was_pruned() -> None:
    outbox = Outbox()
    outbox.answer(pb.BuiltPruned(request_id="r", left_count=1))
    outbox.say_built([])

    (message,) = said(outbox)

    assert message.built_pruned == pb.BuiltPruned(request_id="r", left_count=1)
    assert message.HasField("environments")


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


BUILT = Found(Record("ab" * 32, "linux-64", 1_000, 42, "3.11.7", 2), 2_000, 3)


def test_outbox_tells_the_lock_that_an_image_with_files_is_built_of() -> None:
    outbox = Outbox()
    record = replace(BUILT.record, of_lock="cd" * 32)

    outbox.say_built([BUILT, replace(BUILT, record=record)])

    builds = said(outbox)[0].environments.builds
    assert [build.lock_hash for build in builds] == ["ab" * 32, "cd" * 32]


def test_outbox_says_what_is_built_when_that_changes_and_in_each_session() -> None:
    outbox = Outbox()
    assert said(outbox) == []

    outbox.say_built([BUILT])
    first = said(outbox)
    outbox.say_built([BUILT])
    again = said(outbox)
    outbox.new_session()
    in_new_session = said(outbox)
    outbox.say_built([])
    last = said(outbox)

    (build,) = first[0].environments.builds
    assert (build.lock_hash, build.size_bytes, build.hits) == ("ab" * 32, 42, 3)
    assert build.create_time.ToNanoseconds() == 1_000
    assert build.last_use_time.ToNanoseconds() == 2_000
    assert again == []
    assert in_new_session[0].environments == first[0].environments
    assert last[0].HasField("environments")
    assert not last[0].environments.builds


def test_outbox_says_what_is_built_with_the_end_of_its_build() -> None:
    outbox = Outbox()
    run = attempt(outbox)

    outbox.say_built([BUILT])
    run.advance(pb.AttemptReport.PHASE_ENDED)

    (message,) = said(outbox)
    assert message.environments.builds
    assert message.reports


def test_outbox_says_no_more_builds_than_the_daemon_takes() -> None:
    outbox = Outbox()
    many = [dataclasses.replace(BUILT, last_used_unix_ns=n) for n in range(10_005)]

    outbox.say_built(many)

    builds = said(outbox)[0].environments.builds
    assert len(builds) == 10_000
    assert builds[0].last_use_time.ToNanoseconds() == 10_004

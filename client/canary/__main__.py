"""The planted hospital's relay and vault in one process that is set up as the vault's, under each fault.

`python -m client.canary FOLDER TASK...`, by client/canary/battery.py, which has the output of this process,
whoever writes it, in `FOLDER/said`. One line of JSON for each fault goes to `FOLDER/rows`.
"""

import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_to_proto
from flwr.supercore.task_identity import TaskIdentity

from client.app import make_app
from client.canary.battery import ELSEWHERE, ROWS, SAID, Row
from client.canary.faults import battery_of
from client.canary.hospital import Hospital, requests
from client.canary.injecting import Fault, Reached
from client.canary.names import found_in
from client.canary.planted import planted_of
from client.redaction import install, withhold_prints
from client.vault import Vault
from common import outbound, records
from common.errors import DataError
from common.messages import Refusal
from common.supervisor import end_with_parent

CONTEXT = Context(run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config={})


def main(folder: Path, tasks: list[str]) -> None:
    """Try every fault at a hospital in `folder` that takes part in a study of each of `tasks`."""
    end_with_parent(parent=os.getppid())
    outbound.switch_off()
    install(logging.DEBUG)
    withhold_prints()
    torch.set_num_threads(1)
    # A Message takes its sender from this; Flower's runtime sets it in a process of its own.
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    with (folder / ROWS).open("w") as rows:
        for task in tasks:
            for row in battery(task, folder):
                rows.write(json.dumps(asdict(row)) + "\n")
                rows.flush()


def battery(task: str, folder: Path) -> Iterator[Row]:
    """Try every fault of a task."""
    planted = planted_of(task)
    asked = [
        Message(records.to_records(r), dst_node_id=2, message_type=records.MESSAGE_TYPES[r.kind])
        for r in requests(planted.STUDY)
    ]
    made = {layout: Hospital(folder / task / layout, planted, layout) for layout in planted.LAYOUTS}
    for group, faults in battery_of(planted).items():
        for fault in faults:
            hospital = made[fault.layout or planted.LAYOUTS[0]]
            yield tried(group, fault, hospital, asked, folder)


def tried(group: str, fault: Fault, hospital: Hospital, asked: list[Message], folder: Path) -> Row:
    """Ask for the study's first round while `fault` strikes, and then for all rounds."""
    hospital.renew()
    vault, reached = Vault(hospital.policy), Reached()
    app = make_app(lambda _: vault.handle)
    with fault.arm(hospital, reached):
        said_before = os.lseek(2, 0, os.SEEK_CUR)
        struck = answer(app, asked[0])
    answers = [answer(app, message) for message in asked]
    sent = b"".join(map(on_the_wire, [struck, *answers]))
    said = (folder / SAID).read_bytes()[said_before:]
    kept = list(files_in(hospital.state, folder / ELSEWHERE))
    where = {"reply": sent, "log": said, **{str(path): data for path, data in kept}}
    return Row(
        task=hospital.study.task,
        group=group,
        fault=fault.name,
        struck=strikes(fault, code_of(struck), reached),
        answered=sum(code_of(one) is None for one in answers),
        sent=len(sent),
        said=len(said),
        files=len(kept),
        found=[f"{place}: {form}" for place, data in where.items() for form in found_in(data)],
    )


def strikes(fault: Fault, code: str | None, reached: Reached) -> int:
    """How often `fault` has struck: never, when the round did not end as it says."""
    if fault.ends == "refused":
        return int(code == DataError.code)
    return reached.times if code is None or fault.ends == "in any way" else 0


def answer(app: ClientApp, message: Message) -> Message | BaseException:
    """What the relay gives to Flower."""
    try:
        return app(message, CONTEXT)
    except BaseException as error:
        return error


def on_the_wire(answer: Message | BaseException) -> bytes:
    """The bytes of an answer; of an error all that Flower could make of it."""
    if isinstance(answer, Message):
        return bytes(message_to_proto(answer).SerializeToString())
    return f"{answer!r}{''.join(traceback.format_exception(answer))}".encode()


def code_of(answer: Message | BaseException) -> str | None:
    """The code of a refusal, None for any other reply."""
    if not isinstance(answer, Message):
        return type(answer).__name__
    reply = records.from_records(answer.content)
    return reply.code if isinstance(reply, Refusal) else None


def files_in(*folders: Path) -> Iterator[tuple[Path, bytes]]:
    """Everything below `folders`: its name, and its name and content as bytes."""
    for folder in folders:
        for path in folder.rglob("*"):
            name = path.relative_to(folder)
            data = path.read_bytes() if path.is_file() else b""
            yield name, os.fsencode(name) + b"\n" + data


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

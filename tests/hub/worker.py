"""A process that imports what argv[1] says once, and forks for each task on stdin: tasks start afresh without importing."""

import json
import os
import sys
import tempfile
import traceback
from pathlib import Path


def perform(task: dict) -> dict:
    """Run a task in a child; its output is taken from the file descriptors, as loggers and C code write to them."""
    with (
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
        tempfile.TemporaryFile("w+") as answer,
    ):
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            status = execute(task, answer)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        for file in (out, err, answer):
            file.seek(0)
        return {"status": status, "out": out.read(), "err": err.read(), "answer": json.loads(answer.read() or "{}")}


def execute(task: dict, answer) -> int:
    os.environ.update(task["variables"])
    sys.argv = ["-c", *task["arguments"]]
    values = {"__name__": "__main__", "arguments": task["arguments"], "answer": {}}
    try:
        exec(task["code"], values)
    except SystemExit as leaving:
        return leaving.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    json.dump(values["answer"], answer)
    answer.flush()
    return 0


if __name__ == "__main__":
    sys.path.remove(str(Path(__file__).parent))
    exec(sys.argv[1], {})
    for line in sys.stdin:
        print(json.dumps(perform(json.loads(line))), flush=True)

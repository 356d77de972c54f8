"""How commands end: one line and a status for whatever happens."""

import errno
import os
import re
import subprocess
import sys

import pytest
import torch

from hfgen.core.ending import Interrupted, exit_status
from hfgen.core.errors import HfgenError, explain
from hfgen.core.files import write_text
from hfgen.core.memory import check_fits


def fail(error):
    def action():
        raise error

    return action


def end(error, debug=False):
    return exit_status(fail(error), program="paint", debug=debug)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (HfgenError("ink='red': use black"), "ink='red': use black"),
        (OSError(errno.ENOSPC, "No space left on device", "a.png"), "a.png: No space left on device: make room, "),
        (
            OSError(errno.EROFS, "Read-only file system", "a"),
            "a: Read-only file system: name a place that you may write to",
        ),
        (
            OSError(errno.ENAMETOOLONG, "File name too long", "x" * 999),
            r"x{297}\.\.\.: File name too long: choose a shorter",
        ),
        (OSError(errno.EACCES, "Permission denied", "a", None, "b"), "a -> b: Permission denied: name a place"),
        (OSError(errno.ENODEV, "No such device"), "the system says no: No such device: .*--debug"),
        (MemoryError(), "there is not enough memory: lower the batch size"),
        (MemoryError("Unable to allocate 7.28 TiB for an array"), "not enough memory for 7.28 TiB at once"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0"),
            "memory for 2.00 GiB at once",
        ),
        (
            RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4294967296 bytes."),
            "for 4.0 GiB",
        ),
        (
            RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. \nmore"),
            "a process that decodes images is killed by signal: Killed, as where memory runs out: .*latest$",
        ),
        (RuntimeError("DataLoader worker (pid(s) 1, 2) exited unexpectedly"), "images exited unexpectedly, as where"),
        (
            RuntimeError("[../gloo/pair.cc:534] Connection closed by peer [1.1.1.1]:9"),
            "another process of this work has",
        ),
        (
            RuntimeError("[../gloo/unbound_buffer.cc:84] Timed out waiting 1800000ms for recv operation to complete"),
            "another process of this work has not answered in time .*hangs or its machine is gone$",
        ),
        (
            KeyError("a\nb"),
            r"KeyError: 'a\\nb'; hfgen did not foresee this: run again with --debug for the whole traceback$",
        ),
        (ValueError("one\n\ntwo"), "ValueError: one two; hfgen did not foresee"),
        (AssertionError(), "AssertionError; hfgen did not foresee"),
        (ValueError("long " * 999), r"ValueError: .{297}\.\.\.; hfgen"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_an_error_is_one_line(error, line, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")  # where another process can be the cause
    assert end(error) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert re.search(f"^paint: error: .*{line}", err), err


def test_a_real_allocation_that_fails_tells_its_size():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.uint8)
    assert explain(caught.value).startswith("there is not enough memory for 1,048,576.0 GiB at once")
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**40, 2**40)
    assert explain(caught.value).startswith("there is not enough memory: ")


def test_debug_shows_the_traceback_and_the_line(capsys):
    assert end(HfgenError("no ink"), debug=True) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "paint: error: no ink"


def test_an_interruption_and_the_end_of_a_process(capsys):
    assert end(KeyboardInterrupt()) == 130
    assert end(Interrupted("saved: go on", 143)) == 143
    assert capsys.readouterr().err == "paint: interrupted\npaint: saved: go on\n"
    with pytest.raises(SystemExit):
        end(SystemExit(2))
    assert exit_status(lambda: 7, program="paint", debug=False) == 0


def test_of_several_processes_the_first_to_fail_tells(tmp_path, monkeypatch, capsys):
    for rank in ("1", "0", "2"):
        (tmp_path / rank).mkdir()
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / rank / "error.json"))
        assert end(HfgenError(f"of {rank}")) == 1
    assert capsys.readouterr().err == "paint: error: of 1\n"
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        assert end(HfgenError(f"of {rank}")) == 1
    assert capsys.readouterr().err == "paint: error: of 0\n"


PAINT = """
import sys
from hfgen.core.ending import exit_status
def work():
    for i in range(int(sys.argv[1])):
        print("a line of paint", i)
sys.exit(exit_status(work, program="paint", debug=False))
"""


@pytest.mark.parametrize("lines", ["1", "100000"])
@pytest.mark.parametrize("unbuffered", [[], ["-u"]])
def test_a_reader_that_is_gone_ends_the_work_in_silence(lines, unbuffered):
    """As `paint | head` does, whether the pipe breaks while it prints or when the rest is flushed."""
    process = subprocess.Popen(
        [sys.executable, *unbuffered, "-c", PAINT, lines], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


def test_what_the_terminal_cannot_show_is_escaped():
    code = "import sys; from hfgen.core.ending import exit_status as e; sys.exit(e(lambda: print('\\u00b1\\udcff'), program='paint', debug=False))"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (0, "\\xb1\\udcff\n"), done.stderr


def test_another_broken_pipe_is_told(capsys):
    assert end(BrokenPipeError(errno.EPIPE, "Broken pipe")) == 1
    assert "Broken pipe" in capsys.readouterr().err


def test_what_does_not_fit_is_told_with_both_sizes():
    check_fits(1000, "a little", "no matter")
    with pytest.raises(
        HfgenError, match=r"^num_images=9 takes at least 1,024.0 GiB of memory, and [\d.,]+ [GM]iB are free: ask"
    ):
        check_fits(2**40, "num_images=9", "ask for fewer")


def test_nothing_is_written_over_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(HfgenError, match="pipe is no file that can be replaced: name another"):
        write_text(pipe, "x")
    assert pipe.is_fifo()

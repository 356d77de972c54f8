"""The error that a user sees, and a line for every other one."""

from __future__ import annotations

import errno
import os
import re

LONGEST_REASON = 300

NO_ROOM = "make room, or name a place on another disk"
NO_RIGHT = "name a place that you may write to, or change who may"
WAYS_OUT = {
    errno.ENOSPC: NO_ROOM,
    errno.EDQUOT: NO_ROOM,
    errno.EFBIG: NO_ROOM,
    errno.EROFS: NO_RIGHT,
    errno.EACCES: NO_RIGHT,
    errno.EPERM: NO_RIGHT,
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EISDIR: "name a file",
    errno.ENOTDIR: "name a folder",
    errno.ENOENT: "check the name",
    errno.EMFILE: "raise the limit of open files, ulimit -n",
    errno.ENFILE: "close other programs",
    errno.ENOMEM: "close other programs, or ask for less at once",
    errno.EIO: "check the disk, or name a place on another",
}
# how allocators say no: those of torch for a CPU and a GPU, of NumPy, and sizes beyond any address
NO_MEMORY = re.compile(
    r"not enough memory|can't allocate memory|out of memory|unable to allocate|Storage size calculation overflowed"
    r"|invalid buffer size|array is too big|integer multiplication overflow",
    re.IGNORECASE,
)
WANTED_BYTES = re.compile(r"allocate (\d+) bytes")
WANTED = re.compile(r"allocate ([\d.]+ [KMGTPE]iB)", re.IGNORECASE)
DEAD_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? [^)]*\) (.*)")
LATE_PEER = re.compile(r"timed out waiting|watchdog.*timeout|socket timeout", re.IGNORECASE)
DEAD_PEER = re.compile(
    r"closed by peer|Connection (?:reset|refused)|Broken pipe|gloo|NCCL|TCPStore|recvBytes", re.IGNORECASE
)


class HfgenError(Exception):
    """A mistake of input or environment, told in one line: the offending value and the way out.

    Commands print it without a traceback and end with exit status 1.
    """


def one_line(error: object, longest: int = LONGEST_REASON) -> str:
    """What an error, or any value, says of itself, in one line of at most `longest` characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def in_gib(size: float) -> str:
    """Bytes for a reader, such as "1.5 GiB"."""
    return f"{size / 2**30:,.1f} GiB" if size >= 0.1 * 2**30 else f"{size / 2**20:,.1f} MiB"


def explain(error: BaseException) -> str:
    """Any error in one line: what, the offending value where it is known, and the way out."""
    if isinstance(error, HfgenError):
        return str(error)
    text = one_line(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or NO_MEMORY.search(text):
        return _out_of_memory(text)
    dead = DEAD_WORKER.search(text)
    if isinstance(error, RuntimeError) and dead:
        return dead_worker(dead[1])
    if isinstance(error, OSError) and error.errno is not None:
        return refused(error)
    together = os.environ.get("WORLD_SIZE", "1") != "1" and isinstance(error, RuntimeError)
    if together and LATE_PEER.search(text):
        return f"another process of this work has not answered in time ({text[:120]}): see whether it hangs or its machine is gone"
    if together and DEAD_PEER.search(text):
        return f"another process of this work has ended ({text[:120]}): see what it told, or whether its machine ran out of memory"
    told = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"{told}; hfgen did not foresee this: run again with --debug for the whole traceback"


def refused(error: OSError) -> str:
    """What the operating system refused, of which file, and the way out."""
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    what = error.strerror or one_line(error)
    return f"{' -> '.join(one_line(name) for name in names) or 'the system says no'}: {what}: {way_out(error)}"


def way_out(error: OSError) -> str:
    """What to do about what the operating system refused."""
    return WAYS_OUT.get(error.errno or 0, "run again with --debug for the whole traceback")


def dead_worker(how: str) -> str:
    """Of a process that decodes images and has ended; `how` is torch's word for it."""
    reason = one_line(how, 80).partition(". ")[0].rstrip(".")
    return (
        f"a process that decodes images {reason}, as where memory runs out: free memory or lower --train_batch_size, then "
        "go on with --resume_from_checkpoint latest"
    )


def _out_of_memory(text: str) -> str:
    size, words = WANTED_BYTES.search(text), WANTED.search(text)
    wanted = in_gib(int(size[1])) if size else words[1] if words else None
    tried = "" if wanted is None else f" for {wanted} at once"
    return f"there is not enough memory{tried}: lower the batch size, the number of images, their resolution or the model's sizes"

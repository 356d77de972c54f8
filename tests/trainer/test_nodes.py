"""Machines train together: here two launchers on one, which find each other by an address."""

import sys

import pytest
from sharded_training import free_port

from hfgen.core.history import read_history


@pytest.mark.slow
def test_two_machines_train_as_one_process(script, train, tmp_path):
    port = free_port()
    launchers = [
        (
            sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node_rank", str(rank), "--nproc_per_node", "1",
            "--master_addr", "127.0.0.1", "--master_port", str(port),
        )
        for rank in range(2)
    ]  # fmt: skip
    flags = {"max_train_steps": 4, "max_train_samples": 32}
    machines = [script(one, output_dir=tmp_path / "two", train_batch_size=8, **flags) for one in launchers]
    ended = [machine.communicate(timeout=900) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], ended
    train(output_dir=tmp_path / "one", **flags)
    one, two = (
        [row["train_loss"] for row in read_history(tmp_path / name / "history.jsonl") if "train_loss" in row]
        for name in ("one", "two")
    )
    assert len(one) == 2
    assert two == pytest.approx(one, abs=1e-4)
    assert (tmp_path / "two" / "model_index.json").is_file()

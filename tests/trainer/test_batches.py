"""Which rows come when, with which numbers: for data of any rank."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from hfgen.core.random import epoch_order
from hfgen.data.batch import RandomSpec
from hfgen.data.loading import ImagesInMemory
from hfgen.data.representation import Pixels
from hfgen.data.training_set import TrainingSet
from hfgen.trainer.batches import Batches, Plan

CPU = torch.device("cpu")


def plan(**changes):
    one = {"seed": 3, "count": 50, "micro_batch_size": 8, "micro_batches": 1, "num_processes": 1, "process_index": 0}
    return Plan(**{**one, **changes})


class Frames:
    """Videos that are left as they are."""

    random = drawn = RandomSpec()
    memory_format = torch.contiguous_format

    def prepare(self, raw, random):
        return raw.float()

    def augment(self, data, random):
        return data


def training_set(rows, representation, labels=None):
    source = ImagesInMemory(rows)
    return TrainingSet(
        train=source, validation=source, representation=representation, channels=1, resolution=2, held_out="",
        labels=labels, train_labels=labels, class_names=[],
    )  # fmt: skip


def make(rows, representation, random, labels=None, **changes):
    shares = plan(count=len(rows), **changes)
    return shares, Batches(training_set(rows, representation, labels), random, shares, eval_batch_size=8, device=CPU)


@pytest.mark.parametrize(("size", "micro_batches", "processes"), [(8, 1, 1), (2, 4, 1), (2, 2, 2), (1, 2, 4)])
def test_the_rows_of_a_step_do_not_depend_on_how_they_are_shared(size, micro_batches, processes):
    order = epoch_order(3, 1, 50)
    shares = [
        plan(micro_batch_size=size, micro_batches=micro_batches, num_processes=processes, process_index=i)
        for i in range(processes)
    ]
    assert {share.batch_size for share in shares} == {8}
    assert {share.steps_per_epoch for share in shares} == {6}
    for step in range(2, 5):
        rows = [torch.cat(share.rows(1, step, step + 1)) for share in shares]
        assert torch.cat(rows).equal(order[8 * step : 8 * step + 8])
    assert sorted(offset for share in shares for offset in share.offsets) == list(range(0, 8, size))


@pytest.mark.parametrize("shape", [(7,), (4, 2, 2), (3, 1, 2, 2)])
def test_rows_of_any_rank_come_with_their_numbers_and_classes(shape):
    rows = torch.randn(20, *shape, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % 3
    spec = RandomSpec(normal={"noise": shape}, uniform={"time": (), "more": (2,)})
    shares, batches = make(rows, Frames(), spec, labels)
    (taken,) = shares.rows(0, 1, 2)
    batch = batches.training(taken, rows[taken], step=5, offset=0)
    assert batch.data.equal(rows[taken])
    assert batch.rows.equal(taken)
    assert batch.step == 5
    assert batch.cond["class_labels"].equal(labels[taken])
    assert batch.random["noise"].shape == (8, *shape)
    assert batch.random["more"].shape == (8, 2)
    places = torch.arange(8)
    assert ((places / 8 <= batch.random["stratified"]) & (batch.random["stratified"] < (places + 1) / 8)).all()
    torch.testing.assert_close(batch.random["stratified"] * 8 - places, batch.random["time"], atol=1e-5, rtol=0)
    held_out = batches.held_out(torch.arange(8, 16), rows[8:16], step=5)
    assert held_out.cond["class_labels"].equal(labels[8:16])
    assert held_out.data.equal(rows[8:16])
    # t is spread evenly over all held-out rows
    torch.testing.assert_close(held_out.random["stratified"], (torch.arange(8, 16) + 0.5) / 20)
    kept = held_out.random["noise"].clone()
    assert batches.held_out(torch.arange(8, 16), rows[8:16], step=9).random["noise"].equal(kept)


def test_without_classes_and_numbers_there_are_none():
    _, batches = make(torch.zeros(9, 2), Frames(), RandomSpec())
    batch = batches.training(torch.arange(8), torch.zeros(8, 2), step=0, offset=0)
    assert batch.cond == batch.random == {}


def test_of_a_stream_classes_come_with_the_rows_and_places_take_every_stratum():
    """A lane has the same places in each step: over many steps these fall into all strata of [0, 1) as often."""
    images = replace(training_set(torch.zeros(8, 2), Frames()), stream=SimpleNamespace())
    shares = plan(epoch_steps=5)
    assert shares.steps_per_epoch == 5
    batches = Batches(images, RandomSpec(uniform={"time": ()}), shares, eval_batch_size=8, device=CPU)
    labels, strata = torch.arange(8) % 2, []
    for step in range(80):
        batch = batches.training(torch.arange(8) << 32, torch.zeros(8, 2), labels, step=step, offset=0)
        assert batch.cond["class_labels"] is labels
        strata.append((batch.random["stratified"] * 8).long())
    assert all(len(set(step.tolist())) == 8 for step in strata)
    assert torch.stack(strata)[:, 3].bincount(minlength=8).tolist() == pytest.approx([10] * 8, abs=1)


def test_flips_take_the_last_column_and_leave_held_out_rows_alone():
    rows = torch.randint(0, 256, (40, 1, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    spec = RandomSpec(uniform={"time": ()})
    _, batches = make(rows, Pixels(random_flip=True), spec, micro_batch_size=32)
    batch = batches.training(torch.arange(32), rows[:32], step=0, offset=0)
    mirrored = batch.random["flip"] >= 0.5
    assert 5 < mirrored.sum() < 27
    whole = rows[:32] / 127.5 - 1
    torch.testing.assert_close(batch.data[~mirrored], whole[~mirrored])
    torch.testing.assert_close(batch.data[mirrored], whole[mirrored][..., [1, 0]])
    held_out = batches.held_out(torch.arange(8), rows[:8], step=0)
    torch.testing.assert_close(held_out.data, whole[:8])
    assert set(held_out.random) == {"time", "stratified"}

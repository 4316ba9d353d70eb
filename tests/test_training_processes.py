"""The group of a run's processes."""

import pytest
import torch
import torch.distributed as dist

from segext.training.metrics import confusion_matrix
from segext.training.processes import backend


def summed(group):
    """A confusion matrix, summed over a group of one process."""
    dist.init_process_group(group, store=dist.HashStore(), rank=0, world_size=1)
    try:
        matrix = confusion_matrix(2, 255)
        matrix.update(torch.tensor([[0, 1]]), torch.tensor([[1, 1]]))
        return matrix.compute().tolist()
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_confusion_matrices_are_summed_whatever_the_device(name):
    """They are on the CPU. Gloo stands in for NCCL, which needs a GPU."""
    assert summed(backend(torch.device(name)).replace("nccl", "gloo")) == [[0, 0], [1, 1]]


def test_a_group_for_cuda_alone_cannot_sum_them():
    with pytest.raises(RuntimeError, match="device type cpu"):
        summed("cuda:gloo")


def test_cuda_is_served_by_nccl():
    assert backend(torch.device("cuda")) == "cpu:gloo,cuda:nccl"

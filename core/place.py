"""Where this process stands among the workers, before Horovod starts. Imports no library."""

import os
from dataclasses import dataclass

# horovodrun and Open MPI's mpirun set these for each process that they launch.
LAUNCHED_SIZES = ("HOROVOD_SIZE", "OMPI_COMM_WORLD_SIZE")
LAUNCHED_RANK = "HOROVOD_RANK"  # horovodrun alone
GPU_DRIVER = "/dev/nvidiactl"


@dataclass(frozen=True)
class Workers:
    """This process's place among the workers.

    Attributes:
        rank: number of this worker, from 0.
        size: number of workers.
        local_rank, local_size: the same among the workers of this host.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_first(self) -> bool:
        """True on rank 0, the worker that writes and prints for all."""
        return self.rank == 0


def launched_size() -> int:
    """Number of workers that horovodrun or mpirun launched; 1 without them."""
    return max(int(os.environ.get(name, "1")) for name in LAUNCHED_SIZES)


def launched_rank() -> int:
    """The rank that horovodrun gave this process; 0 without horovodrun."""
    return int(os.environ.get(LAUNCHED_RANK, "0"))


def has_gpu_driver() -> bool:
    """Whether this host has NVIDIA's driver."""
    return os.path.exists(GPU_DRIVER)

"""Where sweeps run: this machine's processes, or a Dask cluster."""

from __future__ import annotations

import os
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from .errors import InvalidInput, MissingExtra


def make_executor(workers: int = 0, cluster: str = "") -> Executor:
    """An executor over `workers` processes (0: one per core), or over a Dask cluster's address.

    Raises
    ------
    InvalidInput
        If the number of workers is negative, or the cluster does not answer.
    MissingExtra
        If a cluster is asked for and Dask is not installed.
    """
    if cluster:
        try:
            from dask.distributed import Client  # type: ignore[import-not-found]
        except ImportError:
            raise MissingExtra("Running on a cluster", "cluster") from None
        try:
            client: Any = Client(cluster, timeout="10s")
        except OSError as error:
            raise InvalidInput(f"The cluster at '{cluster}' does not answer: {error}.") from None
        return client.get_executor()
    if workers < 0:
        raise InvalidInput(f"{workers} workers cannot run anything; give 0 (all cores) or more.")
    # Fresh processes: forked ones inherit threads of numeric libraries in unknown states.
    return ProcessPoolExecutor(workers or os.cpu_count(), mp_context=get_context("spawn"))

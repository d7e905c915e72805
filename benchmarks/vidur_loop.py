"""Requests per CPU second of vidur's event loop, run by a Python that has vidur installed.

Its own step predictor asks for profiles from a data hub, so a step here takes a fixed time per
batch and token: what is timed is the loop alone, which flatters it. Called by `benchmarks.peers`.
"""

from __future__ import annotations

import sys
import time

REQUESTS = 1000
ARGUMENTS = {
    "replica_config_model_name": "meta-llama/Llama-3-8B", "replica_config_device": "h100",
    "replica_config_network_device": "h100_dgx", "replica_config_tensor_parallel_size": 1,
    "replica_config_num_pipeline_stages": 1, "replica_scheduler_config_type": "vllm",
    "vllm_scheduler_config_batch_size_cap": 128, "length_generator_config_type": "fixed",
    "fixed_request_length_generator_config_prefill_tokens": 512,
    "fixed_request_length_generator_config_decode_tokens": 128,
    "interval_generator_config_type": "poisson",
    "poisson_request_interval_generator_config_qps": 20,
    "synthetic_request_generator_config_num_requests": REQUESTS,
    "execution_time_predictor_config_type": "linear_regression",
}  # fmt: skip


def main() -> None:
    """Print requests per CPU second."""
    # pyright: reportMissingImports=false
    from vidur._native.entities import ExecutionTime
    from vidur.config import SimulationConfig
    from vidur.execution_time_predictor import execution_time_predictor_registry as registry
    from vidur.execution_time_predictor.base_execution_time_predictor import (
        BaseExecutionTimePredictor,
    )
    from vidur.simulator import Simulator
    from vidur.types import ExecutionTimePredictorType

    class Fixed(BaseExecutionTimePredictor):
        def get_execution_time(self, batch, pipeline_stage):
            del pipeline_stage
            return ExecutionTime(1, 8.0 + 0.03 * sum(batch.num_q_tokens), *([0.0] * 13))

    Fixed.__abstractmethods__ = frozenset()
    table = registry.ExecutionTimePredictorRegistry._registry
    table[ExecutionTimePredictorType.LINEAR_REGRESSION] = Fixed
    sys.argv[1:] = [x for k, v in ARGUMENTS.items() for x in (f"--{k}", str(v))]
    simulator = Simulator(SimulationConfig.create_from_cli_args())
    simulator._write_output = lambda: None
    start = time.process_time()
    simulator.run()
    print(REQUESTS / (time.process_time() - start))


if __name__ == "__main__":
    main()

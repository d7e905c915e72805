"""The event log as a Chrome trace: chrome://tracing and Perfetto read it."""

from __future__ import annotations

import json

from .bounds import bound_shares, logged_batch
from .loop.records import LOG_COLUMNS, N_LOG
from .report import ServingReport


def chrome_trace(report: ServingReport) -> str:
    """Steps with prompts and runs of decoding steps as slices; batch, cache and bound as counters.

    Trace Event Format: times in microseconds, one process per replica.
    """
    events = []
    at = {name: i for i, name in enumerate(LOG_COLUMNS)}
    for replica, instance in enumerate(report.instances):
        log = instance.state.log[: instance.whole(N_LOG)]
        step = instance.server.step
        shares = bound_shares(step, logged_batch(step, log)) if len(log) else {}
        events.append({"name": "process_name", "ph": "M", "pid": replica,
                       "args": {"name": f"instance {replica}"}})  # fmt: skip
        for tid, name in enumerate(("decoding steps", "steps with prompts")):
            events.append({"name": "thread_name", "ph": "M", "pid": replica, "tid": tid,
                           "args": {"name": name}})  # fmt: skip
        for i, row in enumerate(log):
            start = row[at["start_s"]] * 1e6
            prompts = row[at["kind"]] > 0
            amount = int(row[at["amount"]])
            name = f"{amount} prompt tokens" if prompts else f"{amount} decoding steps"
            events.append({
                "name": name, "ph": "X", "ts": start, "dur": row[at["seconds"]] * 1e6,
                "pid": replica, "tid": int(prompts),
                "args": {"decoding": int(row[at["decoding"]]), "waiting": int(row[at["waiting"]]),
                         "mean context": round(float(row[at["context"]]), 1)},
            })  # fmt: skip
            events.append({
                "name": "sequences", "ph": "C", "ts": start, "pid": replica,
                "args": {"decoding": int(row[at["decoding"]]), "waiting": int(row[at["waiting"]])},
            })  # fmt: skip
            events.append({"name": "cache pages", "ph": "C", "ts": start, "pid": replica,
                           "args": {"used": int(row[at["blocks"]])}})  # fmt: skip
            events.append({
                "name": "bound by, %", "ph": "C", "ts": start, "pid": replica,
                "args": {name: round(100.0 * float(share[i]), 1)
                         for name, share in shares.items()},
            })  # fmt: skip
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"})

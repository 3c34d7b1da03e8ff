# SPDX-License-Identifier: Apache-2.0
"""How work of another framework is timed on a CUDA device."""
import statistics
import time

import torch


def seconds_of(call):
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def queueing_seconds(call):
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    seconds = time.perf_counter() - start
    torch.cuda.synchronize()
    return seconds


def milliseconds(call, rounds=9, least=0.01, waits=True):
    """Of a call on the device: a round is as many calls as take `least` seconds. Where it waits, they are queued behind a
    kernel that does nothing while the host queues them, so that this does not count; no longer, as a device that rests
    between rounds runs at a higher clock than one that works all the time."""
    for _ in range(3):
        call()
    calls = max(1, min(100, int(2 * least / max(1e-6, seconds_of(lambda: (call(), call()))))))
    wait = int(2.5e9 * min(0.2, max(2e-4, queueing_seconds(lambda: [call() for _ in range(calls)]))))  # clocks
    times = []
    for _ in range(rounds):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        if waits:
            torch.cuda._sleep(wait)
        begin.record()
        for _ in range(calls):
            call()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / calls)
    times.sort()
    return {"median_ms": statistics.median(times), "least_ms": times[0], "most_ms": times[-1], "rounds": rounds}


def both(forward, inputs, rounds=9):
    """Milliseconds of a function and of it with the gradients of its inputs."""
    dy = torch.randn_like(forward())

    def with_gradient():
        torch.autograd.grad(forward(), inputs, dy)

    with torch.no_grad():
        rows = {"forward": milliseconds(forward, rounds)}
    rows["forward_backward"] = milliseconds(with_gradient, rounds)
    return rows

# SPDX-License-Identifier: Apache-2.0
"""What calls on tensors of a CUDA device need of torch: its stream, and memory of its allocator."""
import atexit

import torch

from .. import _library


@_library.DeviceAllocate
def _allocate(_, size, device, stream):
    try:
        return torch.cuda.caching_allocator_alloc(size, device, stream or 0)
    except Exception:  # the library says that there is no memory
        return None


@_library.DeviceFree
def _free(_, memory):
    torch.cuda.caching_allocator_delete(memory)


_NEITHER = _library.DeviceAllocate(), _library.DeviceFree()
_is_used = False


def use_torch_memory():
    """From here on states, tapes and scratch memory of the library come from torch's allocator."""
    global _is_used
    if not _is_used:
        _library.call("ssm_set_device_allocator", _allocate, _free, None)
        atexit.register(_library.call, "ssm_set_device_allocator", *_NEITHER, None)  # torch goes before the library
        _is_used = True


def backend_of(device):
    """The backend for tensors of a device; others than a CUDA device are refused where they are read."""
    if device.type != "cuda":
        return "cpu"
    use_torch_memory()
    return "cuda"


_stream_of_index = getattr(torch._C, "_cuda_getCurrentRawStream", None)  # without making an object of it


def stream_of(device):
    """torch's current stream of a CUDA device; None for the legacy default stream."""
    if _stream_of_index is None or device.index is None:
        return torch.cuda.current_stream(device).cuda_stream or None
    return _stream_of_index(device.index) or None

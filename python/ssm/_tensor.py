# SPDX-License-Identifier: Apache-2.0
"""Tensors of numpy, torch, and whatever has __dlpack__, as the library takes them: nothing is copied."""
import ctypes
import functools
import sys

from ._library import Tensor, TensorError

_CODES = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}
_TORCH = {"float32": (2, 32), "float64": (2, 64), "float16": (2, 16), "bfloat16": (4, 16), "int32": (0, 32),
          "int64": (0, 64), "int8": (0, 8), "int16": (0, 16), "uint8": (1, 8), "bool": (6, 8)}
_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype = ctypes.c_void_p
_get_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


@functools.lru_cache(maxsize=4096)  # parameters come again with every call; the library reads these and no more
def _described(data, device, scalar, shape, strides):
    rank = len(shape)
    numbers = ctypes.c_int64 * rank
    tensor = Tensor()
    tensor.data = data
    tensor.device.type, tensor.device.id = device
    tensor.ndim = rank
    tensor.type.code, tensor.type.bits, tensor.type.lanes = scalar[0], scalar[1], 1
    extents, steps = numbers(*shape), numbers(*strides)
    tensor.shape, tensor.strides = extents, steps
    tensor.kept = (extents, steps)
    tensor.holds_memory = False
    return tensor


@functools.lru_cache(maxsize=None)
def _torch_scalar(dtype):
    name = str(dtype).removeprefix("torch.")
    if name not in _TORCH:
        raise TensorError(f"tensors of {name} are not taken")
    return _TORCH[name]


@functools.lru_cache(maxsize=None)
def _torch_device(device):
    return {"cpu": 1, "cuda": 2, "mps": 8}.get(device.type, 12), device.index or 0


def of_torch(tensor):
    """The memory of a torch tensor."""
    return _described(tensor.data_ptr(), _torch_device(tensor.device), _torch_scalar(tensor.dtype), tensor.shape,
                      tensor.stride())


def of_numpy(array, written=False):
    """The memory of a numpy array."""
    if written and not array.flags.writeable:
        raise TensorError("an array that is written to is read-only")
    kind, size = array.dtype.kind, array.dtype.itemsize
    is_bfloat = array.dtype.name == "bfloat16"  # of ml_dtypes
    if not is_bfloat and (kind not in _CODES or not array.dtype.isnative):
        raise TensorError(f"arrays of {array.dtype} are not taken")
    if any(step % size for step in array.strides):
        raise TensorError("strides of an array are no multiples of its elements' size")
    return _described(array.ctypes.data, (1, 0), (4 if is_bfloat else _CODES[kind], 8 * size), array.shape,
                      tuple(step // size for step in array.strides))


def of(tensor, written=False):
    """The memory of anything tensor-like, which must live on while it is used."""
    if hasattr(tensor, "data_ptr") and hasattr(tensor, "stride"):
        return of_torch(tensor)
    if type(tensor).__module__ == "numpy":
        return of_numpy(tensor, written)
    if not hasattr(tensor, "__dlpack__"):
        raise TensorError(f"a {type(tensor).__name__} is no tensor: it has no __dlpack__")
    capsule = tensor.__dlpack__()  # gives its memory back when it is dropped
    described = Tensor.from_address(_get_pointer(capsule, b"dltensor"))
    described.kept = capsule
    described.holds_memory = True
    return described


class DeviceTensor:
    """Memory of a CUDA device that belongs to the library: cupy.asarray and torch.as_tensor take it as it is."""

    def __init__(self, tensor, shape, scalar, owner):
        self.shape, self.dtype, self._owner = shape, scalar, owner
        self.__cuda_array_interface__ = {"shape": shape, "typestr": scalar.str, "data": (tensor.data or 0, False), "version": 3,
                                         "strides": None}


def _package_of(tensor):
    return sys.modules.get(type(tensor).__module__.partition(".")[0])


def stream_of(tensor):
    """The stream that a package has made current for a tensor on a CUDA device; None, the legacy default stream, where it has
    none."""
    package = _package_of(tensor)
    name = package.__name__ if package is not None else ""
    if name == "torch":
        return package.cuda.current_stream(tensor.device).cuda_stream or None
    return package.cuda.get_current_stream().ptr or None if name == "cupy" else None


def empty_like(tensor):
    """A tensor of the same package, extents, scalar and device, without gaps; None where the package is not known."""
    package = _package_of(tensor)
    name = package.__name__ if package is not None else ""
    if name == "torch":
        return package.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
    return package.empty(tensor.shape, tensor.dtype) if name in ("numpy", "cupy") else None


def pointers(described):
    """A list of tensors as the library takes it; None is left out."""
    all_of_them = (ctypes.POINTER(Tensor) * len(described))(*[t and ctypes.pointer(t) for t in described])
    all_of_them.kept = described
    return all_of_them


_kept_pointers = functools.lru_cache(maxsize=256)(pointers)  # of parameters, which come again with every call


def listed(tensors, written=False):
    """Tensors as a list that the library takes."""
    described = tuple([of(tensor, written) for tensor in tensors])
    if any([tensor.holds_memory for tensor in described]):
        return pointers(described)
    return _kept_pointers(described)

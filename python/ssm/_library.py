# SPDX-License-Identifier: Apache-2.0
"""The C interface (ssm/api.h) by ctypes: the library, its functions, errors as exceptions."""
import ctypes
import ctypes.util
import functools
import json
import os
import pathlib
import sys

# Where it is looked for: SSM_LIBRARY, beside this file, where the system has libraries.
_BESIDE = pathlib.Path(__file__).resolve().parent


class Error(Exception):
    """What every call of this package raises; the message is a sentence of the library."""


class ArgumentError(Error, ValueError):
    """A value outside its range, an unknown name, a missing operand."""


class ShapeError(Error, ValueError):
    """Extents that do not fit."""


class TensorError(Error, TypeError):
    """A tensor whose type, device or strides are not taken."""


class FileError(Error, OSError):
    """A file that is missing, damaged, or of something else."""


class OutOfMemory(Error, MemoryError):
    """An allocation failed."""


_ERRORS = {1: ArgumentError, 2: ShapeError, 3: TensorError, 4: FileError, 5: OutOfMemory}


class Device(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int32), ("id", ctypes.c_int32)]


class Scalar(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class Tensor(ctypes.Structure):
    """DLTensor of DLPack."""
    _fields_ = [("data", ctypes.c_void_p), ("device", Device), ("ndim", ctypes.c_int32), ("type", Scalar),
                ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)),
                ("byte_offset", ctypes.c_uint64)]
    __hash__ = object.__hash__  # one header is not another


TokenCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int32)
TextCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_char), ctypes.c_size_t)

DeviceAllocate = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int32, ctypes.c_void_p)
DeviceFree = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)

_P, _Z, _I, _L, _S = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int64, ctypes.c_char_p
_T, _O = ctypes.POINTER(Tensor), ctypes.POINTER(ctypes.c_void_p)
_TS = ctypes.POINTER(ctypes.POINTER(Tensor))
_INTS = ctypes.POINTER(ctypes.c_int32)
# Functions that return a code, with what they take.
_CALLS = {
    "ssm_model_open": [_S, _S, _O], "ssm_model_session": [_P, _I, _O], "ssm_model_fingerprint": [_P, _O],
    "ssm_model_use_tokenizer": [_P, _S],
    "ssm_model_encode": [_P, _S, _Z, ctypes.POINTER(_INTS), ctypes.POINTER(_Z)],
    "ssm_model_decode": [_P, _INTS, _Z, _O, ctypes.POINTER(_Z)],
    "ssm_model_logits": [_P, _T, _T], "ssm_model_prefill": [_P, _T, _T, _P], "ssm_model_step": [_P, _T, _T, _P],
    "ssm_model_loss": [_P, _INTS, _Z, _S, ctypes.POINTER(ctypes.c_double), ctypes.POINTER(_L)],
    "ssm_model_generate": [_P, _INTS, _Z, _S, _P, TokenCallback, _P],
    "ssm_model_generate_text": [_P, _S, _Z, _S, _P, TextCallback, _P],
    "ssm_state_create": [_P, _L, _O], "ssm_state_copy": [_P, _O], "ssm_state_row": [_P, _L, _O],
    "ssm_state_copy_row": [_P, _L, _P, _L], "ssm_state_save": [_P, _S], "ssm_state_load": [_P, _S],
    "ssm_set_device_allocator": [DeviceAllocate, DeviceFree, _P],
    "ssm_layer_create": [_S, _O], "ssm_layer_set_threads": [_P, _I], "ssm_layer_set_stream": [_P, _P], "ssm_layer_parameter": [_P, _I, _T],
    "ssm_layer_initialize": [_P, ctypes.c_uint64, _TS, _I],
    "ssm_layer_forward": [_P, _TS, _I, _T, _T, _T, _P, _P, _P],
    "ssm_layer_backward": [_P, _TS, _I, _P, _T, _T, _TS, _P, _P],
    "ssm_layer_prefill": [_P, _TS, _I, _T, _T, _P], "ssm_layer_step": [_P, _TS, _I, _T, _T, _P],
    "ssm_tape_create": [_P, _O], "ssm_layer_state_create": [_P, _L, _O], "ssm_layer_state_copy": [_P, _O],
    "ssm_layer_state_tensor": [_P, _I, ctypes.POINTER(_S), _T], "ssm_layer_state_borrow": [_P, _I, _T],
    "ssm_primitive_create": [_S, _O], "ssm_primitive_forward": [_P, _TS, _I, _T, _P],
    "ssm_primitive_backward": [_P, _TS, _TS, _I, _T, _P],
}
# The others: what they return, and what they take.
_OTHERS = {
    "ssm_version": (_I, []), "ssm_last_error": (_S, []), "ssm_free": (None, [_P]),
    "ssm_model_free": (None, [_P]), "ssm_model_facts": (_S, [_P]), "ssm_state_free": (None, [_P]),
    "ssm_state_sequences": (_L, [_P]), "ssm_state_position": (_L, [_P, _L]), "ssm_state_bytes": (ctypes.c_uint64, [_P]),
    "ssm_layer_free": (None, [_P]), "ssm_layer_kinds": (_S, []), "ssm_layer_facts": (_S, [_P]),
    "ssm_primitive_free": (None, [_P]), "ssm_primitive_kinds": (_S, []),
    "ssm_xla_call": (_P, [_P]), "ssm_tape_free": (None, [_P]), "ssm_layer_state_free": (None, [_P]), "ssm_layer_state_count": (_I, [_P]),
}


# What a processor must have for an instruction set, as Linux calls it; the best first, in folders as glibc names them.
_V3 = {"avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"}
_INSTRUCTION_SETS = {"x86-64-v4": _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}, "x86-64-v3": _V3}


def _processor():
    """What this processor has; nothing where the system does not say."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return set(next((line.partition(":")[2] for line in file if line.startswith("flags")), "").split())
    except OSError:
        return set()


def _beside(folder=_BESIDE, processor=None):
    """The libraries of the package that this processor can run, the best first."""
    has = _processor() if processor is None else processor
    sets = [folder / "glibc-hwcaps" / name for name, needs in _INSTRUCTION_SETS.items() if needs <= has]
    return [path for place in [*sets, folder] for path in sorted(place.glob("libssm_api.so*"))]


def _load():
    tried = []
    named = os.environ.get("SSM_LIBRARY")
    for path in [named] if named else [*_beside(), ctypes.util.find_library("ssm_api")]:
        if not path:
            continue
        try:
            return ctypes.CDLL(str(path))
        except OSError as error:
            tried.append(str(error))
    raise ImportError("libssm_api was not found: build the target ssm_api and set SSM_LIBRARY to it, or install the "
                      "package with pip" + "".join(f"; {reason}" for reason in tried))


_library = _load()
for _name, _takes in _CALLS.items():
    getattr(_library, _name).argtypes = _takes
    getattr(_library, _name).restype = _I
for _name, (_gives, _takes) in _OTHERS.items():
    getattr(_library, _name).argtypes = _takes
    getattr(_library, _name).restype = _gives


def function(name):
    """A function as ctypes has it."""
    return getattr(_library, name)


def address(name):
    """Where a function is."""
    return ctypes.cast(getattr(_library, name), ctypes.c_void_p).value


def refuse(code):
    """Raises what the last call said."""
    raise _ERRORS.get(code, Error)(_library.ssm_last_error().decode("utf-8", "replace"))


def call(name, *operands):
    """Calls a function that returns a code; raises what it says."""
    code = getattr(_library, name)(*operands)
    if code:
        refuse(code)


def ask(name, *operands):
    """Calls one that cannot fail."""
    return getattr(_library, name)(*operands)


def made(name, *operands):
    """What a function makes, as a pointer."""
    pointer = ctypes.c_void_p()
    call(name, *operands, ctypes.byref(pointer))
    return pointer


@functools.lru_cache(maxsize=None)
def find_cublas():
    """Loads cuBLASLt, which the backend cuda opens by name, from NVIDIA's packages where the system does not find it."""
    name = "libcublasLt.so.13"
    for path in [name, *(path for folder in sys.path for path in pathlib.Path(folder).glob(f"nvidia/*/lib/{name}"))]:
        try:
            return ctypes.CDLL(str(path))
        except OSError:
            continue
    return None  # products of matrices say so


def options(**fields):
    """Options as the library reads them; None is left out."""
    return json.dumps({name: value for name, value in fields.items() if value is not None}).encode()


class Owned:
    """A pointer that is given back when nobody has it any more."""
    __slots__ = ("pointer", "_free", "__weakref__")

    def __init__(self, pointer, free):
        self.pointer = pointer
        self._free = getattr(_library, free)

    def __del__(self):
        if self.pointer:
            self._free(self.pointer)
            self.pointer = None


def path():
    """The file of the library that was loaded."""
    return _library._name


def version():
    """(major, minor, patch) of the library that was loaded."""
    number = ask("ssm_version")
    return number // 10000, number // 100 % 100, number % 100

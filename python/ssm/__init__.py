# SPDX-License-Identifier: Apache-2.0
"""State-space models of the C++ library ssm: language models, and layers for numpy, torch (ssm.torch) and JAX (ssm.jax)."""
from ._library import ArgumentError, Error, FileError, OutOfMemory, ShapeError, TensorError, version
from .language_model import LanguageModel, State
from .layer import Layer, LayerState, Tape, layer_kinds
from .primitive import Primitive, primitive_kinds

__all__ = ["ArgumentError", "Error", "FileError", "LanguageModel", "Layer", "LayerState", "OutOfMemory", "Primitive",
           "ShapeError", "State", "Tape", "TensorError", "layer_kinds", "primitive_kinds", "version"]
__version__ = ".".join(map(str, version()))

# SPDX-License-Identifier: Apache-2.0
"""The library in torch, on the CPU and on CUDA devices.

    layer = ssm.torch.H3(channels=64, state=64, head_dim=8)
    y = layer(x)                                       # [B, L, 64]; differentiable in x and in the parameters
    y, state = layer(x, state, return_state=True)      # and in the states at both ends
    state = layer.initial_state(batch)
    y_t = layer.step(x[:, 0], state)

    y = ssm.torch.functional.selective_scan(u, dt, A, B, C, skip=D)

functional    the primitives that layers are made of
compat        the functions of mamba_ssm, causal_conv1d, H3 and flash-linear-attention
"""
from . import _operators, compat, functional  # noqa: F401
from .modules import S4D, H3, Attention, DenseMamba, DenseRetNet, LayerModule, Mamba, Mamba2, Retention

__all__ = ["S4D", "H3", "Attention", "DenseMamba", "DenseRetNet", "LayerModule", "Mamba", "Mamba2", "Retention", "compat",
           "functional"]

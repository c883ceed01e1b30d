"""Optimizer states in few bits: any transform, any codec, and steps that work in place."""

from optlab.transforms.quantized._adam import adam8bit, adamw8bit, ademamix8bit
from optlab.transforms.quantized._adam_low import adamw4bit, adamw_coat, adamw_fp8
from optlab.transforms.quantized._bitsandbytes import load_bitsandbytes
from optlab.transforms.quantized._fused import FusedTransformation, fused, step
from optlab.transforms.quantized._inspect import explain, quantization_error, state_bytes
from optlab.transforms.quantized._layerwise import lamb8bit, lars8bit, lion_k8bit, muon8bit
from optlab.transforms.quantized._momentum import lion8bit, sgd8bit
from optlab.transforms.quantized._quantize import QuantizedState, quantize_states
from optlab.transforms.quantized._restore import check_codecs, requantize
from optlab.transforms.quantized._rules import all_but_embeddings
from optlab.transforms.quantized._split_master import (
    SplitMasterState,
    StochasticRoundState,
    split_master,
    stochastic_round_bf16,
)
from optlab.transforms.quantized._squares import adagrad8bit, rmsprop8bit

__all__ = [
    "FusedTransformation",
    "QuantizedState",
    "SplitMasterState",
    "StochasticRoundState",
    "adagrad8bit",
    "adam8bit",
    "adamw4bit",
    "adamw8bit",
    "adamw_coat",
    "adamw_fp8",
    "ademamix8bit",
    "all_but_embeddings",
    "check_codecs",
    "explain",
    "fused",
    "lamb8bit",
    "lars8bit",
    "lion8bit",
    "lion_k8bit",
    "load_bitsandbytes",
    "muon8bit",
    "quantization_error",
    "quantize_states",
    "requantize",
    "rmsprop8bit",
    "sgd8bit",
    "split_master",
    "state_bytes",
    "step",
    "stochastic_round_bf16",
]

"""Small checkpoints made by hand, of kinds that transformers does not save: an adapter, a bare network, a pipeline."""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np

from deployments.demo.checkpoint import PlannedTensor, dense_checkpoint, encoded
from deployments.demo.content import BytesContent, Content

Shapes = Iterable[tuple[str, tuple[int, ...]]]


def lora_adapter() -> dict[str, Content]:
    """Return the files of a low-rank adapter."""
    config = {"peft_type": "LORA", "base_model_name_or_path": "demo/llama-small", "r": 4, "task_type": "CAUSAL_LM"}
    prefix = "base_model.model.model.layers.{}.self_attn.q_proj"
    shapes = [
        (f"{prefix.format(layer)}.{side}.weight", shape)
        for layer in range(4)
        for side, shape in (("lora_A", (4, 64)), ("lora_B", (64, 4)))
    ]
    return {"adapter_config.json": as_json(config), "adapter_model.safetensors": random_weights(shapes, "F32")}


def mlp() -> dict[str, Content]:
    """Return the files of a network without a norm."""
    shapes = [("fc1.weight", (64, 32)), ("fc1.bias", (64,)), ("fc2.weight", (10, 64)), ("fc2.bias", (10,))]
    config = {"architectures": ["MLP"], "model_type": "mlp"}
    return {"config.json": as_json(config), "model.safetensors": random_weights(shapes, "F32")}


def diffusion_pipeline() -> dict[str, Content]:
    """Return the files of a text-to-image pipeline: a denoiser in half precision and an autoencoder, in folders."""
    block = "mid_block.attentions.0.transformer_blocks.0"
    denoiser = [
        ("conv_in.weight", (32, 4, 3, 3)),
        *((f"{block}.norm{i}.{part}", (32,)) for i in (1, 2, 3) for part in ("weight", "bias")),
        (f"{block}.attn1.to_q.weight", (32, 32)),
        ("conv_norm_out.weight", (32,)),
        ("conv_norm_out.bias", (32,)),
        ("conv_out.weight", (4, 32, 3, 3)),
    ]
    autoencoder = [
        ("decoder.conv_in.weight", (32, 4, 3, 3)),
        ("decoder.mid_block.attentions.0.group_norm.weight", (32,)),
        ("decoder.mid_block.attentions.0.group_norm.bias", (32,)),
        ("decoder.conv_norm_out.weight", (32,)),
        ("decoder.conv_norm_out.bias", (32,)),
    ]
    parts = {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    return {
        "model_index.json": as_json({"_class_name": "StableDiffusionPipeline"} | parts),
        "unet/config.json": as_json({"_class_name": "UNet2DConditionModel", "norm_num_groups": 8}),
        "unet/diffusion_pytorch_model.fp16.safetensors": random_weights(denoiser, "F16"),
        "vae/config.json": as_json({"_class_name": "AutoencoderKL", "norm_num_groups": 8}),
        "vae/diffusion_pytorch_model.safetensors": random_weights(autoencoder, "F32"),
    }


def random_weights(shapes: Shapes, dtype: str) -> Content:
    """Return a checkpoint of these tensors: norms' scales about 1, everything else about 0, from a fixed seed."""
    random = np.random.default_rng(0)
    tensors = [PlannedTensor(name, dtype, shape) for name, shape in shapes]
    values = {
        tensor.name: random.lognormal(0.0, 0.2, tensor.shape)
        if "norm" in tensor.name and tensor.name.endswith("weight")
        else random.normal(0.0, 0.05, tensor.shape)
        for tensor in tensors
    }
    return dense_checkpoint(tensors, {name: encoded(array, dtype) for name, array in values.items()})


def as_json(value: object) -> BytesContent:
    """Return a value as a JSON file."""
    return BytesContent(json.dumps(value, indent=2).encode())

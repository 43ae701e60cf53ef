"""Configs of transformers' classes with few layers, narrow widths, small vocabularies, and what building them needs."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import re
from typing import Any, Literal, NamedTuple, get_args

TINY_LAYERS = 4  # layers that alternate (attention every fourth one) must all be there
TINY_VOCABULARY = 512
MAX_PARAMETERS = 400_000_000  # of a model that is built at its default widths: 1.6 GB in float32

Recipe = Literal["divided", "fixed", "fewer_heads", "shallow", "narrow", "filled"]
RECIPES: tuple[Recipe, ...] = get_args(Recipe)


class Size(NamedTuple):
    """How a size shrinks: divided by a factor, which keeps products of sizes equal, or down to a fixed value."""

    factor: int
    fixed: int


WIDTH, INNER, HEADS, HEAD_DIM = Size(16, 64), Size(16, 128), Size(4, 4), Size(4, 16)
LAYERS, VOCABULARY, EXPERTS = Size(0, TINY_LAYERS), Size(0, TINY_VOCABULARY), Size(0, 4)  # 0: the fixed value always
CHOSEN, GROUPS, POSITIONS, QUERIES = Size(0, 2), Size(0, 1), Size(0, 1024), Size(0, 8)
IMAGE = Size(4, 256)  # divided where it is larger than that
# What a field of a config counts, by its name; the first rule that fits decides, None leaves the field alone.
SIZE_RULES: tuple[tuple[str, Size | None], ...] = (
    (r"token|_id$|_idx$|_index$|indices$|labels|conv_dim|kernel|tdnn|codevector|layer_norm|shared_experts", None),
    (r"vocab_size|codebook_size", VOCABULARY),
    (r"(key_value|kv)_heads|n_head_kv|num_key_value_groups", HEADS),
    (r"heads?$", HEADS),
    (r"experts_per|(^|moe_|router_|num_)top_?k$|moe_k$", CHOSEN),
    (r"^n_group$|topk_group$", GROUPS),
    (r"expert_capacity", None),
    (r"num_queries", QUERIES),
    (r"upsample_groups$|input_size$|downsample_channels", WIDTH),
    (r"image_size$", IMAGE),
    (r"experts$", EXPERTS),
    (r"head_dim|^d_kv$|d_head$|dim_head|attention_head_size|rotary_dim|_rank$|d_state", HEAD_DIM),
    (r"ffn_d|ffn_h|ffn_i|intermediate_|d_inner|^d_ff$|^n_inner$|mlp_dim|mlp_h|feedforward", INNER),
    (r"layer_(period|offset|list|interval)|per_layer|first_k|_divisor", None),
    (r"layers?$|(^|_)depth$|num_blocks$", LAYERS),
    (
        r"hidden_(size|dim)|d_model|d_ssm|embed_dim|embedding_(size|dim)|n_embd|emb_dim|output_size|(^|_)dim$|_dims$",
        WIDTH,
    ),
    (r"max_position|n_positions|max_seq", POSITIONS),
)
ABSENT = {  # what a few classes leave without a default, and need
    "prediction_length": 8,
    "num_key_value_heads": 1,
    "num_experts_per_tok": 2,
    "image_token_index": 10,
    "image_token_id": 10,
}
# what a few more need, where for others None has a meaning
MORE_ABSENT: dict[str, Any] = {
    "n_routed_experts": 4,
    "num_experts": 4,
    "n_shared_experts": 1,
    "moe_intermediate_size": 64,
    "mlp_layer_types": ["dense", *["sparse"] * (TINY_LAYERS - 1)],
    "clip_qkv": 8.0,
    "vocabulary_map": {"<image>": 4},
    "vocab_size": TINY_VOCABULARY,
    "pad_token_id": 0,
    "mask_token_id": 1,
    "head_dim": HEAD_DIM.fixed,
    "top_k_experts": 2,
    "layer_types": ["full_attention"] * TINY_LAYERS,
}
# read from configs that declare no such field
UNDECLARED: dict[str, Any] = {
    "rope_theta": 10_000.0,
    "out_indices": [1, 2, 3, 4],
    "shared_expert_intermediate_size": 64,
    "contrastive_hidden_size": 64,
    "num_key_value_heads": 4,
    "spatial_merge_size": 2,
}
# filled by the class from other fields, or the same under another name
DERIVED = frozenset({"stage_names", "out_features", "out_indices", "architectures", "model_type", "num_labels"})


def tiny_config(config_class: type, recipe: Recipe) -> Any:
    """Return a config of a class with few layers, experts and words.

    Args:
        config_class: one of transformers' config classes.
        recipe: "divided" divides all widths, "fixed" sets them all to the same few values, "shallow" leaves the widths,
            "fewer_heads" divides the number of heads like the widths, so that a head stays as wide as it was,
            "narrow" divides widths but leaves the layers, "filled" fixes them and fills what has no default.

    Raises:
        Exception: whatever the class raises on sizes that do not go together, or without arguments.
    """
    return shrunk(default_config(config_class), recipe)


def default_config(config_class: Any) -> Any:
    """Return a class's default config; one that only composes others is given a usual encoder and decoder."""
    from transformers import BertConfig, ViTConfig, Wav2Vec2Config

    with contextlib.suppress(ValueError):  # what a composing class raises without its parts
        return without_timm(config_class())
    parts = [name for name, spec in config_class.sub_configs.items() if spec.__name__ == "AutoConfig"]
    given = {}
    for name in parts:
        sees = "vision" in name or ("encoder" in name and "vision" in config_class.model_type)
        hears = "encoder" in name and "speech" in config_class.model_type
        given[name] = ViTConfig() if sees else Wav2Vec2Config() if hears else BertConfig(is_decoder=name == "decoder")
    return config_class(**given)


def with_parts(config: Any) -> Any:
    """Return a copy of a config with a default for each nested one that is absent."""
    absent = {name: spec for name, spec in config.sub_configs.items() if getattr(config, name, None) is None}
    filled = copy.deepcopy(config)
    for name, spec in absent.items():
        if spec.__name__ != "AutoConfig":
            setattr(filled, name, spec())
    return filled


def stand_in_for_libraries() -> None:
    """Let models be built that ask for other libraries: vision towers from timm are then empty, losses cannot run."""
    from transformers import CONFIG_MAPPING, AutoModel, AutoModelForImageClassification, PreTrainedModel
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES
    from transformers.utils import import_utils

    import_utils.BACKENDS_MAPPING["scipy"] = (lambda: True, "")

    class Empty(PreTrainedModel):  # type: ignore[misc]  # an untyped library
        """A tower of which nothing is known."""

        main_input_name = "pixel_values"

    for model_type, name in MODEL_MAPPING_NAMES.items():
        if name == "TimmWrapperModel":
            Empty.config_class = CONFIG_MAPPING[model_type]
            for auto in (AutoModel, AutoModelForImageClassification):
                auto.register(CONFIG_MAPPING[model_type], Empty, exist_ok=True)


def without_timm(config: Any) -> Any:
    """Return a config whose backbones from timm, which is another library, are ResNets of transformers."""
    from transformers import ResNetConfig

    for name, value in vars(config).items():
        if getattr(value, "model_type", None) == "timm_backbone":
            count = len(getattr(value, "out_indices", None) or [4])
            stages = [f"stage{number}" for number in range(5 - count, 5)]
            setattr(config, name, ResNetConfig(out_features=stages))
    return config


def shrunk(config: Any, recipe: Recipe) -> Any:
    """Return a config of the same class with smaller sizes; what is no size, such as a kind of norm, stays.

    Args:
        config: left as it is.
        recipe: as `tiny_config` has it.

    Raises:
        Exception: whatever the class raises on sizes that do not go together.
    """
    recipe = "shallow" if _has_stages(config) and recipe not in ("narrow", "filled") else recipe
    layer_count = _layer_count(config)
    values = {}
    for field in dataclasses.fields(config):
        if not field.init or field.name in DERIVED or field.name.startswith("_"):
            continue
        value = config.__dict__.get(config.attribute_map.get(field.name, field.name))
        if value is None:
            new = ABSENT.get(field.name, MORE_ABSENT.get(field.name) if recipe == "filled" else None)
        else:
            new = _shrunk_value(field.name, value, recipe, layer_count)
        if new is not None:
            values[field.name] = new
    if indices := getattr(config, "out_indices", None):  # as many of the layers that are left
        shallower = layer_count > TINY_LAYERS and recipe != "narrow"
        values["out_indices"] = list(range(1, TINY_LAYERS + 1))[-len(indices) :] if shallower else list(indices)
    return type(config)(**(UNDECLARED if recipe == "filled" else {}) | values)


def _shrunk_value(name: str, value: Any, recipe: Recipe, layer_count: int) -> Any:
    if dataclasses.is_dataclass(value):
        return shrunk(value, recipe)
    if type(value) is int:
        return _shrunk_int(name, value, recipe)
    if isinstance(value, list | tuple):
        return _shrunk_list(name, list(value), recipe, layer_count)  # a list, as config.json has it
    return _shrunk_rope(value, recipe) if name == "rope_parameters" and isinstance(value, dict) else value


def _shrunk_rope(rope: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Return RoPE's parameters with sections whose sum is half a head, as they must be."""
    if recipe == "filled" or (recipe == "fixed" and "mrope_section" in rope):
        return {**rope, "mrope_section": [2, 3, 3]}
    if recipe != "divided" or "mrope_section" not in rope:
        return rope
    return {**rope, "mrope_section": [section // HEAD_DIM.factor for section in rope["mrope_section"]]}


def _shrunk_int(name: str, value: int, recipe: Recipe) -> int:
    if re.search(r"token_(id|index)$|_id$|_index$", name) and value >= TINY_VOCABULARY:
        return 2 + sum(name.encode()) % 40  # below every tiny vocabulary, and another for most names
    size = next((size for rule, size in SIZE_RULES if re.search(rule, name)), None)
    if size is None or value <= 0 or (size is IMAGE and value <= IMAGE.fixed):
        return value
    if recipe == "narrow" and size is LAYERS:
        return value
    if recipe == "fewer_heads" and size in (HEADS, HEAD_DIM):
        return value if size is HEAD_DIM else max(1, value // WIDTH.factor)
    if not size.factor or recipe in ("fixed", "filled"):
        return min(value, size.fixed)
    return value if recipe == "shallow" or value % size.factor else value // size.factor


def _shrunk_list(name: str, items: list[Any], recipe: Recipe, layer_count: int) -> list[Any]:
    integers = all(type(item) is int for item in items)
    if recipe == "narrow":
        return items
    if integers and name == "downsample_channels":
        return [_shrunk_int(name, item, recipe) for item in items]
    if re.search(r"depths?$|num_blocks|blocks_per|block_repeats|numb_of_layers", name):
        return [min(item, 2) for item in items] if integers else items
    if len(items) == layer_count > TINY_LAYERS:
        items = _representatives(items)
        return [_shrunk_int(name, item, recipe) for item in items] if integers else items
    if integers and re.search(r"index|indices|_layers$|_idxs|hook_ids|feature_layer|layer_ids", name):
        return [min(item, index % TINY_LAYERS) if item >= 0 else max(item, -2) for index, item in enumerate(items)]
    return items


def _representatives(items: list[Any]) -> list[Any]:
    """Return TINY_LAYERS items, in order, with as many distinct ones as there are places."""
    texts = list(map(repr, items))
    chosen = [texts.index(text) for text in dict.fromkeys(texts)][:TINY_LAYERS]
    rest = [index for index in range(len(items)) if index not in chosen]
    return [items[index] for index in sorted(chosen + rest[: TINY_LAYERS - len(chosen)])]


def _has_stages(config: Any) -> bool:
    """Whether widths or heads are given stage by stage: they then fit each other only as they are."""
    staged = re.compile(r"heads$|hidden_sizes|embed_dim|encoder_hidden|depths")
    return any(isinstance(value, list | tuple) and staged.search(name) for name, value in config.__dict__.items())


def _layer_count(config: Any) -> int:
    names = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "depth")
    counts = (config.__dict__.get(name) for name in names)
    return next((count for count in counts if isinstance(count, int)), 0)

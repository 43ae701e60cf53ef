"""Where in a block a norm stands, by the words of its path."""

from __future__ import annotations

from tasks.core.modules import NormModules
from tasks.core.paths import vocabulary, words_of
from tasks.core.records import Site

QUERY = frozenset({"q", "query"})
KEY = frozenset({"k", "key"})
EMBEDDING = vocabulary("embedding embeddings embed embedder emb embd patch token tokens pos position time")
BEFORE = vocabulary("pre before input in start first")
AFTER = vocabulary("post after")
LAST = vocabulary("final f post out output last end after")
HEAD = vocabulary("head lm cls classifier pooler predictions vocab score generator")
_ATTENTION = vocabulary("attention attn att sa mixer mamba mlstm operator temporal token linear conv")
_CROSS = vocabulary("cross crossattention encdecattention encoder")
_MLP = vocabulary("mlp ffn ffw ff feed feedforward fc moe dense intermediate")
# inside attention, a mixer or a router: what such a norm puts out is no residual stream
_INNER = vocabulary("q k v kv qk qkv query key value a b c dt inner router indexer")
_PREDICTION = vocabulary("mtp nextn enorm hnorm")  # heads that predict several tokens ahead
# Places in the order in which a block runs; numbers only order.
_WITHIN, _FIRST, _BESIDE_ATTENTION, _AFTER_ATTENTION, _AFTER_CROSS, _MIDDLE = 10, 20, 30, 40, 45, 50
_SECOND, _THIRD, _BESIDE_MLP, _AFTER_MLP, _BARE, _OUTPUT, _LAST = 60, 65, 70, 80, 85, 90, 95


def site_of(norm: NormModules, in_block: bool) -> Site:
    """Return where in the model a norm that is not final stands, as far as its path tells."""
    words = norm.words
    whole = frozenset().union(*map(words_of, norm.path))
    if words & QUERY and not words & {"a", "kv"}:
        return "query"
    if words & KEY and not words & {"a", "kv"}:
        return "key"
    if whole & _PREDICTION or "shared_head" in norm.path:
        return "head"
    return _site_inside(norm) if in_block else _site_outside(whole)


def is_inner(norm: NormModules) -> bool:
    """Return whether a norm is inside a sublayer, so that its output is not the block's."""
    return bool(norm.words & _INNER)


def order_in_block(norm: NormModules) -> int:
    """Return a number that grows with a norm's place in the order in which a block runs, by its words."""
    words = norm.words
    if words & {"final", "last"} or norm.name in {"norm_out", "out_norm", "ln_out"}:
        return _LAST
    if words & _MLP:
        return _AFTER_MLP if words & AFTER else _SECOND
    if words & _CROSS:
        return _AFTER_CROSS
    if words & _ATTENTION:
        return _AFTER_ATTENTION if words & AFTER else _FIRST
    return _order_by_parent(norm, words)


def _order_by_parent(norm: NormModules, words: frozenset[str]) -> int:
    around = frozenset().union(*map(words_of, norm.path[-4:-1]))
    if around & _MLP:
        return _BESIDE_MLP
    if words & _INNER:
        return _WITHIN
    if norm.name.lower() in {"norm", "ln", "layer_norm", "layernorm"} and norm.parent[-1:] == ("#",):
        return _BARE
    if around & (_ATTENTION | _CROSS - {"encoder"}):
        return _AFTER_ATTENTION if "output" in around else _BESIDE_ATTENTION
    return _order_by_number(words, around)


def _order_by_number(words: frozenset[str], around: frozenset[str]) -> int:
    if words & BEFORE or "1" in words:
        return _FIRST
    if words & {"after", "2"}:
        return _SECOND
    if words & {"3", "4"}:
        return _BESIDE_MLP if "4" in words else _THIRD
    return _OUTPUT if "output" in around or words & LAST else _MIDDLE


def _site_outside(whole: frozenset[str]) -> Site:
    if whole & EMBEDDING:
        return "embedding"
    return "head" if whole & HEAD else "other"


def _site_inside(norm: NormModules) -> Site:
    order = order_in_block(norm)
    if is_inner(norm) or order <= _WITHIN:
        return "other"
    if order <= _BESIDE_ATTENTION:
        return "pre_attention"
    if order < _SECOND:
        return "post_attention"
    return "pre_mlp" if order <= _THIRD else "post_mlp"

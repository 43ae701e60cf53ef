"""The words of column `integrity`: what is wrong with a checkpoint, or not to be expected of it.

An audit may have several. One whose status is `bad_file` has at most one, on the files.
"""

from __future__ import annotations

from typing import Final

# Verdicts on the files.
INDEX_NAMES_MISSING_TENSOR: Final = "index_names_missing_tensor"  # the index puts a tensor into a shard that lacks it
SHARD_MISSING: Final = "shard_missing"  # of model-00001-of-00003 and its like fewer than three are there, or named
SHARD_TRUNCATED: Final = "shard_truncated"  # a file ends before its last tensor does, or before its header does
CONFIG_UNREADABLE: Final = "config_unreadable"  # config.json is no JSON object, or far too large; the audit goes on

# Verdicts on the names of the tensors.
ADAPTER_ONLY: Final = "adapter_only"  # the tensors are to be added to another checkpoint's
ANONYMOUS_NAMES: Final = "anonymous_names"  # names are numbers; nothing can be told from them
LAYER_GAPS: Final = "layer_gaps"  # some layers between the first and the last have no norm
NO_NORM_TENSORS: Final = "no_norm_tensors"  # a transformer without one: norms without affine, or folded away
PROMISED_NORM_MISSING: Final = "promised_norm_missing"  # the architecture has a scale that the file lacks

# Verdicts on the values of the scales and biases that were read.
SCALES_ALL_ONE: Final = "scales_all_one"  # every scale is exactly 1: never trained, or folded into the next layer
SCALE_NOT_FINITE: Final = "scale_not_finite"  # a scale holds NaN or an infinite value
BIAS_NOT_FINITE: Final = "bias_not_finite"  # the bias of a final norm does

FROM_VALUES: Final = frozenset({SCALES_ALL_ONE, SCALE_NOT_FINITE, BIAS_NOT_FINITE})

# What is concluded from names alone, and so again whenever the method changes; all else was seen in the bytes.
FROM_NAMES: Final = frozenset({ADAPTER_ONLY, ANONYMOUS_NAMES, LAYER_GAPS, NO_NORM_TENSORS, PROMISED_NORM_MISSING})

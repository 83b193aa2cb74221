"""What a network is told beside the noisy sample, and how that is left out."""

from noisette.conditioning.cache import cached
from noisette.conditioning.dropout import drop_labels
from noisette.conditioning.label import NO_LABEL, label_cond, to_null
from noisette.conditioning.pretrained import FrozenText, PretrainedText
from noisette.conditioning.text import NO_TEXT, alike, drop_texts, negatives_of, text_cond, trimmed
from noisette.conditioning.tokenizer import Tokenizer
from noisette.conditioning.weighting import weighted, windows

__all__ = [
    "NO_LABEL",
    "NO_TEXT",
    "FrozenText",
    "PretrainedText",
    "Tokenizer",
    "alike",
    "cached",
    "drop_labels",
    "drop_texts",
    "label_cond",
    "negatives_of",
    "text_cond",
    "to_null",
    "trimmed",
    "weighted",
    "windows",
]

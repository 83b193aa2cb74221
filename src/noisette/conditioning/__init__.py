"""What a network is told beside the noisy sample, and how that is left out."""

from noisette.conditioning.dropout import drop_labels
from noisette.conditioning.label import NO_LABEL, label_cond, to_null

__all__ = ["NO_LABEL", "drop_labels", "label_cond", "to_null"]

"""Guidance beyond `noisette.core.guide`: each method a denoiser made of denoisers, or a weight."""

from noisette.guidance.classifier import LogProb, classifier_guide
from noisette.guidance.interval import Interval
from noisette.guidance.rescale import rescaled_guide
from noisette.guidance.threshold import clip_x0, dynamic_threshold

__all__ = ["Interval", "LogProb", "classifier_guide", "clip_x0", "dynamic_threshold", "rescaled_guide"]

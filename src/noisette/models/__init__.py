"""Models: a described network with its weights, made into something that draws pictures."""

from noisette.hub.generator import GeneratorSpec
from noisette.hub.spec import AutoencoderSpec, Defaults, GridName, ModelSpec
from noisette.models.asking import Labels, Prompts
from noisette.models.autoencoder import PIXELS_AT_ONCE, Autoencoder, load_codec
from noisette.models.generator import Generator
from noisette.models.model import Model, Output, load

__all__ = [
    "PIXELS_AT_ONCE",
    "Autoencoder",
    "AutoencoderSpec",
    "Defaults",
    "Generator",
    "GeneratorSpec",
    "GridName",
    "Labels",
    "Model",
    "ModelSpec",
    "Output",
    "Prompts",
    "load",
    "load_codec",
]

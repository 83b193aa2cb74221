"""Models on disk: folders of safetensors and JSON, the embedded models, pictures that know their settings."""

from noisette.hub.embedded import embedded_models, find_model
from noisette.hub.folder import Listing, list_folder, parse_spec, read_spec, read_weights, write_folder
from noisette.hub.png import read_settings, write_png
from noisette.hub.records import from_record, parse_json, to_record

__all__ = [
    "Listing",
    "embedded_models",
    "find_model",
    "from_record",
    "list_folder",
    "parse_json",
    "parse_spec",
    "read_settings",
    "read_spec",
    "read_weights",
    "to_record",
    "write_folder",
    "write_png",
]

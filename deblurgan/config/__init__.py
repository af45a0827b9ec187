"""The options of every command: plain dataclasses that feed the API, the command line and YAML alike. No torch here.

train, pictures and networks hold them by what a command takes; fields and values are what they are made of.
"""

from deblurgan.config.fields import Layout, Precision, Preset
from deblurgan.config.networks import ExportConfig, InfoConfig, TuneConfig
from deblurgan.config.pictures import BlurConfig, DeblurConfig, DemoConfig, EvaluateConfig, WebConfig
from deblurgan.config.train import (
    NEEDS,
    TRAIN_PRESETS,
    Gan,
    Norm,
    Pixel,
    TrainConfig,
    TrainOptions,
    over_preset,
    train_config,
)
from deblurgan.config.values import (
    Options,
    Untyped,
    as_path,
    converted,
    from_mapping,
    parsed_bytes,
    parsed_size,
    to_mapping,
)

__all__ = [
    "NEEDS",
    "TRAIN_PRESETS",
    "BlurConfig",
    "DeblurConfig",
    "DemoConfig",
    "EvaluateConfig",
    "ExportConfig",
    "Gan",
    "InfoConfig",
    "Layout",
    "Norm",
    "Options",
    "Pixel",
    "Precision",
    "Preset",
    "TrainConfig",
    "TrainOptions",
    "TuneConfig",
    "Untyped",
    "WebConfig",
    "as_path",
    "converted",
    "from_mapping",
    "over_preset",
    "parsed_bytes",
    "parsed_size",
    "to_mapping",
    "train_config",
]

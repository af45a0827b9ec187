"""The options of every command: plain dataclasses that feed the API, the command line and YAML alike. No torch here.

train, pictures and networks hold them by what a command takes; fields and values are what they are made of,
and parsing reads them off a command line and YAML.
"""

from deblurgan.config.data import DataConfig
from deblurgan.config.evaluate import EvaluateConfig
from deblurgan.config.fields import Layout, Precision, Preset
from deblurgan.config.networks import ExportConfig, InfoConfig, TuneConfig
from deblurgan.config.parsing import parse_words
from deblurgan.config.pictures import BlurConfig, DeblurConfig, DemoConfig, WebConfig
from deblurgan.config.train import (
    NEEDS,
    REGIMES,
    TRAIN_PRESETS,
    Gan,
    Norm,
    Pixel,
    Regime,
    TrainConfig,
    TrainOptions,
    named_defaults,
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
    "REGIMES",
    "TRAIN_PRESETS",
    "BlurConfig",
    "DataConfig",
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
    "Regime",
    "TrainConfig",
    "TrainOptions",
    "TuneConfig",
    "Untyped",
    "WebConfig",
    "as_path",
    "converted",
    "from_mapping",
    "named_defaults",
    "parse_words",
    "parsed_bytes",
    "parsed_size",
    "to_mapping",
    "train_config",
]

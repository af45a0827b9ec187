"""Training: `train(...)` with the paper's defaults, and the Trainer behind it.

A step is `critic_steps` updates of the critic on a batch, then one update of the generator on the same pictures.
Everything random in a step comes from (seed, step), so a run that was stopped goes on exactly as if it had not been.

trainer runs the whole; step is one step on the device, made of critic, objective, optimizers, average and graph;
pictures, networks and schedule set a run up; validation, history, skipped_steps and saving, in the run_folder, do what
comes between steps, and stopping ends them early; opening, progress, tensorboard and report tell
of it. own and own_optimizer take what Python gives beside the options.
"""

from deblurgan.training.callbacks import Callback
from deblurgan.training.errors import DivergedError, SaveError, TrainingError
from deblurgan.training.networks import Networks
from deblurgan.training.objective import LOSSES, MEASURES
from deblurgan.training.progress import ProgressBar
from deblurgan.training.step import Step
from deblurgan.training.trainer import Trainer, TrainResult, train
from deblurgan.training.validation import Validation

__all__ = [
    "LOSSES",
    "MEASURES",
    "Callback",
    "DivergedError",
    "Networks",
    "ProgressBar",
    "SaveError",
    "Step",
    "TrainResult",
    "Trainer",
    "TrainingError",
    "Validation",
    "train",
]

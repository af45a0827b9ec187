"""What training raises."""


class TrainingError(RuntimeError):
    """Training cannot go on: losses are not finite, too many pictures are unreadable, or a step needs more memory."""


class DivergedError(TrainingError):
    """Too many steps in a row were not finite. The run folder holds weights from before."""


class SaveError(TrainingError, OSError):
    """The run folder cannot be written, as on a full disk. The state that it holds is whole."""

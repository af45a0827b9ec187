"""What training raises."""


class TrainingError(RuntimeError):
    """Training cannot go on: losses are not finite, too many pictures are unreadable, or a step needs more memory."""


class DivergedError(TrainingError):
    """Too many steps in a row were not finite. The run folder holds weights from before."""

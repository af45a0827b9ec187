"""Trains on the folder argv[1] with the run folder argv[2] and the options argv[3], JSON."""

import json
import sys

import deblurgan

deblurgan.train(sys.argv[1], out=sys.argv[2], **json.loads(sys.argv[3]))

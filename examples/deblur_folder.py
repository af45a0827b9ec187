"""Deblur a folder of photos: python examples/deblur_folder.py PHOTOS OUT [WEIGHTS]."""

import argparse

from deblurgan import Deblurrer

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("photos", help="a folder, or one picture")
parser.add_argument("out", help="a folder to write to")
parser.add_argument("weights", nargs="?", help="a file of weights or a run folder; the bundled ones if not given")
args = parser.parse_args()

deblur = Deblurrer.from_pretrained(args.weights)
report = deblur.files([args.photos], args.out, skip_existing=True, log=print)
for path, reason in report.failed:
    print(f"could not restore {path}: {reason}")
print(f"{len(report.done)} restored, {len(report.skipped)} there already, {len(report.failed)} failed")

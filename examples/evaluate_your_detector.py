"""Measure by a detector of your own: python examples/evaluate_your_detector.py DATA OUT.

DATA is pairs of blurred and sharp pictures, or sharp photos, which are blurred. Any callable with a name and classes is
a detector. This one takes each bright patch for a lamp: put your model into __call__.
"""

import argparse

import numpy as np
from scipy import ndimage
from torch import Tensor

import deblurgan
from deblurgan.detection.boxes import Detections


class Lamps:
    name = "lamps, brighter than 200"  # stands in the report
    classes = ("lamp",)

    def __call__(self, picture: Tensor) -> Detections:  # uint8 [3, h, w]
        grey = picture.float().mean(0).numpy()
        patches, _ = ndimage.label(grey > 200)
        places = ndimage.find_objects(patches)
        boxes = [(float(x.start), float(y.start), float(x.stop), float(y.stop)) for y, x in places]  # px
        scores = [float(np.max(grey[place])) / 255 for place in places]  # 0 to 1
        return Detections(boxes, [0] * len(boxes), scores)  # labels: indices into classes


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("data")
parser.add_argument("out", help="a folder for report.html, report.json and figures.csv")
args = parser.parse_args()

deblur = deblurgan.Deblurrer.from_pretrained()
report = deblurgan.evaluate(deblur, args.data, detector=Lamps(), kernels=1, exposure=0.5, confidence=0.8, out=args.out)
print(report)

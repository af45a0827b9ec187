"""Train on sharp photos, then measure on others: python examples/train_and_evaluate.py PHOTOS OTHERS OUT."""

import argparse

import deblurgan

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("photos", help="sharp photos to train on; camera shake is added on the fly")
parser.add_argument("others", help="sharp photos that the training does not see")
parser.add_argument("out", help="the run folder; the same command goes on with a run that was stopped")
parser.add_argument("--steps", type=int, default=20_000)
parser.add_argument("--crop", type=int, default=256)
parser.add_argument("--width", type=int, help="channels of the first layer, 24 in tiny")
args = parser.parse_args()

result = deblurgan.train(
    args.photos, out=args.out, preset="tiny", steps=args.steps, crop=args.crop, width=args.width, log=print
)
print(f"best validation PSNR {result.best_psnr:.2f} dB after {result.steps} steps")

deblur = deblurgan.Deblurrer.from_pretrained(result.out)
report = deblurgan.evaluate(deblur, args.others, metrics=("psnr",), kernels=2)
print(report)
report.to_csv(result.out / "evaluation.csv")

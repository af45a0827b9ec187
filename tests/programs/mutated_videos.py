"""FOLDER SEED COUNT: restores COUNT damaged videos in the folder. Each must be restored, or fail by one type of error
that leaves no temporary file, within a time; the process must live."""

from __future__ import annotations

import faulthandler
import random
import sys
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from deblurgan.inference.video import VideoError, restore_video  # noqa: E402  from this checkout
from video_clips import make_clip  # noqa: E402

LIMIT = 30  # s for one file


def mutated(data: bytes, draw: random.Random) -> bytes:
    """The bytes cut short, with bytes changed, or with a part taken out, doubled or overwritten."""
    changed = bytearray(data)
    kind = draw.randrange(5)
    at, n = draw.randrange(len(data)), draw.randrange(1, 400)
    if kind == 0:
        del changed[at:]
    elif kind == 1:
        del changed[at : at + n]
    elif kind == 2:
        changed[at:at] = changed[at : at + n]
    elif kind == 3:
        changed[at : at + n] = draw.randbytes(len(changed[at : at + n]))
    else:
        for _ in range(draw.randrange(1, 20)):
            changed[draw.randrange(len(data))] = draw.randrange(256)
    return bytes(changed)


def main(folder: Path, seed: int, count: int) -> None:
    draw = random.Random(seed)
    pts = tuple(3600 * i for i in range(20))
    clips = [
        make_clip(folder / "a.mp4", pts, container={"movflags": "faststart"}),
        make_clip(folder / "b.mkv", pts),
        make_clip(folder / "c.webm", pts, codec="libvpx-vp9"),
        make_clip(folder / "d.ts", pts),
        make_clip(folder / "e.mov", pts),
        make_clip(folder / "f.mp4", pts, container={"movflags": "frag_keyframe+empty_moov"}),
    ]
    outcomes: Counter[str] = Counter()
    for i in range(count):
        clip = clips[i % len(clips)]
        source, target = folder / f"mutated{clip.suffix}", folder / "restored.mkv"
        source.write_bytes(mutated(clip.read_bytes(), draw))
        faulthandler.dump_traceback_later(LIMIT, exit=True)
        try:
            restore_video(lambda pixels: pixels, source, target, overwrite=True)
            outcomes["whole"] += 1
        except VideoError as error:
            outcomes["refused" if error.report is None else "partial"] += 1
            if error.report is not None:
                error.report.path.unlink()
        faulthandler.cancel_dump_traceback_later()
        left = set(folder.iterdir()) - {*clips, source, target}
        assert not left, left
        source.unlink()
    print(dict(outcomes))


main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))

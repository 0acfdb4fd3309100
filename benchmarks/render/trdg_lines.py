"""Runs in an environment that has TRDG and nothing of ours: reads {"texts", "font", "height"} from standard input, draws each
text once and prints the CPU seconds."""

import json
import sys
import time

from trdg.generators import GeneratorFromStrings

asked = json.load(sys.stdin)
generator = GeneratorFromStrings(
    asked["texts"], count=len(asked["texts"]), fonts=[asked["font"]], size=asked["height"], background_type=1, skewing_angle=0
)
next(generator)  # what is loaded once
start = time.process_time()
drawn = sum(1 for _ in generator)
print((time.process_time() - start) / drawn)

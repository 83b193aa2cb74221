"""Side by side with other diffusion libraries, in one process on one machine: `python -m bench.run`."""

import os

# The peers draw a progress bar for every call; thousands of bars are no measurement.
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

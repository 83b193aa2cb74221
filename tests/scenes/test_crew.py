import subprocess
import sys
from ctypes import CDLL

import pytest

SCRIPT = """
import resource, sys, torch
from noisette.scenes.crew import keep_memory
if sys.argv[1] == "keep":
    keep_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(2**23)
before = faults()
for _ in range(20):
    torch.ones(2**23)
print(faults() - before)
"""


@pytest.mark.skipif(not hasattr(CDLL(None), "mallopt"), reason="another C library than GNU's")
def test_memory_that_is_kept_is_not_cleared_again_for_every_array() -> None:
    usual, kept = (
        int(subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, check=True).stdout)
        for how in ("usual", "keep")
    )
    assert kept < usual / 10

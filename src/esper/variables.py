"""Variables of the environment that torch and its libraries read once, as they were when Esper was imported; one is set here.

What the environment says later need not be what is in force.
"""

import os

# MKL takes other code paths by CPU and by the alignment of memory unless told otherwise, and reads this at its first call (measured), which
# may be long after torch was imported. AVX2,STRICT is the newest path whose results are the same bit for bit from run to run.
os.environ.setdefault("MKL_CBWR", "AVX2,STRICT")

_READ = ("CUBLAS_WORKSPACE_CONFIG", "CUDA_VISIBLE_DEVICES", "MKL_CBWR", "MKL_NUM_THREADS", "NVIDIA_TF32_OVERRIDE", "OMP_NUM_THREADS")
AT_IMPORT = {name: os.environ[name] for name in _READ if name in os.environ}

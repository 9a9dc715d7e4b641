"""Kernels as their files are, without torch. What is in one is compared with what making it gives whenever it is loaded; here its file is
compared with its name, with its own digest, and with what the logs say of it.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esper.errors import DataError
from esper.events.digests import canonical, digest_of
from esper.oona.file import explained

SUFFIX = ".safetensors"
_SPEC_FORMAT = 1
_LARGEST_HEADER = 100 << 20  # As safetensors has it.
_DTYPES = {"F64": "torch.float64", "F32": "torch.float32", "F16": "torch.float16", "BF16": "torch.bfloat16", "I64": "torch.int64"}


def check_kernel(path: Path) -> tuple[str, str]:
    """The key and the digest of the kernel at `path`. Raises DataError where its file is another's, damaged or altered; LogError."""
    with explained(path, "read"):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:  # noqa: PTH123 - of a descriptor.
            content = file.read()
    try:
        length = int.from_bytes(content[:8], "little")
        header: Mapping[str, Any] = json.loads(content[8 : 8 + min(length, _LARGEST_HEADER)])  # Any: what it lacks is an error below.
        tensors, said = content[8 + length :], header["__metadata__"]
        request = {"format": _SPEC_FORMAT, "spec": said["spec"], "rng_seed": said["rng_seed"], "dtype": said["dtype"]}
        key = digest_of(request)
        digest = hashlib.sha256(key.encode())
        for name in sorted(header.keys() - {"__metadata__"}):
            begin, end = header[name]["data_offsets"]
            digest.update(canonical([name, _DTYPES[header[name]["dtype"]], header[name]["shape"]]))
            digest.update(tensors[begin:end])
        found, expected = digest.hexdigest(), said["digest"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"expected a kernel in {path}, got something else: {error!r}") from error
    if path.name != key + SUFFIX:
        raise DataError(f"expected the kernel that {path} is named by, got kernel {key[:12]}")
    if found != expected:
        raise DataError(f"expected digest {str(expected)[:12]} of the kernel in {path}, as it says itself, got {found[:12]}")
    return key, found

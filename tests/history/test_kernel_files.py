"""What can be told of a kernel's file without torch."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from esper.errors import DataError, LogError
from esper.history.checks import examine
from esper.history.kernel_files import check_kernel
from esper.kasmina.compiler import DTYPES, Kernel, KernelRequest, compile_kernel
from esper.oona.file import KERNELS
from tests.kasmina.test_compiler import order

REQUEST = order(rng_seed=7)


def made(folder: Path, request: KernelRequest = REQUEST) -> tuple[Kernel, Path]:
    """A kernel, with its file."""
    kernel = compile_kernel(request, folder)
    return kernel, folder / f"{request.key}.safetensors"


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_kernel_has_the_name_and_the_digest_of_what_is_in_it(tmp_path: Path, dtype: Literal["float32"]) -> None:
    kernel, path = made(tmp_path, replace(REQUEST, dtype=dtype))
    assert check_kernel(path) == (kernel.request.key, kernel.digest)


def test_what_is_altered_renamed_or_cut_off_is_none(tmp_path: Path) -> None:
    _, path = made(tmp_path)
    content = path.read_bytes()
    for wrong in (content[:-1] + b"\x01", content[:-8], content[:20], b"", content.replace(b'"rng_seed":"7"', b'"rng_seed":"8"')):
        path.write_bytes(wrong)
        with pytest.raises(DataError, match=r"^expected "):
            check_kernel(path)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"that .* is named by"):
        check_kernel(path.rename(path.with_name("other.safetensors")))


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    _, path = made(tmp_path)
    path.with_name("link.safetensors").symlink_to(path)
    with pytest.raises(LogError):
        check_kernel(path.with_name("link.safetensors"))


def test_the_doctor_names_the_kernel_that_is_wrong(tmp_path: Path) -> None:
    _, path = made(tmp_path / KERNELS)
    assert [check.verdict for check in examine(tmp_path) if check.name == "kernels"] == ["ok"]
    path.write_bytes(path.read_bytes()[:-1])
    (found,) = [check for check in examine(tmp_path) if check.name == "kernels"]
    assert (found.verdict, str(path) in found.answer) == ("bad", True)

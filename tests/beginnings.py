"""How runs begin, where a test says only what matters to it."""

from typing import Any

from esper.events.kinds.run import Code, Determinism, Hardware, RunStarted


def run_started(**fields: Any) -> RunStarted:
    """The first event of a run without sites, of which nothing is known but `fields` (the model checks them)."""
    unremarkable: dict[str, Any] = {
        "task": "tiny",
        "settings": {},
        "code": Code(revision=None, dirty_digest=None, argv=()),
        "packages": {},
        "data": (),
        "rng_seed": 0,
        "determinism": Determinism(threads=1, deterministic_algorithms=True, mkl_cbwr=None, variables={}, digest="full"),
        "hardware": Hardware(machine="m", processor="p", cores=2, memory_bytes=1, operating_system="o", device="cpu", gpus=()),
        "sites": (),
        "pairs": None,
        "parameters": 100,
        "epochs": 3,
        "by": None,
        "approved_by": None,
        "account": None,
    }
    return RunStarted(**unremarkable | fields)

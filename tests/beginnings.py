"""How runs begin, where a test says only what matters to it."""

from typing import Any

from esper.events.kinds.run import Code, Determinism, Hardware, RunStarted
from esper.events.kinds.training_description import Component, Model, Precision, TrainingDescribed


def training_described(**fields: Any) -> TrainingDescribed:
    """How a run is trained of which nothing is known but `fields`."""
    unremarkable: dict[str, Any] = {
        "model": Model(kind="torch.nn.Linear", digest="0" * 64, parameters=100, trainable=100, modules=(), left_out=0),
        "optimizer": Component(kind="torch.optim.adam.Adam", options={"lr": 0.01}, digest=None),
        "groups": (),
        "scheduler": None,
        "loss": Component(kind="torch.nn.functional.mse_loss", options={}, digest=None),
        "objective": None,
        "metrics": {},
        "loaders": (),
        "precision": Precision(parameters=("float32",), default="float32", autocast=None, float32_matmul="highest", cudnn_tf32=True),
        "policy": None,
        "sources": (),
    }
    return TrainingDescribed(**unremarkable | fields)


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
        "passed_over": {},
        "sites": (),
        "pairs": None,
        "parameters": 100,
        "epochs": 3,
        "by": None,
        "approved_by": None,
        "account": None,
    }
    return RunStarted(**unremarkable | fields)

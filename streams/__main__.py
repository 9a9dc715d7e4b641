"""`python -m streams`: one worker process. `esper worker` starts and supervises it."""

import argparse
from pathlib import Path

import faust

from esper.kafka.cluster import kafka_settings
from esper.kafka.ledger import LedgerSettings
from esper.observer.build import watching_of
from esper.oona.directory import Directory

from .app import build_app

parser = argparse.ArgumentParser()
parser.add_argument("kafka")
parser.add_argument("--settings", type=Path, default=Path())
parser.add_argument("--state-every", type=float, default=30.0)
parser.add_argument("--port", type=int)
chosen = parser.parse_args()
settings = kafka_settings(chosen.kafka, chosen.settings)
app = build_app(settings, LedgerSettings(watching_of(Directory(chosen.settings)), chosen.state_every), port=chosen.port)
faust.Worker(app, loglevel="WARNING", redirect_stdouts=False).execute_from_commandline()

"""`python -m streams`: one worker process. `esper worker` starts and supervises it."""

import argparse
import asyncio
import logging
import sys
import threading
from pathlib import Path

import faust

from esper.errors import EsperError
from esper.kafka.cluster import kafka_settings
from esper.kafka.cluster_topics import WORKER, check_needs
from esper.kafka.ledgers.ledger import LedgerSettings
from esper.kafka.ledgers.owned_ledgers import FAILED
from esper.observer.build import watching_of
from esper.oona.directory import Directory

from .app import build_app
from .process import end_late, warn_worker

parser = argparse.ArgumentParser()
parser.add_argument("kafka")
parser.add_argument("--settings", type=Path, default=Path())
parser.add_argument("--state-every", type=float, default=30.0)
parser.add_argument("--port", type=int)
parser.add_argument("--parent", type=int)
chosen = parser.parse_args()
settings = kafka_settings(chosen.kafka, chosen.settings)
logging.getLogger("aiokafka").propagate = False  # Hundreds of lines a second while a broker is away; what matters is raised.
try:
    asyncio.run(check_needs(settings, WORKER))  # Faust says of a cluster that refuses it only that it cannot connect.
except EsperError as error:
    warn_worker(error)
    sys.exit(FAILED)
app = build_app(settings, LedgerSettings(watching_of(Directory(chosen.settings)), chosen.state_every), port=chosen.port)
worker = faust.Worker(app, loglevel="WARNING", redirect_stdouts=False, quiet=True)
worker.spinner = None
threading.Thread(target=end_late, args=(worker, chosen.parent), daemon=True).start()
worker.execute_from_commandline()

"""The answer to each question in one sentence, made from the rows behind it. Unknown is said as unknown; nothing is ever "compliant".

A sentence states what the log has. It judges no figure, and it does not guess at what was not recorded.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from esper.audit.compliance.running import CheckResult
from esper.audit.report.model_file import ComparedModel
from esper.words import counted, duration, listed, number, plural, when

ResultRow = Mapping[str, Any]
"""A row of a result by column. Any: whatever DuckDB returns; each sentence knows the columns of its own statement."""
_MOST_TOLD = 3
_SILENT_S = 60.0  # Six heartbeats, after which an observer takes a run for dead.


@dataclass(frozen=True)
class Material:
    """All that a sentence may be made from: rows by the name of their statement, results of checks by name, and what was asked."""

    rows: Mapping[str, Sequence[ResultRow]]
    results: Mapping[str, CheckResult]
    now: datetime
    on: date | None = None
    model: ComparedModel | None = None
    digest: str | None = None
    """Of the model that came out."""

    @property
    def run(self) -> ResultRow:
        """The run in one row; empty where the log does not say how it began."""
        return next(iter(self.rows["heading"]), {})


_CHANGES = ("germinate", "graft", "fossilize", "cull", "cancel", "rollback")


def structure(asked: Material) -> str:
    """The changes of the structure."""
    changes, sizes = asked.rows["structure"], next(iter(asked.rows["growth"]), None)
    if sizes is None:
        return "Unknown: the log does not say how the run began."
    before, now = sizes["parameters at the start"], sizes["parameters now"]
    if not changes:
        return f"Nothing changed in the structure of this model: it began with {before:,} parameters and has {now:,}."
    words = ("germination", "graft", "fossilization", "cull", "cancellation", "rollback")
    amounts = ((sum(row["change"] == change for row in changes), word) for change, word in zip(_CHANGES, words, strict=True))
    done = listed([plural(amount, word) for amount, word in amounts if amount])
    kept = sizes["seeds that are part of it"] or "none"
    return (
        f"The model went from {before:,} to {now:,} parameters in {plural(len(changes), 'change')} ({done}); seeds that are part of it for "
        f"good: {kept}; {_grounds(changes)}."
    )


def _grounds(changes: Sequence[ResultRow]) -> str:
    decided = [row for row in changes if row["change"] != "rollback"]
    if not decided:
        return "nothing of it was decided"
    bare = sum(row["evidence"] is None for row in decided)
    limits = {row["limits"] for row in decided}
    evidence = "each change names its evidence" if not bare else f"{bare} of {plural(len(decided), 'change')} have no evidence on record"
    if not limits or None in limits:
        return f"{evidence}, and the limits then in force are not on record for all of them"
    return f"{evidence}, all under {'the same limits' if len(limits) == 1 else f'{len(limits)} different sets of limits'}"


def what_was_refused(asked: Material) -> str:
    """The refusals."""
    rows = asked.rows["refusals"]
    decisions = sum(row["decisions"] for row in asked.rows["decided"])
    pending = sum(row["decisions"] for row in asked.rows["decided"] if row["what became of it"] == "pending")
    unanswered = f"{pending:,} {'has' if pending == 1 else 'have'} no outcome on record" if pending else ""
    if not decisions and not rows:
        return "Nothing was refused, and nothing was decided: the log has no decision of this run."
    if not rows:
        became = unanswered or "each that asked for something was carried out"
        return f"Nothing was refused: of {plural(decisions, 'decision')}, {became}."
    gate = [row for row in rows if row["what"] == "refused"]
    rules = ", ".join(f"{amount:,} for {rule}" for rule, amount in Counter(row["rule"] for row in gate).most_common())
    parts = [f"the gate refused {len(gate):,} of {plural(decisions, 'decision')} ({rules})"] if gate else []
    for what, noun, became in (
        ("command refused", "command", "refused"),
        ("failed", "command", "failed"),
        ("kernel failed", "kernel", "could not be made"),
    ):
        amount = sum(row["what"] == what for row in rows)
        parts += [f"{plural(amount, noun)} {became}"] if amount else []
    left = f"; of all decisions, {unanswered}" if unanswered else ""
    return f"{_sentence(parts)}; each has its reason below{left}."


def _sentence(parts: Sequence[str]) -> str:
    words = listed(parts)
    return words[:1].upper() + words[1:]


def limits(asked: Material) -> str:
    """The people who set the limits."""
    run = asked.run
    author, approver, account = (run.get(name) for name in ("started by", "limits approved by", "account"))
    spans = asked.rows["limits"]
    changed = sorted({row["limit"] for row in spans if sum(other["limit"] == row["limit"] for other in spans) > 1})
    known = [row for row in spans if row["in force"] is not None]
    held = "no epoch recorded the limits in force"
    if changed:
        held = f"{listed(changed)} changed during the run, and the log names nobody who changed them"
    elif known:
        held = f"the limits were the same from epoch {min(row['from epoch'] for row in known)} to {max(row['to epoch'] for row in known)}"
    unlike = {row["limit"] for row in known if _is_other(row["set at the start"], row["in force"])}
    strange = sorted(unlike - {"parameters", *changed})  # Of parameters the setting is a factor.
    other = f"; {listed(strange)} {'was' if len(strange) == 1 else 'were'} in force otherwise than set at the start" if strange else ""
    return f"{_people(author, approver, account)}; {held}{other}."


def _is_other(setting: str | None, value: float) -> bool:
    """True where a setting, JSON as it was written, is another number than `value`; what is not set is not compared."""
    try:
        return setting is not None and float(setting) != value
    except ValueError:
        return True


def _people(author: str | None, approver: str | None, account: str | None) -> str:
    under = f" under the account {account}" if account else ""
    if author is None and approver is None:
        ran = f"; it ran{under}" if under else ""
        return f"Unknown: the log names neither who started the run with its limits, nor who approved them{ran}"
    if approver is None:
        return f"{author} started the run with its limits{under}, and who approved them is unknown"
    if author is None:
        return f"{approver} approved the limits, and who set them is unknown{'; it ran' + under if under else ''}"
    same = " ".join(author.split()).casefold() == " ".join(approver.split()).casefold()
    names = "one and the same name" if same else "two different names"
    return f"{author} started the run with its limits{under}, and {approver} approved them: {names}"


def identity(asked: Material) -> str:
    """The means to identify and repeat the run."""
    rows = asked.rows["manifest"]
    if not asked.run:
        return "Unknown: the log does not say how the run began."
    missing = [row["piece"] for row in rows if row["state"] == "missing"]
    loose = [row["piece"] for row in rows if row["state"] == "not pinned"]
    data = [row for row in rows if row["kind"] == "data" and row["state"] == "digest alone"]
    changed = any(row["piece"] == "uncommitted changes" and row["state"] == "digest alone" for row in rows)
    parts = [f"the log lacks {listed(missing)}"] if missing else []
    parts += [f"{listed(loose)} {'is' if len(loose) == 1 else 'are'} not pinned"] if loose else []
    parts += ["its code had uncommitted changes that are known by their digest alone"] if changed else []
    parts += [f"the data themselves have to be at hand ({plural(len(data), 'data set')}, known by digests)"] if data else []
    whole = "It can be identified: code, data, packages, settings, optimizer, model, random seed and hardware are on record"
    head = "It can be identified in part" if missing else whole
    return f"{head}; for a repeat, {listed(parts) or 'nothing is missing'}; whether it gives the same bits was not tried here."


def alerts(asked: Material) -> str:
    """The alerts that fired, and their receivers."""
    fired = asked.rows["alerts"]
    watched = any(row["what"] == "observers that started" and row["amount"] for row in asked.rows["watching"])
    left = f"; {left}" if watched and (left := _not_observed(asked)) else ""
    if not fired:
        return f"No alert fired{left}." if watched else "Unknown: nobody observed this run, so no alert could fire."
    told = sum(bool(row["delivered"]) for row in fired)
    failed = sum(bool(row["failed"]) and not row["delivered"] for row in fired)
    held = sum(bool(row["suppressed"]) and not row["delivered"] and not row["failed"] for row in fired)
    silent = len(fired) - told - failed - held
    parts = [f"{told:,} reached a receiver"] if told else []
    parts += [f"{failed:,} could not be delivered"] if failed else []
    parts += [f"{held:,} {'was' if held == 1 else 'were'} held back"] if held else []
    parts += [f"of {silent:,} no delivery is on record"] if silent else []
    taken = sum(bool(row["who took it over"]) for row in fired)
    parts += [f"{taken:,} {'was' if taken == 1 else 'were'} taken over by a person"] if taken else []
    still = sum(row["resolved"] is None for row in fired)
    ends = f"{plural(still, 'alert is', 'alerts are')} not resolved" if still else "all are resolved"
    levels = counted(row["severity"] for row in fired)
    return f"{plural(len(fired), 'alert')} fired ({levels}): {listed(parts)}; {ends}{left}."


def _not_observed(asked: Material) -> str:
    """The epochs at the end that no observer came to; empty where it came to the end, or a run goes on and it is on its way."""
    epochs = next((row["amount"] for row in asked.rows["watching"] if row["what"] == "epochs after all that an observer derived"), 0)
    if not epochs or (asked.run.get("status") == "running" and not _open_since(asked)):
        return ""
    return f"no observer came to the last {plural(epochs, 'epoch')}"


def _open_since(asked: Material) -> datetime | None:
    """The time of the last record of a run that has no end and is not heard any more; None: it has one, or is."""
    last = next((row["last"] for row in asked.rows["watching"] if row["what"] == "optimizer steps taken"), None)
    return last if asked.run.get("status") == "running" and last and _seconds_since(last, asked.now) >= _SILENT_S else None


def dark(asked: Material) -> str:
    """When monitoring saw nothing, and what was lost."""
    rows, amounts = asked.rows["dark"], {row["what"]: row["amount"] for row in asked.rows["watching"]}
    since = _open_since(asked)
    # An observer's silence and the gap in the records are one darkness, told twice.
    gaps = [row["seconds"] for row in rows if row["what"] in ("no process", "no record") and row["seconds"] is not None]
    parts = [f"the run has no end, and nothing of it is on record since {when(since)}"] if since else []
    parts += [f"nothing was recorded for {duration(sum(gaps))} in {plural(len(gaps), 'interval')}"] if gaps else []
    for what, noun, many in (
        ("silent", "silence was noticed by an observer", "silences were noticed by an observer"),
        ("blocked", "topic was not understood for a time", "topics were not understood for a time"),
    ):
        amount = sum(row["what"] == what for row in rows)
        parts += [plural(amount, noun, many)] if amount else []
    dropped, gone = (sum(row["lost"] for row in rows if row["what"] == what) for what in ("dropped", "gone"))
    parts += [f"{plural(dropped, 'sample was', 'samples were')} dropped before being taken"] if dropped else []
    parts += [f"{plural(gone, 'record was', 'records were')} deleted on Kafka before being copied"] if gone else []
    taken, measured = amounts.get("optimizer steps taken") or 0, amounts.get("optimizer steps with a measurement") or 0
    parts += [f"{taken - measured:,} of {plural(taken, 'step')} have no measurement"] if measured < taken else []
    if not taken and not parts:
        return "Unknown: no step of this run is on record."
    if not amounts.get("observers that started"):
        parts = parts or [f"each of {plural(taken, 'step')} was measured"]
        return f"Nobody observed the run; {listed(parts)}."
    parts += [left] if (left := _not_observed(asked)) else []
    if not parts:
        return f"Never, as far as the log can show: each of {plural(taken, 'step')} was measured, and no record is known to be lost."
    return f"{_sentence(parts)}."


LOG_CHECKS = ("log.readable", "log.sequence", "log.chain", "log.tail", "log.conflict", "log.clock_sane", "log.schema_known")


def integrity(asked: Material) -> str:
    """Records that are missing or altered, and since when that could be shown."""
    made = {name: asked.results[name] for name in LOG_CHECKS if name in asked.results}
    faults = [f"{name} found {plural(one.violations, 'violation')}" for name, one in made.items() if one.verdict == "FAIL"]
    conflicts = asked.rows["conflicts"]
    faults += [f"records changed after they had been read ({counted(row['what'] for row in conflicts)})"] if conflicts else []
    faults += [f"the file {row['file']} could not be read to its end" for row in asked.rows["files"] if row["problem"] != "none"]
    if faults:
        return f"Yes: {listed(faults)}."
    if len(made) < len(LOG_CHECKS):
        return f"Unknown: {listed([name for name in LOG_CHECKS if name not in made])} did not run; {_since(asked)}."
    total = sum(row["records"] for row in asked.rows["files"])
    if not total:
        return "Unknown: no record of this run has been read."
    open_ones = [name for name, one in made.items() if one.verdict == "INCONCLUSIVE"]
    left = f" ({listed(open_ones)} inconclusive)" if open_ones else ""
    return f"No check found anything missing or altered in {plural(total, 'record')}{left}; {_since(asked)}."


def _since(asked: Material) -> str:
    passed = [row for row in asked.rows["earlier_checks"] if row["check"] == "log.chain" and row["result"] == "PASS"]
    compared = [row["last compared"] for row in asked.rows["files"]]
    first = min((row["first"] for row in passed), default=None)
    shown = f"the first check of the chain on record is of {when(first)}" if first else "no earlier check of the chain is on record"
    if not compared or None in compared:
        return f"{shown}, and the log was never compared with what had been read before"
    return f"{shown}, and the log was last compared with what had been read before at {when(min(compared))}"


def model(asked: Material) -> str:
    """The comparison of a file with the model that came out."""
    digest = asked.digest
    if asked.model is None:
        came = (
            f"the digest of the model that came out begins with {digest[:16]}"
            if digest
            else "the log has no digest of a model that came out"
        )
        return f"Unknown: no file was given to compare; {came}."
    one = asked.model
    epoch = f" It has the parameters that epoch {one.epoch} ended with." if one.epoch is not None and one.verdict != "same" else ""
    match one.verdict:
        case "same":
            begins = f"their digest begins with {(one.digest or '')[:16]}"
            return f"Yes: the {one.tensors} tensors of {one.path} are those of the model that came out; {begins}."
        case "other":
            return f"No: {one.path} is not the model that came out: {one.why}.{epoch}"
        case _:
            return f"Unknown: {one.path} cannot be compared: {one.why}.{epoch}"


def holds(asked: Material) -> str:
    """The holds in force, and what may be deleted when."""
    rows = asked.rows["holds"]
    if asked.rows["trail"]:
        return "Unknown: a part of the trail, in which a hold may stand, could not be read."
    mine = _in_force([row for row in rows if row["this run"]], asked.now)
    others = {row["run"] for row in rows if not row["this run"]}
    held = sum(bool(_in_force([row for row in rows if row["run"] == other], asked.now)) for other in others)
    beside = f" {plural(held, 'other run is', 'other runs are')} under a hold." if held else ""
    if mine:
        named = [f"{'until ' + row['until'] if row['until'] else 'until it is released'} ({row['why']}, {row['by whom']})" for row in mine]
        return f"This run is under {plural(len(mine), 'hold')}: {listed(named)}; nothing of it may be deleted before.{beside}"
    gone = [row["gone from Kafka"] for row in asked.rows["retention"] if row["gone from Kafka"] is not None]
    kafka = f", and of a copy on Kafka the last records with a term go at {when(max(gone))}" if gone else ""
    return f"No hold of this run is in force; its directory is kept until somebody removes it{kafka}.{beside}"


def _in_force(rows: Sequence[ResultRow], now: datetime) -> list[ResultRow]:
    """Holds among those of one run, in order of time, that no release and no last day has ended."""
    found: list[ResultRow] = []
    for row in rows:
        found = [] if row["status"] == "released" else [*found, row]
    return [row for row in found if row["until"] is None or date.fromisoformat(row["until"]) >= now.date()]


def corrections(asked: Material) -> str:
    """The corrections, and their reasons."""
    rows = asked.rows["corrections"]
    if not rows:
        return "Nothing was corrected: the log has no rollback, no resume and no repair of this run."
    kinds = [plural(sum(row["what"] == kind for row in rows), kind) for kind in dict.fromkeys(row["what"] for row in rows)]
    told = "; ".join(f"{row['how']}: {row['why']}" for row in rows[:_MOST_TOLD])
    more = f"; and {len(rows) - _MOST_TOLD} more" if len(rows) > _MOST_TOLD else ""
    return f"{listed(kinds)}: {told}{more}."


def state(asked: Material) -> str:
    """The state on the date."""
    found = next(iter(asked.rows["state"]), None)
    if asked.on is None or not asked.run:
        day, end = "No date was asked for: at its last record", asked.now
    else:
        end = datetime.combine(asked.on + timedelta(days=1), time(), UTC)
        day = f"At the end of {asked.on.isoformat()} (UTC)" if end <= asked.now else f"{asked.on.isoformat()} (UTC) is not over: so far"
    if found is None:
        return f"{day} this run had not begun." if asked.on and asked.run else "Unknown: nothing of this run is on record."
    silent_s = _seconds_since(found["time"], min(end, asked.now))
    heard = "was running" if silent_s < _SILENT_S else f"had not ended, and had not been heard for {duration(silent_s)}"
    status = heard if found["status"] == "running" else f"had {found['status']}"
    loss = "no validation loss" if found["validation loss"] is None else f"validation loss {number(found['validation loss'])}"
    seeds = counted(row["stage"].replace("_", " ").lower() for row in asked.rows["seeds"]) or "none"
    return f"{day} this run {status}, in epoch {found['epoch']}, with {loss}; seeds: {seeds}; last record by then: {when(found['time'])}."


def _seconds_since(time: datetime, now: datetime) -> float:
    return (now - time.replace(tzinfo=UTC)).total_seconds()


def tests(asked: Material) -> str:
    """The tests with their figures, and the people who accepted the result."""
    rows, signed = asked.rows["figures"], asked.rows["sign_offs"]
    test = [row for row in rows if row["metric"].startswith("test")]
    final = test or rows
    figures = listed([f"{row['metric']} {number(row['figure'])}" for row in final])
    held_out = "on the test data" if test else "on the validation data alone"
    measured = (
        f"The model that came out was measured {held_out}: {figures}" if final else "No figures of a model that came out are on record"
    )
    if asked.rows["trail"]:
        return f"{measured}; whether it was accepted is unknown, for a part of the trail could not be read."
    told = [
        f"{words} {listed(names)}"
        for kind, words in _ACCEPTED.items()
        if (names := [f"{row['by whom']} ({row['role']}) on {row['when'].date().isoformat()}" for row in signed if row["that is"] == kind])
    ]
    accepted = listed(told) or "nobody's acceptance is on record"
    return f"{measured}; {accepted}."


_ACCEPTED = {
    "the one that came out": "it was accepted by",
    "its failure was accepted": "a failure of the run was accepted by",
    "not the one that came out": "another model than the one that came out was accepted by",
}

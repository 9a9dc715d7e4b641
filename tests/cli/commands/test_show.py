"""`esper show`."""

import json
from pathlib import Path

import pytest

from esper.cli.commands.show import lane, lattice, legend, ruler, scale_of
from esper.cli.panel import LOOKS
from esper.events.digests import chain
from esper.events.envelope import Moment, record_id
from esper.events.kinds.lifecycle import SeedRow, Stage
from esper.events.kinds.run import Site
from esper.folds.timeline import Life
from esper.oona.directory import Directory
from esper.oona.emitter import Emitter
from tests.beginnings import run_started
from tests.cli.conftest import Esper, rendered
from tests.cli.test_panel import GROWING, life
from tests.synthetic import RUN, ticking, write_run


def section(lines: list[str], title: str) -> list[str]:
    """The lines under `title`, up to the next empty one."""
    start = next(index for index, line in enumerate(lines) if line.startswith(title)) + 1
    end = next((index for index in range(start, len(lines)) if not lines[index]), len(lines))
    return lines[start:end]


@pytest.mark.parametrize("width", [80, 100])
def test_the_report_fits_its_width(esper: Esper, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    said = esper("show", "latest", "--all")
    assert said.code == 0
    assert max(len(line) for line in said.lines) <= width


def test_the_lattice_shows_every_slot_of_every_site(esper: Esper) -> None:
    lattice = section(esper("show", "latest").lines, "lattice after epoch 14")
    assert lattice[0].split() == ["s0", "s1", "s2", "s3"]
    assert lattice[1].split() == ["hidden.0", "rolled-back", "mlp:24", "·", "cancelled", "signal:12", "training", "mlp:24"]
    assert lattice[2].split() == ["hidden.2", "fossilized", "lowrank:8", "·"]


def test_each_life_has_a_lane_of_its_stages(esper: Esper) -> None:
    lives = section(esper("show", "latest").lines, "lives")
    assert lives[1] == "  hidden.2 s0 lowrank:8 @1   ·░░▒▒▓?██━█━━━  fossilized"
    assert lives[2] == "  hidden.0 s0 mlp:24 @4         ·░░░▒▒▒!     rolled-back"
    assert lives[6] == "  hidden.2 s1 mlp:24 @10              ·      undone"


def test_an_earlier_epoch_shows_what_was_so_then(esper: Esper) -> None:
    said = esper("show", "latest", "--epoch", "4")
    assert "running · epoch 4 of 14" in said.out
    assert section(said.lines, "lattice after epoch 4")[2].split() == ["hidden.2", "grafting", "lowrank:8", "·"]
    assert "rolled back" not in said.out


def test_a_moment_shows_what_was_so_then(esper: Esper) -> None:
    assert "state at moment 36: " in esper("show", "latest", "--at", "36").out


def test_a_refusal_is_shown_with_its_numbers_rule_and_evidence(esper: Esper) -> None:
    decisions = section(esper("show", "latest").lines, "decisions")
    start = next(index for index, line in enumerate(decisions) if "refused: urgency" in line)
    assert decisions[start].split() == [
        "3",
        "germinate",
        "hidden.0",
        "s0",
        "mlp:24",
        "conf",
        "0.990",
        "urg",
        "0.550",
        "refused:",
        "urgency",
    ]
    assert decisions[start + 1].strip() == "@27 from @26: best of 5 improved 13.5 % < 15 %"
    assert decisions[start + 2].strip() == "expected an urgency above 0.6, got 0.55"


def test_a_number_that_is_nan_is_called_nan(esper: Esper) -> None:
    assert any("urg NaN" in line and "refused: finite" in line for line in esper("show", "latest").lines)


def test_housekeeping_is_counted_and_shown_on_request(esper: Esper) -> None:
    assert "16 of housekeeping or for doing nothing are not shown" in esper("show", "latest").out
    everything = esper("show", "latest", "--all")
    assert "not shown" not in everything.out
    assert len([line for line in everything.lines if "advance hidden" in line]) == 16


def test_a_failed_command_is_shown_though_it_is_housekeeping(esper: Esper) -> None:
    assert "the kernel's file is gone" in esper("show", "latest").out


def test_a_rollback_lost_samples_and_the_end_are_told(esper: Esper) -> None:
    told = " ".join(line.strip() for line in section(esper("show", "latest").lines, "events of the run"))
    assert "3 samples of telemetry.training.steps dropped, steps 106..108" in told
    assert "rolled back from epoch 11 to 8 (epoch-000008): the loss is not finite: NaN; hidden.0 s0 is blamed" in told
    assert "finished: 1,030 parameters" in told


def test_checkpoints_are_those_that_are_kept(esper: Esper) -> None:
    kept = section(esper("show", "latest").lines, "checkpoints kept")
    assert [line.split()[1] for line in kept] == ["epoch-000008", "epoch-000012"]


def test_before_the_first_epoch_what_is_unknown_is_called_so(esper: Esper) -> None:
    said = esper("show", "latest", "--at", "1")
    assert "no epoch was completed yet" in said.out
    assert "parameters 460 at the start, unknown now" in said.out
    assert "no seed has germinated yet" in said.out


def test_who_started_the_run_and_who_approved_its_limits_are_shown(esper: Esper) -> None:
    assert "started by Ada Example · limits approved by Grace Example" in esper("show", "latest").out


def test_who_is_not_known_is_not_shown(esper: Esper, tmp_path: Path) -> None:
    with Directory(tmp_path).create(RUN) as log, Emitter(log, RUN, clock=ticking(), heartbeat_s=1e6) as emitter:
        emitter.emit(run_started(approved_by="Grace Example"), epoch=0, step=0)
    shown = esper("show", "latest", "--log", str(tmp_path)).out
    assert "  limits approved by Grace Example\n" in shown
    assert "started by" not in shown


def test_nothing_recorded_yet_is_said(esper: Esper) -> None:
    assert "not started: the log holds no RunStarted yet" in esper("show", "latest", "--at", "0").out


def test_json_holds_the_whole_state_as_one_object(esper: Esper) -> None:
    shown = json.loads(esper("show", "latest", "--json").out)
    assert (shown["run"], shown["moment"], shown["status"]) == (RUN, 233, "finished")
    assert len(shown["seeds"]) == 6
    assert [decided["rule"] for decided in shown["decisions"] if decided["fate"] == "refused"] == ["urgency", "cap", "finite"]


def test_a_value_that_is_not_finite_is_a_word_in_json(esper: Esper) -> None:
    shown = json.loads(esper("show", "latest", "--json").out)
    assert [one["decision"]["urgency"] for one in shown["decisions"] if one["rule"] == "finite"] == ["NaN"]


def test_the_digest_is_the_one_that_replay_gives(esper: Esper) -> None:
    shown = json.loads(esper("show", "latest", "--epoch", "9", "--json").out)
    replayed = [json.loads(line) for line in esper("replay", "latest", "--json").lines]
    assert shown["digest"] == next(one["digest"] for one in replayed if one["epoch"] == 9)


def test_an_interrupted_run_comes_with_the_command_that_resumes_it(esper: Esper, tmp_path: Path) -> None:
    write_run(Directory(tmp_path), until_epoch=3, finish=False)
    said = esper("show", "latest", "--log", str(tmp_path))
    assert f"it has not ended: esper resume 7c21ab --log {tmp_path}" in said.out


def test_a_run_that_cannot_be_resumed_comes_without_the_command(esper: Esper, tmp_path: Path) -> None:
    Directory(tmp_path).create(RUN).close()
    said = esper("show", "latest", "--log", str(tmp_path))
    assert "it has not ended: it was interrupted before it began: start it again" in said.out
    write_run(Directory(tmp_path / "compared", create=True), until_epoch=1, finish=False, task="digits (host)")
    said = esper("show", "latest", "--log", str(tmp_path / "compared"))
    assert "it was trained to be compared with another run, and does not go on alone" in said.out
    assert "esper resume" not in said.out


def test_a_run_that_is_being_written_is_not_called_interrupted(esper: Esper, tmp_path: Path) -> None:
    write_run(Directory(tmp_path), until_epoch=3, finish=False)
    with Directory(tmp_path).resume(RUN):
        assert "esper resume" not in esper("show", "latest", "--log", str(tmp_path)).out


def test_a_run_with_a_fact_of_a_newer_version_is_shown_up_to_it_and_the_error_follows(esper: Esper, tmp_path: Path) -> None:
    write_run(Directory(tmp_path), until_epoch=3, finish=False)
    with Directory(tmp_path).resume(RUN) as log:
        heads = log.heads()
        *_, last = log.read().records
        head = heads.topic(last.topic)
        newer = last._replace(
            id=record_id(RUN, Moment(heads.moment + 1)),
            moment=Moment(heads.moment + 1),
            fact=heads.fact + 1,
            sequence=head.sequence + 1,
            type="esper.seed.rewound.v9",
            data=b"{}",
        )
        log.append((newer._replace(chain=chain(newer, head.chain)),))
    said = esper("show", "latest", "--log", str(tmp_path))
    assert said.code == 1
    assert "lattice after epoch 3" in said.out
    assert "esper.seed.rewound.v9" in said.err
    assert json.loads(esper("show", "latest", "--json", "--log", str(tmp_path)).out)["blocked"] is not None


SITE = Site(name="0", layer="Linear 64->6", inputs=64, outputs=6, slots=3, blueprints=("mlp:24",))


@pytest.mark.parametrize(
    ("seed", "epoch", "drawn"),
    [
        (GROWING, 6, "  ·░░░▒   "),
        (GROWING, 8, "  ·░░░▒▒▒ "),
        (life((Stage.GERMINATED, 2), (Stage.TRAINING, 3), (Stage.CULLED, 5)), 9, "  ·░░x    "),
        (life((Stage.GERMINATED, 9)), 9, "         ·"),
        (life((Stage.FINE_TUNING, 2), (Stage.FOSSILIZED, 4)), 9, "  ██━━━━━━"),
    ],
)
def test_a_lane_shows_the_stage_of_each_epoch(seed: Life, epoch: int, drawn: str) -> None:
    assert lane(seed, epoch, 10, 40).plain == drawn


def test_a_long_axis_is_drawn_with_several_epochs_a_character() -> None:
    assert lane(GROWING, 8, 10, 5).plain == " ░░▒▒"
    assert (scale_of(10, 5), ruler(10, 5)) == (2, "1")


def test_the_ruler_s_numbers_stand_on_their_epochs() -> None:
    line = ruler(30, 60)
    assert line[0] == "1"
    assert line[9:11] == "10"
    assert line[19:21] == "20"


def test_the_legend_names_what_was_drawn_and_nothing_else() -> None:
    assert rendered(legend("  ░░x ")) == ["░ train x culled"]


def test_a_legend_takes_the_lines_that_it_needs() -> None:
    lines = rendered(legend("".join(look.glyph for look in LOOKS.values())), width=40)
    assert len(lines) > 1
    assert max(map(len, lines)) <= 40
    assert all(f"{look.glyph} {look.word}" in " ".join(lines) for look in LOOKS.values() if look.glyph != " ")


def test_the_lattice_shows_stage_blueprint_embargo_and_what_is_unknown() -> None:
    row = SeedRow(site="0", seed=0, stage=Stage.TRAINING, since_epoch=3, life=2, blueprint="mlp:24", kernel=None, embargo_until=None)
    culled = row.model_copy(update={"seed": 1, "stage": Stage.CULLED, "embargo_until": 7})
    lines = rendered(lattice((SITE,), (row, culled)))
    assert lines[0].split() == ["s0", "s1", "s2"]
    assert lines[1].split() == ["0", "training", "mlp:24", "culled", "mlp:24", "until", "7", "unknown"]

"""Changes that a forger makes to the records of the synthetic run; what he recomputes afterwards is another matter.

Nothing here knows what is checked. Each function does one thing and leaves numbers, chains and tails as they are, unless it says so.
"""

import json

from tests.audit.compliance.forging import Forger, Row


def delete_a_fact(log: Forger) -> None:
    log.remove([log.one("seed.transitioned", 4)])


def delete_telemetry(log: Forger) -> None:
    log.remove([log.one("steps.measured", 3)])


def delete_the_last(log: Forger) -> None:
    log.remove(log.rows[-20:])


def delete_a_topic_of_facts(log: Forger) -> None:
    log.remove([row for row in log.rows if row.topic == "control.kasmina.outcomes"])


def delete_a_topic_of_telemetry(log: Forger) -> None:
    log.remove([row for row in log.rows if row.topic == "telemetry.seed.health"])


def delete_an_epoch(log: Forger) -> None:
    log.remove([row for row in log.rows if row.epoch == 6])


def delete_a_refusal(log: Forger) -> None:
    log.remove([log.one("decision.refused", rule="cap")])


def delete_a_refused_decision(log: Forger) -> None:
    log.remove(log.follow(log.one("decision.made", urgency=0.55)))


def delete_a_rollback(log: Forger) -> None:
    log.remove(log.follow(log.one("run.rolled-back")))


def delete_an_outcome(log: Forger) -> None:
    log.remove([log.one("command.applied", 5)])


def delete_a_count_of_dropped_samples(log: Forger) -> None:
    log.remove([log.one("samples.dropped")])


def delete_an_evaluation(log: Forger) -> None:
    log.remove([log.one("seed.evaluated", purpose="shadow")])


def flip_a_digit(log: Forger) -> None:
    row = log.one("epoch.completed", 5)
    row.data = row.data.replace(b'"samples":1097', b'"samples":1098', 1)


def swap_payloads(log: Forger) -> None:
    one, other = log.one("decision.made", 3), log.one("decision.made", 9)
    one.data, other.data = other.data, one.data


def swap_places(log: Forger) -> None:
    one, other = log.rows.index(log.one("command.issued", 2)), log.rows.index(log.one("command.issued", 3))
    log.rows[one], log.rows[other] = log.rows[other], log.rows[one]
    log.place()


def double_a_record(log: Forger) -> None:
    row = log.one("field.reported", 1)
    copy = log.like(row)
    copy.moment, copy.data = row.moment, row.data
    log.put(row, copy)
    log.place()


def append_a_record(log: Forger) -> None:
    log.rows.append(log.like(log.one("steps.measured", -1)))
    log.number()


def renumber_after_a_deletion(log: Forger) -> None:
    delete_a_fact(log)
    log.number()


def turn_the_clock_back(log: Forger) -> None:
    for row in log.rows[100:]:
        row.time -= 3_600_000_000


def move_an_hour(log: Forger) -> None:
    for row in log.rows:
        row.time -= 3_600_000_000


def change_an_epoch(log: Forger) -> None:
    for row in log.follow(log.one("decision.made", adaptation="fossilize")):
        row.epoch -= 1


def change_a_step(log: Forger) -> None:
    for row in log.rows:
        row.step += row.epoch > 5


def change_a_cause(log: Forger) -> None:
    log.one("command.issued", 4).cause = log.id_of(log.one("decision.made", urgency=0.55))


def change_a_kind(log: Forger) -> None:
    row = log.one("command.failed")
    row.type = "esper.command.refused.v1"
    row.data = row.data.replace(b'"error"', b'"reason"')


def change_an_incarnation(log: Forger) -> None:
    log.one("command.applied", 3).incarnation = 2


def change_a_trace(log: Forger) -> None:
    log.one("command.issued").trace = f"00-{'1' * 32}-{'2' * 16}-01"


def _pass(log: Forger, decision: Row) -> None:
    """Puts the command and the outcome of a germination behind `decision`, as if the gate had let it pass."""
    place = {name: decision.payload[name] for name in ("site", "seed", "blueprint")}
    cause = decision
    for like in log.follow(log.one("command.issued", command="germinate"))[:4]:
        row = log.like(like, **{name: value for name, value in place.items() if name in like.payload})
        if "life" in row.payload:
            row.change(life=decision.epoch)
        row.cause, row.epoch, row.step, row.time = log.id_of(cause), decision.epoch, decision.step, decision.time
        log.put(cause, row)
        cause = row
    log.one("command.issued", site=place["site"], seed=place["seed"], expires_epoch=1).change(expires_epoch=decision.epoch)


def insert_a_decision(log: Forger) -> None:
    made = log.one("decision.made", adaptation="graft")
    log.put(made, forged := log.like(made, adaptation="cull", reason="it was bad"))
    forged.epoch = made.epoch


def insert_a_command(log: Forger) -> None:
    told = log.one("command.issued", command="graft")
    log.put(told, log.like(told, command="cull"))


def insert_an_outcome(log: Forger) -> None:
    done = log.one("command.applied", command="graft")
    log.put(done, log.like(done))


def insert_a_transition(log: Forger) -> None:
    moved = log.one("seed.transitioned", to_stage="TRAINING")
    log.put(moved, log.like(moved, from_stage="TRAINING", to_stage="FOSSILIZED", reason="it was good"))


def let_a_refused_decision_pass(log: Forger) -> None:
    made = log.one("decision.made", urgency=0.55)
    log.remove([row for row in log.follow(made) if row is not made])
    _pass(log, made)


def let_a_capped_decision_pass(log: Forger) -> None:
    refused = log.one("decision.refused", rule="cap")
    made = next(row for row in log.rows if log.id_of(row) == refused.cause)
    log.remove([refused])
    _pass(log, made)


def raise_an_urgency(log: Forger) -> None:
    log.one("decision.made", urgency=0.55).change(urgency=0.95)


def lower_a_confidence(log: Forger) -> None:
    log.one("decision.made", adaptation="graft").change(confidence=0.5)


def make_a_confidence_nan(log: Forger) -> None:
    log.one("decision.made", adaptation="graft").change(confidence="NaN")


def empty_the_evidence(log: Forger) -> None:
    log.one("decision.made", adaptation="fossilize").change(evidence=[])


def evidence_from_the_future(log: Forger) -> None:
    log.one("decision.made", adaptation="graft").change(evidence=[log.id_of(log.one("epoch.completed", -1))])


def rewrite_a_reason(log: Forger) -> None:
    log.one("decision.made", adaptation="cull").change(reason="it was too slow")


def lower_the_limits_at_the_start(log: Forger) -> None:
    log.one("run.started").change(settings=log.one("run.started").payload["settings"] | {"gate.confidence_above": 0.1})


def lower_the_limits_everywhere(log: Forger) -> None:
    lower_the_limits_at_the_start(log)
    for row in log.of("epoch.completed"):
        row.change(system__gate__confidence_above=0.1)


def lower_the_limits_of_an_epoch(log: Forger) -> None:
    log.one("epoch.completed", 3).change(system__gate__urgency_above=0.5)


def make_a_loss_nan(log: Forger) -> None:
    log.one("epoch.completed", 6).change(validation__loss="NaN")


def make_a_nan_finite(log: Forger) -> None:
    for row in log.of("steps.measured"):
        row.data = row.data.replace(b'"NaN"', b"0.26")


def improve_the_last_losses(log: Forger) -> None:
    log.one("epoch.completed", -1).change(validation__loss=0.01)
    log.one("run.finished").change(metrics={"validation_loss": 0.01, "validation_accuracy": 0.999})


def blame_another_seed(log: Forger) -> None:
    log.one("run.rolled-back").change(blamed={"site": "hidden.2", "seed": 0})


def hide_health(log: Forger) -> None:
    seeds = log.one("epoch.completed", 7).payload["system"]["seeds"]
    nothing = [None] * len(seeds["site"])
    measured = ("activation_variance", "gradient_variance", "dead_neuron_ratio", "avg_correlation", "health_score")
    log.one("epoch.completed", 7).change(system__seeds=seeds | dict.fromkeys(measured, nothing))


def change_a_stage_in_the_state(log: Forger) -> None:
    seeds = log.one("epoch.completed", 7).payload["system"]["seeds"]
    stages = ["FOSSILIZED" if stage == "TRAINING" else stage for stage in seeds["stage"]]
    log.one("epoch.completed", 7).change(system__seeds=seeds | {"stage": stages})


def reset_before_the_embargo_is_over(log: Forger) -> None:
    for row in log.of("seed.transitioned", to_stage="CULLED"):
        row.change(embargo_until=30)
    for row in log.of("epoch.completed"):
        seeds = row.payload["system"]["seeds"]
        until = [None if one is None else 30 for one in seeds["embargo_until"]]
        row.change(system__seeds=seeds | {"embargo_until": until})
    rows = log.one("run.rolled-back").payload["seeds"]
    log.one("run.rolled-back").change(seeds=rows | {"embargo_until": [None if one is None else 30 for one in rows["embargo_until"]]})


def forget_the_data(log: Forger) -> None:
    log.one("run.started").change(data=[])


def change_the_code_revision(log: Forger) -> None:
    log.one("run.started").change(code__revision="f" * 40)


def change_the_rng_seed(log: Forger) -> None:
    log.one("run.started").change(rng_seed=7)


def change_the_model_digest(log: Forger) -> None:
    log.one("run.finished").change(model_digest="ab" * 32)


def change_a_checkpoint_s_digest(log: Forger) -> None:
    log.one("checkpoint.saved", -1).change(digest="cd" * 32)


def an_unknown_kind(log: Forger) -> None:
    log.one("kernel.characterized").type = "esper.kernel.characterised.v1"


def no_json(log: Forger) -> None:
    log.one("kernel.characterized", 2).data = b"{never mind"


def no_utf8(log: Forger) -> None:
    row = log.one("decision.made", adaptation="cull")
    row.data = row.data.replace(b"a value", b"\xff\xfe\xfd", 1)


def a_key_twice(log: Forger) -> None:
    row = log.one("decision.made", urgency=0.55)
    row.data = row.data.replace(b'"urgency":0.55', b'"urgency":0.95,"urgency":0.55')


def a_field_too_many(log: Forger) -> None:
    log.one("field.reported").change(note="nothing")


def fail_the_run(log: Forger) -> None:
    end = log.one("run.finished")
    tails = end.payload["tails"]
    end.type = "esper.run.failed.v1"
    end.data = json.dumps({"kind": "error", "error": "no", "where": "nowhere", "tails": tails}).encode()


def go_on_after_the_end(log: Forger) -> None:
    log.put(log.rows[-1], log.like(log.one("epoch.completed", -1)))


def delete_the_last_epoch_and_end_again(log: Forger) -> None:
    """Cuts the run before its last epoch, and has it end there."""
    log.remove([row for row in log.rows if row.epoch == 14 and row.type not in ("esper.stream.ended.v1", "esper.run.finished.v1")])
    last = log.one("epoch.completed", -1)
    for row in log.rows[log.rows.index(last) :]:
        row.epoch, row.step = min(row.epoch, last.epoch), min(row.step, last.step)
        row.cause = log.id_of(last)


def take_epochs_of_another_run(log: Forger) -> None:
    """Puts the epochs of a better run in place of this one's, with their ids in the causes."""
    for row in log.of("epoch.completed"):
        row.cause = f"0195b5f7-0000-7000-8000-00000000beef/{row.moment}"
        row.change(validation__loss=round(row.payload["validation"]["loss"] * 0.9, 6))


def skip_numbers(log: Forger) -> None:
    """Takes a measurement of health away, which no other record counts."""
    log.remove([log.one("seed.health-measured", 3)])


def write_as_a_later_incarnation(log: Forger) -> None:
    """A record of a later incarnation, before the last of its topic."""
    log.one("kernel.characterized", -1).incarnation = 2


def take_another_command_as_cause(log: Forger) -> None:
    moved = log.one("seed.transitioned", to_stage="STABILIZATION")
    moved.cause = log.id_of(log.one("command.applied", command="germinate"))


def answer_a_command_twice(log: Forger) -> None:
    done = log.one("command.applied", command="train")
    log.put(done, log.like(done))


def decide_about_another_seed(log: Forger) -> None:
    log.one("decision.made", adaptation="advance").change(seed=1)


def lower_the_cap_everywhere(log: Forger) -> None:
    _everywhere(log, "adaptations_per_epoch", 2)


def raise_the_cooldown_everywhere(log: Forger) -> None:
    _everywhere(log, "cooldown", 4)


def raise_the_frequency_everywhere(log: Forger) -> None:
    _everywhere(log, "adaptation_every", 5)


def make_a_limit_nan_everywhere(log: Forger) -> None:
    _everywhere(log, "urgency_above", "NaN")


def _everywhere(log: Forger, name: str, value: object) -> None:
    """Gives the gate another limit from the start on."""
    start = log.one("run.started")
    start.change(settings=start.payload["settings"] | {f"gate.{name}": value})
    for row in log.of("epoch.completed"):
        row.change(**{f"system__gate__{name}": value})


def make_a_training_loss_nan(log: Forger) -> None:
    log.one("epoch.completed", 6).change(train__loss="NaN")


def make_a_training_loss_infinite(log: Forger) -> None:
    log.one("epoch.completed", 6).change(train__loss="Infinity")


def make_health_nan(log: Forger) -> None:
    """A measurement that is no number is a measurement."""
    seeds = log.one("epoch.completed", 7).payload["system"]["seeds"]
    measured = [None if value is None else "NaN" for value in seeds["activation_variance"]]
    log.one("epoch.completed", 7).change(system__seeds=seeds | {"activation_variance": measured})


def forget_the_code_revision(log: Forger) -> None:
    log.one("run.started").change(code__revision=None)


def forget_the_digest_of_the_data(log: Forger) -> None:
    log.one("run.started").change(data=[one | {"digest": None} for one in log.one("run.started").payload["data"]])


def empty_a_reason(log: Forger) -> None:
    log.one("decision.made", adaptation="cull").change(reason="  ")

"""Tamiyo, the controller: what is known at an epoch's end in, decisions out; `decide` is in `esper.tamiyo.policy`."""

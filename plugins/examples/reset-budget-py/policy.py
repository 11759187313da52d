"""At most N resets of one user in D days, and at most N by one admin in a day.

The same policy as ../reset-budget, answer for answer: it passes the same golden cases.
"""

import json
from dataclasses import dataclass
from typing import List, Optional

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports.types import (
    Attribute,
    Denial,
    Effect,
    Hook,
    Manifest,
    Outcome,
    PastReset,
    Question,
    ResultKind,
    Verdict,
    Verdict_Allow,
    Verdict_Deny,
)

DAY_MS = 86_400_000


def integer(least: int, most: int) -> dict:
    return {"type": "integer", "minimum": least, "maximum": most}


def schema_of(properties: dict, **more) -> dict:
    return {"type": "object", "additionalProperties": False, "properties": properties, **more}


SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "reset-budget",
    **schema_of(
        {
            "perUser": schema_of({"max": integer(1, 100), "days": integer(1, 90)}, required=["max", "days"]),
            "perAdmin": schema_of({"maxPerDay": integer(1, 1000)}, required=["maxPerDay"]),
        },
        minProperties=1,
    ),
}

FIELDS = {
    "perUser": {"max": (1, 100), "days": (1, 90)},
    "perAdmin": {"maxPerDay": (1, 1000)},
}


def check(name: str, value: dict) -> None:
    """Raises Err("/path: reason") at an unknown key, a missing one, or a number out of range."""
    fields = FIELDS[name]
    expected = " or ".join(f"`{field}`" for field in fields)
    for key, number in value.items():
        path = f"/{name}/{key}"
        if key not in fields:
            raise Err(f"{path}: unknown field `{key}`, expected {expected}")
        if isinstance(number, str):
            raise Err(f"{path}: invalid type: string {json.dumps(number)}, expected u32")
        least, most = fields[key]
        if type(number) is not int or not least <= number <= most:
            raise Err(f"{path}: must be from {least} to {most}")
    for field in fields:
        if field not in value:
            raise Err(f"/{name}: missing field `{field}`")


def parse(text: str) -> dict:
    config = json.loads(text or "{}")
    for key, value in config.items():
        if key not in FIELDS:
            raise Err(f"/{key}: unknown field `{key}`, expected `perUser` or `perAdmin`")
        check(key, value)
    if not config:
        raise Err("needs perUser, perAdmin or both")
    return config


@dataclass
class Spent:
    """What of a budget is used up in a window that ends now."""

    resets: int  # an upper bound: with resets still under way, which no list has yet
    leaves_at: List[int]  # when each listed reset leaves the window, soonest first

    @staticmethod
    def count(past: List[PastReset], now: int, days: int, last_day: int, last_30_days: int) -> "Spent":
        window = days * DAY_MS
        leaves_at = sorted(
            reset.at + window for reset in past if reset.outcome == ResultKind.DONE and reset.at + window > now
        )
        listed_last_day = sum(at - window + DAY_MS > now for at in leaves_at)
        under_way = max(0, last_day - listed_last_day)
        return Spent(max(len(leaves_at) + under_way, last_30_days), leaves_at)

    def below(self, most: int) -> Optional[int]:
        """From when on fewer than `most` are left, if the resets that have to leave are all listed."""
        at = self.resets - most
        return self.leaves_at[at] if at < len(self.leaves_at) else None


def deny(code: str, message: str, spent: Spent, most: int, **facts: int) -> Verdict:
    because = [Attribute(name.replace("_", "-"), str(value)) for name, value in facts.items()]
    return Verdict_Deny(Denial(code, message, spent.below(most), because))


class Hooks(exports.Hooks):
    def describe(self) -> Manifest:
        return Manifest(
            name="reset-budget",
            version="1.0.0",
            summary="At most so many resets of one user in some days, and by one admin in a day.",
            hooks=[Hook.BEFORE_RESET],
            wants=[],
            history_days=90,
            config_schema=json.dumps(SCHEMA),
        )

    def check_config(self, config: str) -> None:
        parse(config)

    def before_reset(self, question: Question, config: str) -> Verdict:
        budgets = parse(config)
        now, history = question.request.at, question.history
        if per_user := budgets.get("perUser"):
            most, days = per_user["max"], per_user["days"]
            last_30_days = history.target_resets_last_30_days if days >= 30 else 0
            spent = Spent.count(history.of_target, now, days, history.target_resets_last_day, last_30_days)
            if spent.resets >= most:
                times = "once" if most == 1 else f"{most} times"
                span = "24 hours" if days == 1 else f"{days} days"
                message = f"This user may be reset {times} in {span}."
                facts = {"target_resets": spent.resets, "max": most, "days": days}
                return deny("user-reset-budget", message, spent, most, **facts)
        if per_admin := budgets.get("perAdmin"):
            most = per_admin["maxPerDay"]
            spent = Spent.count(history.by_actor, now, 1, history.actor_resets_last_day, 0)
            if spent.resets >= most:
                resets = "1 reset" if most == 1 else f"{most} resets"
                message = f"An admin may carry out {resets} in 24 hours."
                facts = {"actor_resets_last_day": spent.resets, "max_per_day": most}
                return deny("admin-reset-budget", message, spent, most, **facts)
        return Verdict_Allow([])

    def after_reset(self, question: Question, outcome: Outcome, config: str) -> List[Effect]:
        return []

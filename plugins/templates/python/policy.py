"""At most so many resets by one admin in a day. Start here and make it yours.

The question's fields are those of wit/policy.wit in snake_case; times are milliseconds since 1970.
"""

import json
from typing import List

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import log
from wit_world.imports.types import (
    Attribute,
    Denial,
    Effect,
    Hook,
    Manifest,
    Outcome,
    Question,
    Verdict,
    Verdict_Allow,
    Verdict_Deny,
)

SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["maxPerDay"],
    "additionalProperties": False,
    "properties": {"maxPerDay": {"type": "integer", "minimum": 1}},
}


class Hooks(exports.Hooks):
    def describe(self) -> Manifest:
        return Manifest(
            name="{{name}}",
            version="0.1.0",
            summary="At most so many resets by one admin in a day.",
            hooks=[Hook.BEFORE_RESET],
            wants=[],
            history_days=1,
            config_schema=json.dumps(SCHEMA),
        )

    def check_config(self, config: str) -> None:
        """What the schema cannot say. The text of an Err goes to the operator."""
        if json.loads(config)["maxPerDay"] < 1:
            raise Err("/maxPerDay: must be at least 1")

    def before_reset(self, question: Question, config: str) -> Verdict:
        used = question.history.actor_resets_last_day
        if used < json.loads(config)["maxPerDay"]:
            return Verdict_Allow([])
        log.write(log.Level.INFO, f"{question.actor.email} has used up the day's resets")
        because = [Attribute("actor-resets-last-day", str(used))]
        return Verdict_Deny(Denial("daily-limit", "You have reached today's number of resets.", None, because))

    def after_reset(self, question: Question, outcome: Outcome, config: str) -> List[Effect]:
        """Effects, such as Effect_RequireEnrolment(24). Name them in `wants`, and the hook in `hooks`."""
        return []

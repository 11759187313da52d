// At most so many resets by one admin in a day. Start here and make it yours.
// The question's fields are those of wit/policy.wit in camelCase; times are milliseconds since 1970.
// Times are Numbers; answer with Numbers (a BigInt traps, without a word).

import * as log from "latchkey:policy/log@1.0.0";

const schema = {
  $schema: "https://json-schema.org/draft/2020-12/schema",
  type: "object",
  required: ["maxPerDay"],
  additionalProperties: false,
  properties: { maxPerDay: { type: "integer", minimum: 1 } },
};

export const hooks = {
  describe() {
    return {
      name: "{{name}}",
      version: "0.1.0",
      summary: "At most so many resets by one admin in a day.",
      hooks: ["before-reset"],
      wants: [],
      historyDays: 1,
      configSchema: JSON.stringify(schema),
    };
  },

  // What the schema cannot say. An error's text goes to the operator: throw a string.
  checkConfig(text) {
    const { maxPerDay } = JSON.parse(text);
    if (!(maxPerDay >= 1)) throw "/maxPerDay: must be at least 1";
  },

  beforeReset(question, text) {
    const { maxPerDay } = JSON.parse(text);
    const used = question.history.actorResetsLastDay;
    if (used < maxPerDay) return { tag: "allow", val: [] };
    log.write("info", `${question.actor.email} has used up the day's resets`);
    return {
      tag: "deny",
      val: {
        code: "daily-limit",
        message: "You have reached today's number of resets.",
        allowedFrom: undefined,
        because: [{ name: "actor-resets-last-day", value: String(used) }],
      },
    };
  },

  // Effects, such as { tag: "require-enrolment", val: 24 }. Name them in `wants`, and the hook in `hooks`.
  afterReset(question, outcome, text) {
    return [];
  },
};

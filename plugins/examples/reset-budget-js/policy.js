// At most N resets of one user in D days, and at most N by one admin in a day.
// The same policy as ../reset-budget, answer for answer: it passes the same golden cases.

const DAY_MS = 86_400_000;

const integer = (minimum, maximum) => ({ type: "integer", minimum, maximum });
const object = (properties, more) => ({ type: "object", additionalProperties: false, properties, ...more });
const schema = {
  $schema: "https://json-schema.org/draft/2020-12/schema",
  title: "reset-budget",
  ...object(
    {
      perUser: object({ max: integer(1, 100), days: integer(1, 90) }, { required: ["max", "days"] }),
      perAdmin: object({ maxPerDay: integer(1, 1000) }, { required: ["maxPerDay"] }),
    },
    { minProperties: 1 },
  ),
};

// Throws "/path: reason" where `value` has an unknown key, lacks one, or holds no whole number in range.
function check(path, value, fields) {
  const names = Object.keys(fields);
  const quoted = names.map((name) => `\`${name}\``).join(names.length > 2 ? ", " : " or ");
  const expected = names.length > 2 ? `one of ${quoted}` : quoted;
  for (const key of Object.keys(value)) {
    if (!names.includes(key)) throw `${path}/${key}: unknown field \`${key}\`, expected ${expected}`;
    const number = value[key];
    if (typeof number !== "number") throw `${path}/${key}: invalid type: ${typeof number} ${JSON.stringify(number)}, expected u32`;
    const [least, most] = fields[key];
    if (!Number.isInteger(number) || number < least || number > most) throw `${path}/${key}: must be from ${least} to ${most}`;
  }
  for (const name of names) {
    if (!(name in value)) throw `${path}: missing field \`${name}\``;
  }
}

function parse(text) {
  const config = JSON.parse(text || "{}");
  for (const key of Object.keys(config)) {
    if (key === "perUser") check("/perUser", config.perUser, { max: [1, 100], days: [1, 90] });
    else if (key === "perAdmin") check("/perAdmin", config.perAdmin, { maxPerDay: [1, 1000] });
    else throw `/${key}: unknown field \`${key}\`, expected \`perUser\` or \`perAdmin\``;
  }
  if (!config.perUser && !config.perAdmin) throw "needs perUser, perAdmin or both";
  return config;
}

// What of a budget is used up in a window that ends now: an upper bound, since the host's counts
// include resets still under way, which no list has yet.
function spent(past, now, days, countedLastDay, countedLast30Days) {
  const window = days * DAY_MS;
  const leavesAt = past
    .filter((reset) => reset.outcome === "done")
    .map((reset) => reset.at + window)
    .filter((at) => at > now)
    .sort((a, b) => a - b);
  const lastDay = leavesAt.filter((at) => at - window + DAY_MS > now).length;
  const underWay = Math.max(0, countedLastDay - lastDay);
  return { resets: Math.max(leavesAt.length + underWay, countedLast30Days), leavesAt };
}

function deny(code, message, { resets, leavesAt }, max, facts) {
  const because = facts.map(([name, value]) => ({ name, value: String(value) }));
  // Unknown where a reset that would have to leave the window is not listed.
  return { tag: "deny", val: { code, message, allowedFrom: leavesAt[resets - max], because } };
}

export const hooks = {
  describe() {
    return {
      name: "reset-budget",
      version: "1.0.0",
      summary: "At most so many resets of one user in some days, and by one admin in a day.",
      hooks: ["before-reset"],
      wants: [],
      historyDays: 90,
      configSchema: JSON.stringify(schema),
    };
  },

  // An error's text goes to the operator: throw a string.
  checkConfig(text) {
    parse(text);
  },

  beforeReset({ history, request }, text) {
    const { perUser, perAdmin } = parse(text);
    if (perUser) {
      const { max, days } = perUser;
      const last30Days = days >= 30 ? history.targetResetsLast30Days : 0;
      const used = spent(history.ofTarget, request.at, days, history.targetResetsLastDay, last30Days);
      if (used.resets >= max) {
        const times = max === 1 ? "once" : `${max} times`;
        const span = days === 1 ? "24 hours" : `${days} days`;
        const facts = [["target-resets", used.resets], ["max", max], ["days", days]];
        return deny("user-reset-budget", `This user may be reset ${times} in ${span}.`, used, max, facts);
      }
    }
    if (perAdmin) {
      const max = perAdmin.maxPerDay;
      const used = spent(history.byActor, request.at, 1, history.actorResetsLastDay, 0);
      if (used.resets >= max) {
        const resets = max === 1 ? "1 reset" : `${max} resets`;
        const facts = [["actor-resets-last-day", used.resets], ["max-per-day", max]];
        return deny("admin-reset-budget", `An admin may carry out ${resets} in 24 hours.`, used, max, facts);
      }
    }
    return { tag: "allow", val: [] };
  },

  afterReset() {
    return [];
  },
};

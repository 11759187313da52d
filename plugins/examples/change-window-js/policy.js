// Resets only within the organisation's hours, in its time zone, daylight saving included.
// The same policy as ../change-window, answer for answer: it passes the same golden cases.
// QuickJS has no Intl; the time zones come bundled with moment-timezone.

import moment from "moment-timezone/builds/moment-timezone-with-data-10-year-range.js";

const DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const KEYS = ["timeZone", "days", "from", "to"];

const schema = {
  $schema: "https://json-schema.org/draft/2020-12/schema",
  title: "change-window",
  type: "object",
  required: KEYS,
  additionalProperties: false,
  properties: {
    timeZone: { type: "string", minLength: 1, maxLength: 64 },
    days: { type: "array", minItems: 1, maxItems: 7, uniqueItems: true, items: { enum: DAYS } },
    from: { type: "string", pattern: "^([01][0-9]|2[0-3]):[0-5][0-9]$" },
    to: { type: "string", pattern: "^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$" },
  },
};

const CLOCK = /^([01][0-9]|2[0-3]):([0-5][0-9])$/;
const list = (names) => names.map((name) => `\`${name}\``).join(", ");

function parse(text) {
  const config = JSON.parse(text || "{}");
  for (const key of Object.keys(config)) {
    if (!KEYS.includes(key)) throw `/${key}: unknown field \`${key}\`, expected one of ${list(KEYS)}`;
  }
  for (const key of KEYS) {
    if (!(key in config)) throw `missing field \`${key}\``;
  }
  const { timeZone, days, from, to } = config;
  days.forEach((day, at) => {
    if (!DAYS.includes(day)) throw `/days/${at}: unknown variant \`${day}\`, expected one of ${list(DAYS)}`;
  });
  if (!moment.tz.zone(timeZone)) throw `/timeZone: no IANA time zone is called ${JSON.stringify(timeZone)}`;
  if (days.length === 0) throw "/days: must name at least one day";
  days.forEach((day, at) => {
    if (days.indexOf(day) < at) throw `/days/${at}: is named twice`;
  });
  if (!CLOCK.test(from)) throw "/from: must be a time such as 08:00";
  if (!CLOCK.test(to) && to !== "24:00") throw "/to: must be a time such as 18:00, or 24:00";
  if (from === to) throw "/to: must differ from `from`; all day is 00:00 to 24:00";
  return config;
}

const weekday = (date) => DAYS[date.isoWeekday() - 1];
const shifted = (date, days) => date.clone().add(days, "days");

// A local time that a change of clocks skips is moved on by the gap; one that comes twice is the first.
function instant(date, clock, timeZone) {
  const [hour, minute] = clock.split(":").map(Number);
  return moment.tz([date.year(), date.month(), date.date(), hour % 24, minute], timeZone).valueOf();
}

export const hooks = {
  describe() {
    return {
      name: "change-window",
      version: "1.0.0",
      summary: "Resets only within the organisation's hours.",
      hooks: ["before-reset"],
      wants: [],
      historyDays: 0,
      configSchema: JSON.stringify(schema),
    };
  },

  checkConfig(text) {
    parse(text);
  },

  beforeReset({ request }, text) {
    const { timeZone, days, from, to } = parse(text);
    const now = request.at;
    const local = moment.tz(now, timeZone);
    // Calendar days are counted in UTC, where each has 24 hours.
    const today = moment.utc([local.year(), local.month(), local.date()]);
    const overMidnight = to === "24:00" || to <= from;
    const opens = (day) => instant(day, from, timeZone);
    const closes = (day) => instant(overMidnight ? shifted(day, 1) : day, to, timeZone);
    for (const day of [shifted(today, -1), today]) {
      if (days.includes(weekday(day)) && opens(day) <= now && now < closes(day)) return { tag: "allow", val: [] };
    }
    let allowedFrom;
    for (let ahead = 0; ahead < 9 && allowedFrom === undefined; ahead++) {
      const day = shifted(today, ahead);
      if (days.includes(weekday(day)) && opens(day) > now) allowedFrom = opens(day);
    }
    const named = DAYS.filter((day) => days.includes(day)).join(", ");
    const because = [
      { name: "local-time", value: local.format("YYYY-MM-DDTHH:mm") },
      { name: "weekday", value: weekday(local) },
      { name: "time-zone", value: timeZone },
    ];
    const message = `Resets are allowed on ${named} from ${from} to ${to} (${timeZone}).`;
    return { tag: "deny", val: { code: "outside-change-window", message, allowedFrom, because } };
  },

  afterReset() {
    return [];
  },
};

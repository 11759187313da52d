// At most N resets of one user in D days, and at most N by one admin in a day.
// The same policy as ../reset-budget, answer for answer: it passes the same golden cases.

#include "json.h"
#include "text.h"

#define DAY_MS 86400000ULL

typedef latchkey_policy_types_list_past_reset_t past_resets;
typedef latchkey_policy_types_attribute_t attribute;

static const char SCHEMA[] =
    "{\"$schema\":\"https://json-schema.org/draft/2020-12/schema\",\"title\":\"reset-budget\","
    "\"type\":\"object\",\"minProperties\":1,\"additionalProperties\":false,\"properties\":{"
    "\"perUser\":{\"type\":\"object\",\"required\":[\"max\",\"days\"],\"additionalProperties\":false,\"properties\":{"
    "\"max\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":100},"
    "\"days\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":90}}},"
    "\"perAdmin\":{\"type\":\"object\",\"required\":[\"maxPerDay\"],\"additionalProperties\":false,\"properties\":{"
    "\"maxPerDay\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":1000}}}}}";

// 0 is "not set": every bound begins at 1.
typedef struct { unsigned user_max, user_days, admin_max; } budgets;
typedef struct { const char *name; unsigned most, *value; } field;

static const char *terminated(json_text name) {
  char *copy = calloc(name.length + 1, 1);
  if (!copy) __builtin_trap();
  return memcpy(copy, name.at, name.length);
}

// Reads one object of whole numbers; false with *error set where it is not as it should be.
static bool read_fields(json *j, const char *path, const field *fields, size_t count, policy_string_t *error) {
  if (!json_enter(j)) { *error = text(path, ": must be an object"); return false; }
  json_text name;
  while (json_next(j, &name)) {
    const char *key = terminated(name);
    const field *known = NULL;
    for (size_t i = 0; i < count; i++) if (json_is(name, fields[i].name)) known = &fields[i];
    if (!known) {
      *error = text(path, "/", key, ": unknown field `", key, "`, expected `", fields[0].name, "`",
                    count > 1 ? " or `" : "", count > 1 ? fields[1].name : "", count > 1 ? "`" : "");
      return false;
    }
    if (json_peek(j) == '"') {
      *error = text(path, "/", key, ": invalid type: string \"", terminated(json_string(j)), "\", expected u32");
      return false;
    }
    if (!json_number(j, known->value) || *known->value < 1 || *known->value > known->most) {
      *error = text(path, "/", key, ": must be from 1 to ", digits(known->most));
      return false;
    }
  }
  for (size_t i = 0; i < count && !j->bad; i++) {
    if (*fields[i].value == 0) { *error = text(path, ": missing field `", fields[i].name, "`"); return false; }
  }
  return true;
}

static bool read_config(const policy_string_t *config, budgets *budgets, policy_string_t *error) {
  json j = {(const char *)config->ptr, (const char *)config->ptr + config->len, false};
  const field user[] = {{"max", 100, &budgets->user_max}, {"days", 90, &budgets->user_days}};
  const field admin[] = {{"maxPerDay", 1000, &budgets->admin_max}};
  json_text name;
  if (!json_enter(&j)) { *error = text("must be a JSON object"); return false; }
  while (json_next(&j, &name)) {
    bool read;
    if (json_is(name, "perUser")) {
      read = read_fields(&j, "/perUser", user, 2, error);
    } else if (json_is(name, "perAdmin")) {
      read = read_fields(&j, "/perAdmin", admin, 1, error);
    } else {
      const char *key = terminated(name);
      *error = text("/", key, ": unknown field `", key, "`, expected `perUser` or `perAdmin`");
      read = false;
    }
    if (!read) return false;
  }
  if (j.bad) { *error = text("not JSON"); return false; }
  if (!budgets->user_max && !budgets->admin_max) { *error = text("needs perUser, perAdmin or both"); return false; }
  return true;
}

// What of a budget is used up in a window that ends now.
typedef struct {
  unsigned resets;      // an upper bound: with resets still under way, which no list has yet
  uint64_t *leaves_at;  // when each listed reset leaves the window, soonest first
  size_t listed;
} spent;

static int sooner(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return (x > y) - (x < y);
}

static spent count(const past_resets *past, uint64_t now, unsigned days, unsigned last_day, unsigned last_30_days) {
  uint64_t window = days * DAY_MS;
  spent s = {0, malloc((past->len + 1) * sizeof(uint64_t)), 0};
  if (!s.leaves_at) __builtin_trap();
  unsigned listed_last_day = 0;
  for (size_t i = 0; i < past->len; i++) {
    uint64_t at = past->ptr[i].at;
    if (past->ptr[i].outcome != LATCHKEY_POLICY_TYPES_RESULT_KIND_DONE || at > UINT64_MAX - window) continue;
    if (at + window <= now) continue;
    s.leaves_at[s.listed++] = at + window;
    listed_last_day += at + DAY_MS > now;
  }
  qsort(s.leaves_at, s.listed, sizeof(uint64_t), sooner);
  unsigned under_way = last_day > listed_last_day ? last_day - listed_last_day : 0;
  s.resets = (unsigned)s.listed + under_way;
  if (s.resets < last_30_days) s.resets = last_30_days;
  return s;
}

static void deny(exports_latchkey_policy_hooks_verdict_t *verdict, const char *code, policy_string_t message,
                 const spent *s, unsigned max, const attribute *facts, size_t fact_count) {
  latchkey_policy_types_denial_t *denial = &verdict->val.deny;
  verdict->tag = LATCHKEY_POLICY_TYPES_VERDICT_DENY;
  denial->code = text(code);
  denial->message = message;
  // Unknown where a reset that would have to leave the window is not listed.
  denial->allowed_from.is_some = s->resets - max < s->listed;
  if (denial->allowed_from.is_some) denial->allowed_from.val = s->leaves_at[s->resets - max];
  denial->because.len = fact_count;
  denial->because.ptr = malloc(fact_count * sizeof(attribute));
  if (!denial->because.ptr) __builtin_trap();
  memcpy(denial->because.ptr, facts, fact_count * sizeof(attribute));
}

static attribute fact(const char *name, unsigned value) { return (attribute){text(name), text(digits(value))}; }

void exports_latchkey_policy_hooks_describe(exports_latchkey_policy_hooks_manifest_t *manifest) {
  memset(manifest, 0, sizeof *manifest);
  manifest->name = text("reset-budget");
  manifest->version = text("1.0.0");
  manifest->summary = text("At most so many resets of one user in some days, and by one admin in a day.");
  manifest->hooks.len = 1;
  manifest->hooks.ptr = calloc(1, 1);
  if (!manifest->hooks.ptr) __builtin_trap();
  manifest->hooks.ptr[0] = LATCHKEY_POLICY_TYPES_HOOK_BEFORE_RESET;
  manifest->history_days = 90;
  manifest->config_schema = text(SCHEMA);
}

bool exports_latchkey_policy_hooks_check_config(policy_string_t *config, policy_string_t *error) {
  budgets budgets = {0};
  return read_config(config, &budgets, error);
}

bool exports_latchkey_policy_hooks_before_reset(exports_latchkey_policy_hooks_question_t *question,
                                                policy_string_t *config,
                                                exports_latchkey_policy_hooks_verdict_t *verdict,
                                                policy_string_t *error) {
  budgets budgets = {0};
  memset(verdict, 0, sizeof *verdict);  // allow, without effects
  if (!read_config(config, &budgets, error)) return false;
  const latchkey_policy_types_history_t *history = &question->history;
  uint64_t now = question->request.at;

  if (budgets.user_max) {
    unsigned max = budgets.user_max, days = budgets.user_days;
    unsigned last_30_days = days >= 30 ? history->target_resets_last_30_days : 0;
    spent s = count(&history->of_target, now, days, history->target_resets_last_day, last_30_days);
    if (s.resets >= max) {
      policy_string_t message = text("This user may be reset ", max == 1 ? "once" : digits(max),
                                     max == 1 ? "" : " times", " in ", days == 1 ? "24 hours" : digits(days),
                                     days == 1 ? "." : " days.");
      attribute facts[] = {fact("target-resets", s.resets), fact("max", max), fact("days", days)};
      deny(verdict, "user-reset-budget", message, &s, max, facts, 3);
      return true;
    }
  }
  if (budgets.admin_max) {
    unsigned max = budgets.admin_max;
    spent s = count(&history->by_actor, now, 1, history->actor_resets_last_day, 0);
    if (s.resets >= max) {
      policy_string_t message =
          text("An admin may carry out ", digits(max), max == 1 ? " reset" : " resets", " in 24 hours.");
      attribute facts[] = {fact("actor-resets-last-day", s.resets), fact("max-per-day", max)};
      deny(verdict, "admin-reset-budget", message, &s, max, facts, 2);
    }
  }
  return true;
}

bool exports_latchkey_policy_hooks_after_reset(exports_latchkey_policy_hooks_question_t *question,
                                               exports_latchkey_policy_hooks_outcome_t *outcome,
                                               policy_string_t *config,
                                               exports_latchkey_policy_hooks_list_effect_t *effects,
                                               policy_string_t *error) {
  memset(effects, 0, sizeof *effects);
  return true;
}

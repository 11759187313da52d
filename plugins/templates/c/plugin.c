// At most so many resets by one admin in a day. Start here and make it yours.
// Types and functions are in sdk/policy.h, generated from wit/policy.wit; times are milliseconds since 1970.

#include "json.h"
#include "text.h"

static const char SCHEMA[] =
    "{\"$schema\":\"https://json-schema.org/draft/2020-12/schema\",\"type\":\"object\",\"required\":[\"maxPerDay\"],"
    "\"additionalProperties\":false,\"properties\":{\"maxPerDay\":{\"type\":\"integer\",\"minimum\":1}}}";

static bool read_config(const policy_string_t *config, unsigned *max_per_day, policy_string_t *error) {
  json j = {(const char *)config->ptr, (const char *)config->ptr + config->len, false};
  json_text name;
  *max_per_day = 0;
  if (json_enter(&j)) {
    while (json_next(&j, &name)) {
      if (!json_is(name, "maxPerDay") || !json_number(&j, max_per_day)) j.bad = true;
    }
  } else {
    j.bad = true;
  }
  if (!j.bad && *max_per_day >= 1) return true;
  *error = j.bad ? text("must be {\"maxPerDay\": number}") : text("/maxPerDay: must be at least 1");
  return false;
}

void exports_latchkey_policy_hooks_describe(exports_latchkey_policy_hooks_manifest_t *manifest) {
  static latchkey_policy_types_hook_t hooks[] = {LATCHKEY_POLICY_TYPES_HOOK_BEFORE_RESET};
  memset(manifest, 0, sizeof *manifest);
  manifest->name = text("{{name}}");
  manifest->version = text("0.1.0");
  manifest->summary = text("At most so many resets by one admin in a day.");
  // What an answer points at is given to free() after the call, so it has to come from malloc.
  manifest->hooks.len = 1;
  manifest->hooks.ptr = malloc(sizeof hooks);
  if (!manifest->hooks.ptr) __builtin_trap();
  memcpy(manifest->hooks.ptr, hooks, sizeof hooks);
  manifest->history_days = 1;
  manifest->config_schema = text(SCHEMA);
}

// What the schema cannot say. The error's text goes to the operator.
bool exports_latchkey_policy_hooks_check_config(policy_string_t *config, policy_string_t *error) {
  unsigned max_per_day;
  return read_config(config, &max_per_day, error);
}

bool exports_latchkey_policy_hooks_before_reset(exports_latchkey_policy_hooks_question_t *question,
                                                policy_string_t *config,
                                                exports_latchkey_policy_hooks_verdict_t *verdict,
                                                policy_string_t *error) {
  unsigned max_per_day, used = question->history.actor_resets_last_day;
  memset(verdict, 0, sizeof *verdict);  // allow, without effects
  if (!read_config(config, &max_per_day, error)) return false;
  if (used < max_per_day) return true;
  latchkey_policy_types_denial_t *denial = &verdict->val.deny;
  verdict->tag = LATCHKEY_POLICY_TYPES_VERDICT_DENY;
  denial->code = text("daily-limit");
  denial->message = text("You have reached today's number of resets.");
  denial->because.len = 1;
  denial->because.ptr = malloc(sizeof *denial->because.ptr);
  if (!denial->because.ptr) __builtin_trap();
  denial->because.ptr[0].name = text("actor-resets-last-day");
  denial->because.ptr[0].value = text(digits(used));
  return true;
}

// Effects. Name them in `wants`, and the hook in `hooks`.
bool exports_latchkey_policy_hooks_after_reset(exports_latchkey_policy_hooks_question_t *question,
                                               exports_latchkey_policy_hooks_outcome_t *outcome,
                                               policy_string_t *config,
                                               exports_latchkey_policy_hooks_list_effect_t *effects,
                                               policy_string_t *error) {
  memset(effects, 0, sizeof *effects);  // none
  return true;
}

//! At most N resets of one user in D days, and at most N by one admin in a day.

use latchkey_policy::{prelude::*, time::DAY_MS, types::PastReset};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Config {
    per_user: Option<PerUser>,
    per_admin: Option<PerAdmin>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PerUser {
    max: u32,
    days: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PerAdmin {
    max_per_day: u32,
}

struct ResetBudget;

impl Policy for ResetBudget {
    type Config = Config;

    const MANIFEST: Manifest = Manifest {
        name: "reset-budget",
        version: env!("CARGO_PKG_VERSION"),
        summary: "At most so many resets of one user in some days, and by one admin in a day.",
        hooks: &[Hook::BeforeReset],
        wants: &[],
        history_days: 90,
        config_schema: include_str!("../config.schema.json"),
    };

    fn check(config: &Config) -> Result<(), String> {
        if let Some(PerUser { max, days }) = config.per_user {
            ensure((1..=100).contains(&max), "/perUser/max", "must be from 1 to 100")?;
            ensure((1..=90).contains(&days), "/perUser/days", "must be from 1 to 90")?;
        }
        if let Some(PerAdmin { max_per_day }) = config.per_admin {
            ensure((1..=1000).contains(&max_per_day), "/perAdmin/maxPerDay", "must be from 1 to 1000")?;
        }
        let some = config.per_user.is_some() || config.per_admin.is_some();
        if some { Ok(()) } else { Err("needs perUser, perAdmin or both".into()) }
    }

    fn before_reset(question: &Question, config: &Config) -> Decision {
        let history = &question.history;
        let now = question.request.at;
        if let Some(PerUser { max, days }) = config.per_user {
            let last_30_days = if days >= 30 { history.target_resets_last_30_days } else { 0 };
            let spent = Spent::count(&history.of_target, now, days, history.target_resets_last_day, last_30_days);
            if spent.resets >= max {
                let times = if max == 1 { "once".into() } else { format!("{max} times") };
                let span = if days == 1 { "24 hours".into() } else { format!("{days} days") };
                return deny("user-reset-budget", format!("This user may be reset {times} in {span}."))
                    .allowed_from(spent.below(max))
                    .because("target-resets", spent.resets)
                    .because("max", max)
                    .because("days", days)
                    .into();
            }
        }
        if let Some(PerAdmin { max_per_day: max }) = config.per_admin {
            let spent = Spent::count(&history.by_actor, now, 1, history.actor_resets_last_day, 0);
            if spent.resets >= max {
                let resets = if max == 1 { "1 reset".into() } else { format!("{max} resets") };
                return deny("admin-reset-budget", format!("An admin may carry out {resets} in 24 hours."))
                    .allowed_from(spent.below(max))
                    .because("actor-resets-last-day", spent.resets)
                    .because("max-per-day", max)
                    .into();
            }
        }
        allow()
    }
}

// What of a budget is used up in a window that ends now.
struct Spent {
    // Upper bound: with resets still under way, which no list has yet.
    resets: u32,
    // When each listed reset leaves the window, soonest first.
    leaves_at: Vec<TimestampMs>,
}

impl Spent {
    fn count(past: &[PastReset], now: TimestampMs, days: u32, counted_last_day: u32, counted_last_30_days: u32) -> Self {
        let window = u64::from(days) * DAY_MS;
        let done = past.iter().filter(|past| past.outcome == ResultKind::Done);
        let mut leaves_at: Vec<_> = done.map(|past| past.at.saturating_add(window)).filter(|&at| at > now).collect();
        leaves_at.sort_unstable();
        let last_day = leaves_at.iter().filter(|&&at| (at - window).saturating_add(DAY_MS) > now).count() as u32;
        let under_way = counted_last_day.saturating_sub(last_day);
        let resets = (leaves_at.len() as u32).saturating_add(under_way).max(counted_last_30_days);
        Self { resets, leaves_at }
    }

    // From when on fewer than `max` are left, if the resets that have to leave are all listed.
    fn below(&self, max: u32) -> Option<TimestampMs> {
        self.leaves_at.get((self.resets - max) as usize).copied()
    }
}

latchkey_policy::export!(ResetBudget);

#[cfg(test)]
mod tests {
    use super::{DAY_MS, PastReset, ResetBudget, ResultKind, Spent};

    fn past(at: u64) -> PastReset {
        let id = String::new;
        PastReset { at, actor_id: id(), target_id: id(), outcome: ResultKind::Done, ticket: None }
    }

    #[test]
    fn golden_cases() {
        latchkey_policy::golden::run::<ResetBudget>("cases");
    }

    #[test]
    fn a_reset_leaves_the_window_on_the_millisecond() {
        let now = 100 * DAY_MS;
        let spent = |at| Spent::count(&[past(at)], now, 7, 0, 0).resets;
        assert_eq!(spent(now - 7 * DAY_MS), 0);
        assert_eq!(spent(now - 7 * DAY_MS + 1), 1);
    }

    #[test]
    fn what_is_under_way_counts_and_makes_the_end_unknown() {
        let now = 100 * DAY_MS;
        let list = [past(now - 1), past(now - 2 * DAY_MS)];
        let spent = Spent::count(&list, now, 7, 3, 0);
        assert_eq!(spent.resets, 4);
        assert_eq!(spent.below(4), Some(now + 5 * DAY_MS));
        assert_eq!(spent.below(3), Some(now + 7 * DAY_MS - 1));
        assert_eq!(spent.below(2), None);
    }

    #[test]
    fn times_at_the_end_of_the_range_do_not_overflow() {
        let spent = Spent::count(&[past(u64::MAX)], u64::MAX - 1, 90, u32::MAX, u32::MAX);
        assert_eq!(spent.resets, u32::MAX);
        assert_eq!(spent.below(u32::MAX), Some(u64::MAX));
    }
}

//! Resets only within the organisation's hours, in its time zone, daylight saving included.

mod zone;

use jiff::{
    Timestamp,
    civil::{Date, DateTime, Time},
    tz::TimeZone,
};
use latchkey_policy::prelude::*;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Config {
    time_zone: String,
    days: Vec<Day>,
    from: String,
    to: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

struct ChangeWindow;

impl Policy for ChangeWindow {
    type Config = Config;

    const MANIFEST: Manifest = Manifest {
        name: "change-window",
        version: env!("CARGO_PKG_VERSION"),
        summary: "Resets only within the organisation's hours.",
        hooks: &[Hook::BeforeReset],
        wants: &[],
        history_days: 0,
        config_schema: include_str!("../config.schema.json"),
    };

    fn check(config: &Config) -> Result<(), String> {
        Window::new(config, Timestamp::MIN).map(|_| ())
    }

    fn before_reset(question: &Question, config: &Config) -> Decision {
        let now = i64::try_from(question.request.at).ok().and_then(|at| Timestamp::from_millisecond(at).ok());
        let now = now.ok_or("the request's time is out of range")?;
        let window = Window::new(config, now)?;
        let local = window.zone.to_datetime(now);
        let opens = match window.at(now, local.date()) {
            State::Open => return allow(),
            State::Closed { opens } => opens,
        };
        let days: Vec<_> = Day::ALL.into_iter().filter(|day| config.days.contains(day)).map(Day::name).collect();
        let (zone, from, to) = (&config.time_zone, &config.from, &config.to);
        let message = format!("Resets are allowed on {} from {from} to {to} ({zone}).", days.join(", "));
        deny("outside-change-window", message)
            .allowed_from(opens.and_then(|opens| u64::try_from(opens.as_millisecond()).ok()))
            .because("local-time", minutes(local))
            .because("weekday", Day::of(local.date()).name())
            .because("time-zone", zone.as_str())
            .into()
    }
}

// A configuration that was found sound.
struct Window<'a> {
    zone: TimeZone,
    days: &'a [Day],
    from: Time,
    to: Time,
    // Whether `to` is on the day after.
    over_midnight: bool,
}

enum State {
    Open,
    Closed { opens: Option<Timestamp> },
}

impl<'a> Window<'a> {
    // For instants from a week before `now` on.
    fn new(config: &'a Config, now: Timestamp) -> Result<Self, String> {
        let zone = zone::around(&config.time_zone, now);
        let zone = zone.ok_or_else(|| format!("/timeZone: no IANA time zone is called {:?}", config.time_zone))?;
        let days = config.days.as_slice();
        ensure(!days.is_empty(), "/days", "must name at least one day")?;
        for (at, day) in days.iter().enumerate() {
            ensure(!days[..at].contains(day), &format!("/days/{at}"), "is named twice")?;
        }
        let from = clock(&config.from).ok_or("/from: must be a time such as 08:00")?;
        let midnight = Time::midnight();
        let to = if config.to == "24:00" { Some(midnight) } else { clock(&config.to) };
        let to = to.ok_or("/to: must be a time such as 18:00, or 24:00")?;
        ensure(config.from != config.to, "/to", "must differ from `from`; all day is 00:00 to 24:00")?;
        Ok(Self { zone, days, from, to, over_midnight: to <= from })
    }

    // `today` is the local date at `now`.
    fn at(&self, now: Timestamp, today: Date) -> State {
        // The window that is open may have opened yesterday. Most requests come on the day that it opened.
        for day in [Some(today), today.yesterday().ok()].into_iter().flatten() {
            if self.opens(day).is_some_and(|opens| opens <= now) && self.closes(day).is_some_and(|closes| now < closes) {
                return State::Open;
            }
        }
        // The next one opens within a week, or a day later where a change of clocks shifts it.
        let mut days = core::iter::successors(Some(today), |day| day.tomorrow().ok()).take(9);
        State::Closed { opens: days.find_map(|day| self.opens(day).filter(|&opens| opens > now)) }
    }

    fn opens(&self, day: Date) -> Option<Timestamp> {
        if self.days.contains(&Day::of(day)) { self.instant(day.to_datetime(self.from)) } else { None }
    }

    fn closes(&self, opened: Date) -> Option<Timestamp> {
        let day = if self.over_midnight { opened.tomorrow().ok()? } else { opened };
        self.instant(day.to_datetime(self.to))
    }

    // A local time that a change of clocks skips is moved on by the gap; one that comes twice is the first.
    fn instant(&self, local: DateTime) -> Option<Timestamp> {
        self.zone.to_ambiguous_timestamp(local).compatible().ok()
    }
}

impl Day {
    const ALL: [Self; 7] = [Self::Mon, Self::Tue, Self::Wed, Self::Thu, Self::Fri, Self::Sat, Self::Sun];

    fn of(date: Date) -> Self {
        Self::ALL[date.weekday().to_monday_zero_offset() as usize]
    }

    fn name(self) -> &'static str {
        ["mon", "tue", "wed", "thu", "fri", "sat", "sun"][self as usize]
    }
}

// HH:MM.
fn clock(text: &str) -> Option<Time> {
    let [h1, h2, b':', m1, m2] = *text.as_bytes() else { return None };
    let number = |tens: u8, ones: u8| {
        let digits = tens.is_ascii_digit() && ones.is_ascii_digit();
        digits.then(|| ((tens - b'0') * 10 + ones - b'0') as i8)
    };
    Time::new(number(h1, h2)?, number(m1, m2)?, 0, 0).ok()
}

// YYYY-MM-DDTHH:MM.
fn minutes(local: DateTime) -> String {
    format!("{:04}-{:02}-{:02}T{:02}:{:02}", local.year(), local.month(), local.day(), local.hour(), local.minute())
}

latchkey_policy::export!(ChangeWindow);

#[cfg(test)]
mod tests {
    use super::{ChangeWindow, Config, Day, State, Timestamp, Window, clock};

    fn state(config: &Config, now: &str) -> String {
        let now: Timestamp = now.parse().expect("a time");
        let window = Window::new(config, now).expect("a sound configuration");
        match window.at(now, window.zone.to_datetime(now).date()) {
            State::Open => "open".into(),
            State::Closed { opens } => opens.expect("opens within the range of time").to_string(),
        }
    }

    fn config(time_zone: &str, days: &[Day], from: &str, to: &str) -> Config {
        Config { time_zone: time_zone.into(), days: days.into(), from: from.into(), to: to.into() }
    }

    #[test]
    fn golden_cases() {
        latchkey_policy::golden::run::<ChangeWindow>("cases");
    }

    #[test]
    fn bounds_are_from_inclusive_to_exclusive() {
        let office = config("UTC", &Day::ALL[..5], "08:00", "18:00");
        assert_eq!(state(&office, "2026-02-18T07:59:59.999Z"), "2026-02-18T08:00:00Z");
        assert_eq!(state(&office, "2026-02-18T08:00:00Z"), "open");
        assert_eq!(state(&office, "2026-02-18T17:59:59.999Z"), "open");
        assert_eq!(state(&office, "2026-02-18T18:00:00Z"), "2026-02-19T08:00:00Z");
        assert_eq!(state(&office, "2026-02-20T18:00:00Z"), "2026-02-23T08:00:00Z");
    }

    #[test]
    fn clocks_change_under_the_window() {
        // Berlin: 2026-03-29 02:00 becomes 03:00, 2026-10-25 03:00 becomes 02:00.
        let office = config("Europe/Berlin", &Day::ALL, "08:00", "18:00");
        assert_eq!(state(&office, "2026-03-28T17:00:00Z"), "2026-03-29T06:00:00Z");
        assert_eq!(state(&office, "2026-10-24T16:00:00Z"), "2026-10-25T07:00:00Z");
        let gap = config("Europe/Berlin", &[Day::Sun], "02:30", "04:00");
        assert_eq!(state(&gap, "2026-03-29T00:59:00Z"), "2026-03-29T01:30:00Z");
        assert_eq!(state(&gap, "2026-03-29T01:59:00Z"), "open");
        assert_eq!(state(&gap, "2026-03-29T02:00:00Z"), "2026-04-05T00:30:00Z");
        let fold = config("Europe/Berlin", &[Day::Sun], "02:30", "04:00");
        assert_eq!(state(&fold, "2026-10-25T00:29:00Z"), "2026-10-25T00:30:00Z");
        assert_eq!(state(&fold, "2026-10-25T02:59:00Z"), "open");
    }

    #[test]
    fn over_midnight_belongs_to_the_day_it_opens() {
        let night = config("America/New_York", &[Day::Fri], "22:00", "06:00");
        assert_eq!(state(&night, "2026-07-04T09:59:00Z"), "open");
        assert_eq!(state(&night, "2026-07-04T10:00:00Z"), "2026-07-11T02:00:00Z");
        assert_eq!(state(&night, "2026-07-03T09:00:00Z"), "2026-07-04T02:00:00Z");
    }

    #[test]
    fn a_whole_day_has_no_gap_at_midnight() {
        let always = config("Asia/Kolkata", &Day::ALL, "00:00", "24:00");
        for hour in 0..24 {
            for minute in [0, 29, 30, 59] {
                assert_eq!(state(&always, &format!("2026-02-18T{hour:02}:{minute:02}:59Z")), "open");
            }
        }
        let monday = config("Asia/Kolkata", &[Day::Mon], "00:00", "24:00");
        assert_eq!(state(&monday, "2026-02-22T18:29:59Z"), "2026-02-22T18:30:00Z");
        assert_eq!(state(&monday, "2026-02-23T18:30:00Z"), "2026-03-01T18:30:00Z");
    }

    #[test]
    fn clocks_are_two_digits_each() {
        assert!(clock("08:00").is_some() && clock("23:59").is_some());
        for text in ["8:00", "24:00", "08:60", "08.00", "08:00:00", "", "+8:00", "０8:0"] {
            assert_eq!(clock(text), None, "{text}");
        }
    }
}

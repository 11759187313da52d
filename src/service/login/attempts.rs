//! Limits on attempts at passwords and codes. Guesses are counted separately for each device and address, so
//! that nobody exhausts another's attempts: strangers slow down strangers, and a user can still log in from a
//! device or address known for their account (ASVS 6.3.1; NIST SP 800-63B-4 §3.2.2).

use jiff::Timestamp;

use super::password::Account;
use super::{LoginRequest, RequestContext, Services};
use crate::domain::Result;
use crate::domain::account::{Principal, User, UserId};
use crate::domain::credential::DeviceToken;
use crate::limiter::{Bucket, address_key};
use crate::store::{accounts, sessions};

/// The counters that an attempt was counted in; given back if it was correct.
#[derive(Debug)]
pub(super) struct Attempt(Vec<(Bucket, Vec<u8>)>);

/// Counts a password attempt. It is counted by the account as typed, so that the limit does not reveal whether
/// the account exists.
pub(super) fn admit_password(
    services: &Services,
    request: &LoginRequest,
    account: &Account,
    context: &RequestContext,
) -> Result<Attempt> {
    let typed = typed(&request.organization_slug, &request.email);
    let user = match account {
        Account::Somebody { user, .. } => Some(&**user),
        Account::Nowhere | Account::Nobody(_) => None,
    };
    admit(services, typed, user, context)
}

/// Counts a password entered within a session together with those tried at login: a stolen session gives no
/// additional guesses.
pub(super) fn admit_own_password(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
) -> Result<Attempt> {
    services
        .limiter
        .check_address(Bucket::LoginByAddress, context.ip)?;
    let user = &principal.user;
    let typed = typed(&principal.organization.slug, &user.email);
    admit(services, typed, Some(user), context)
}

fn typed(slug: &str, email: &str) -> String {
    format!("{slug}\n{}", accounts::email_key(email))
}

fn admit(
    services: &Services,
    typed: String,
    user: Option<&User>,
    context: &RequestContext,
) -> Result<Attempt> {
    let own = own_key(typed.as_bytes(), user, context);
    services.limiter.check(Bucket::LoginByAccount, &own)?;
    let mut counted = vec![(Bucket::LoginByAccount, own)];
    if user.is_none_or(|user| known_device(user, context).is_none()) {
        match services.limiter.check(Bucket::LoginByStrangers, &typed) {
            Ok(()) => counted.push((Bucket::LoginByStrangers, typed.into_bytes())),
            // If the user is admitted from a known address, the strangers' attempts still remain counted.
            Err(_) if known_address(services, user.map(|user| user.id), context)? => {}
            Err(refused) => return Err(refused),
        }
    }
    Ok(Attempt(counted))
}

/// Counts a code attempt at login: each known device separately, all other places together. All known devices
/// share a ceiling that a correct code does not give back. Otherwise an attacker who collected devices while
/// the password was enough would have as many guesses as devices, and the user's own logins would renew them.
pub(super) fn admit_code(services: &Services, user: &User, context: &RequestContext) -> Result<Attempt> {
    let device = known_device(user, context);
    let mut key = user.id.0.as_bytes().to_vec();
    if let Some(device) = device {
        key.extend_from_slice(&device.device);
    }
    services.limiter.check(Bucket::CodeByAccount, &key)?;
    if device.is_some() {
        services
            .limiter
            .check(Bucket::CodeByDevices, user.id.0.as_bytes())?;
    }
    Ok(Attempt(vec![(Bucket::CodeByAccount, key)]))
}

impl Attempt {
    /// Forgets earlier failures after a correct attempt.
    pub(super) fn forget(&self, services: &Services) {
        for (bucket, key) in &self.0 {
            services.limiter.forget(*bucket, key);
        }
    }
}

/// Decodes a device token sent by the client; `None` if it is not valid.
#[must_use]
pub fn read_device(services: &Services, token: &str, at: Timestamp) -> Option<DeviceToken> {
    DeviceToken::decode(token, services.keys.token_mac_key(), at.as_second())
}

/// Returns the token that identifies the device on which `user` just completed a login.
pub(in crate::service) fn remember_device(
    services: &Services,
    user: &User,
    context: &RequestContext,
) -> String {
    let known = known_device(user, context);
    let token = DeviceToken {
        user: user.id,
        device: known.map_or_else(|| services.entropy.bytes(), |known| known.device),
        since: context.at.as_second(),
        revision: user.revision,
    };
    token.encode(services.keys.token_mac_key())
}

fn own_key(typed: &[u8], user: Option<&User>, context: &RequestContext) -> Vec<u8> {
    let mut key = typed.to_vec();
    if let Some(device) = user.and_then(|user| known_device(user, context)) {
        key.extend_from_slice(b"\ndevice\n");
        key.extend_from_slice(&device.device);
    } else {
        key.extend_from_slice(b"\naddress\n");
        key.extend_from_slice(&address_key(context.ip));
    }
    key
}

/// Returns the requesting device if the user completed a login on it since the account last changed: a new
/// password, an enrolment, a reset and a lock are all changes.
fn known_device(user: &User, context: &RequestContext) -> Option<DeviceToken> {
    context
        .device
        .filter(|device| device.user == user.id && device.revision == user.revision)
}

/// True if the account has an active session from this address. Checked only when the strangers' limit is
/// reached.
fn known_address(services: &Services, user: Option<UserId>, context: &RequestContext) -> Result<bool> {
    let (Some(user), Some(_)) = (user, context.ip) else {
        return Ok(false);
    };
    let here = address_key(context.ip);
    let live = services
        .store
        .read(|db| sessions::find_sessions(db, user, context.at))?;
    let from = live.iter().filter_map(|row| row.ip.as_deref()?.parse().ok());
    Ok(from.map(|ip| address_key(Some(ip))).any(|there| there == here))
}

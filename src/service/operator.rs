//! The operator's actions at the node's command line: listing and creating accounts while no server runs, and
//! orders to a running server. Each change is recorded with the operator as its actor.

mod account_orders;
mod orders;

pub use account_orders::{AccountOrder, Named};
pub use orders::Order;

use super::Services;
use super::administration::{self, NewUser};
use crate::domain::account::{Organization, Role, User, Verb, may_act, may_create};
use crate::domain::audit::ActorRef;
use crate::domain::credential::{hash_password, password_problems};
use crate::domain::{Error, Result};
use crate::entropy::Entropy;
use crate::store::{Connection, accounts};

/// Length of a generated password: 21 characters of 56, more than 120 bits, and hyphens.
const GENERATED_LENGTH: usize = 24;
/// Excludes characters that people misread; no shell expands any of them.
const ALPHABET: &[u8] = b"abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789";

/// An organisation and its number of users.
#[derive(Clone, Debug)]
pub struct OrganizationSummary {
    /// The organisation.
    pub organization: Organization,
    /// Number of users.
    pub users: u64,
}

/// Returns every organisation, ordered by slug.
///
/// # Errors
/// [`Error::Internal`] if the store can't be read.
pub fn list_organizations(services: &Services) -> Result<Vec<OrganizationSummary>> {
    services.store.read(|db| {
        accounts::find_organizations(db)?
            .into_iter()
            .map(|organization| {
                let (_, users) = accounts::page_users(db, organization.id, None, 0, 0)?;
                Ok(OrganizationSummary { organization, users })
            })
            .collect()
    })
}

/// Returns the organisation with that slug.
///
/// # Errors
/// [`Error::NotFound`].
pub fn find_organization(services: &Services, slug: &str) -> Result<Organization> {
    let found = services
        .store
        .read(|db| accounts::find_organization_by_slug(db, slug))?;
    found.ok_or_else(|| Error::NotFound {
        what: "Organization",
        id: slug.to_owned(),
    })
}

/// Returns the user with that e-mail address.
///
/// # Errors
/// [`Error::NotFound`] if the organisation or the user does not exist.
pub fn find_user(services: &Services, slug: &str, email: &str) -> Result<User> {
    let organization = find_organization(services, slug)?;
    let found = services
        .store
        .read(|db| accounts::find_user_by_email(db, organization.id, email))?;
    found.ok_or_else(|| Error::NotFound {
        what: "User",
        id: email.to_owned(),
    })
}

/// Returns the users of an organisation, ordered by e-mail address.
///
/// # Errors
/// [`Error::NotFound`].
pub fn list_users(services: &Services, slug: &str) -> Result<Vec<User>> {
    let organization = find_organization(services, slug)?;
    let everybody = u64::from(u32::MAX);
    Ok(services
        .store
        .read(|db| accounts::page_users(db, organization.id, None, 0, everybody))?
        .0)
}

/// A new user, as specified by the operator.
#[derive(Clone, Debug)]
pub struct NewAccount {
    /// Slug of the organisation.
    pub slug: String,
    /// E-mail address.
    pub email: String,
    /// Display name.
    pub name: Option<String>,
    /// Role.
    pub role: Role,
}

/// Creates a user with a password: the given one, which must satisfy the organisation's rules, or a generated
/// one, which is returned to be shown once.
///
/// # Errors
/// [`Error::NotFound`] for the organisation, [`Error::Validation`], [`Error::Conflict`] if the e-mail address
/// is taken.
pub async fn create_account(
    services: &Services,
    new: NewAccount,
    password: Option<String>,
) -> Result<(User, Option<String>)> {
    let organization = find_organization(services, &new.slug)?;
    may_create(&User::operator(organization.id), &organization.settings, new.role)?;
    let generated = password.is_none();
    let password = password.unwrap_or_else(|| generate_password(&services.entropy, &organization));
    let problems = password_problems(&password, &organization.settings);
    if !problems.is_empty() {
        return Err(Error::field("password", problems.join(", ")));
    }
    let (secret, salt) = (password.clone(), services.entropy.bytes());
    let hash = services
        .hashing
        .run(None, move || hash_password(&secret, salt))
        .await?;
    let user = NewUser {
        id: None,
        email: new.email,
        name: new.name,
        role: new.role,
        password_hash: Some(hash),
    };
    let user =
        administration::create_user(services, organization.id, user, ActorRef::operator(), None).await?;
    Ok((user, generated.then_some(password)))
}

/// Checks that the operator may act on the user, by the same rule as everybody.
///
/// # Errors
/// [`Error::MayNotAct`] if not.
pub(super) fn operator_may(db: &Connection, verb: Verb, user: &User) -> Result<()> {
    let organization = accounts::find_organization(db, user.organization_id)?
        .ok_or_else(|| Error::Internal("the user's organisation is gone".into()))?;
    may_act(
        &User::operator(organization.id),
        &organization.settings,
        verb,
        user,
    )
    .map(drop)
}

/// Generates a password that satisfies any organisation's rules: upper and lower case, a digit and hyphens.
fn generate_password(entropy: &Entropy, of: &Organization) -> String {
    let length = GENERATED_LENGTH.max(of.settings.password_min_length.into());
    loop {
        let password = random_text(entropy, length);
        if password_problems(&password, &of.settings).is_empty() {
            return password;
        }
    }
}

fn random_text(entropy: &Entropy, length: usize) -> String {
    let mut text = String::with_capacity(length + length / 6);
    let mut characters = 0;
    while text.len() < length {
        let [byte] = entropy.bytes::<1>();
        // Bytes beyond the last whole multiple would make the first characters more likely.
        if usize::from(byte) < 256 / ALPHABET.len() * ALPHABET.len() {
            if characters > 0 && characters % 6 == 0 {
                text.push('-');
            }
            text.push(char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]));
            characters += 1;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::account::{OrganizationId, OrganizationSettings};

    #[test]
    fn a_generated_password_keeps_the_strictest_rules() {
        let strict = OrganizationSettings {
            password_min_length: 40,
            password_require_uppercase: true,
            password_require_lowercase: true,
            password_require_digit: true,
            password_require_special_char: true,
            ..OrganizationSettings::default()
        };
        let organization = Organization {
            id: OrganizationId(Uuid::nil()),
            slug: "strict".to_owned(),
            name: "Strict".to_owned(),
            settings: strict.clone(),
            revision: 0,
        };
        let entropy = Entropy::seeded(7);
        let passwords: Vec<_> = (0..50)
            .map(|_| generate_password(&entropy, &organization))
            .collect();
        for password in &passwords {
            assert_eq!(
                password_problems(password, &strict),
                Vec::<String>::new(),
                "{password}"
            );
        }
        let distinct: std::collections::BTreeSet<_> = passwords.iter().collect();
        assert_eq!(distinct.len(), passwords.len());
    }
}

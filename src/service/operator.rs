//! What the operator does at the node's command line: look around and make the first accounts, where no server
//! runs; and what is ordered of a server that does. Each change is on the record, with the operator as its actor.

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
/// No characters that people misread, and no word for a shell to expand.
const ALPHABET: &[u8] = b"abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789";

/// An organisation and how many users it has.
#[derive(Clone, Debug)]
pub struct OrganizationSummary {
    /// The organisation.
    pub organization: Organization,
    /// How many users it has.
    pub users: u64,
}

/// Every organisation, by slug.
///
/// # Errors
/// [`Error::Internal`] when the store can't be read.
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

/// The organisation of that slug.
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

/// The user of that e-mail address.
///
/// # Errors
/// [`Error::NotFound`] for the organisation or the user.
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

/// The users of an organisation, by e-mail address.
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

/// A new user, as the operator names one.
#[derive(Clone, Debug)]
pub struct NewAccount {
    /// Of which organisation.
    pub slug: String,
    /// E-mail address.
    pub email: String,
    /// Name shown to people.
    pub name: Option<String>,
    /// Role.
    pub role: Role,
}

/// Makes a user with a password: the given one, which must keep the organisation's rules, or a
/// generated one, which is given back to be shown once.
///
/// # Errors
/// [`Error::NotFound`] for the organisation, [`Error::Validation`], [`Error::Conflict`] when the e-mail
/// address is taken.
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

/// Whether the operator may do that to that user, by the rule that binds everybody.
///
/// # Errors
/// [`Error::MayNotAct`].
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

/// A password that keeps any organisation's rules: upper and lower case, a digit and hyphens.
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
        // Bytes beyond the last whole multiple would make the first characters likelier.
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
